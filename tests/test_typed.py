"""Named tuples of our own are used like those of typing, and refuse what those refuse."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from iotd.typed import NamedTuple


class Point(NamedTuple):
    """A place and its name."""

    x: int
    y: int = 2
    name: str = "origin"

    def sum(self) -> int:
        """Return the sum of the coordinates."""
        return self.x + self.y


class Nothing(NamedTuple):
    """Without a field."""


@pytest.mark.parametrize("made, same", [
    (Point(1), (1, 2, "origin")),
    (Point(1, name="a"), (1, 2, "a")),
    (Point(name="b", y=4, x=3), (3, 4, "b")),
    (Point(5, 6, "c"), (5, 6, "c")),
    (Nothing(), ()),
])
def test_it_is_the_tuple_of_its_fields_in_order(made: Any, same: tuple[Any, ...]) -> None:
    assert (made, hash(made), isinstance(made, tuple)) == (same, hash(same), True)


@pytest.mark.parametrize("values, named, why", [
    ((), {}, "missing 1 required positional argument: 'x'"),
    ((1, 2, "a", 3), {}, "takes from 2 to 4 positional arguments but 5 were given"),
    ((1,), {"x": 1}, "multiple values for argument 'x'"),
    ((1,), {"z": 1}, "unexpected keyword argument 'z'"),
])
def test_what_does_not_fit_the_fields_is_refused(values: tuple[Any, ...], named: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Point(*values, **named)


def test_a_field_is_read_by_its_name_and_never_written() -> None:
    point = Point(1, 5)
    assert (point.x, point.y, point.name, point.sum()) == (1, 5, "origin", 6)
    for name in ("x", "other"):
        with pytest.raises(AttributeError):
            setattr(point, name, 3)


def test_a_copy_differs_in_what_is_named_and_is_of_the_same_class() -> None:
    changed, unknown = Point(1)._replace(y=9), {"z": 1}
    assert (changed, type(changed)) == (Point(1, 9), Point)
    with pytest.raises(TypeError, match="Point has no field z"):
        Point(1)._replace(**unknown)  # type: ignore[arg-type]


def test_it_tells_its_fields() -> None:
    assert Point(1)._asdict() == {"x": 1, "y": 2, "name": "origin"}
    assert (Point._fields, Point._field_defaults) == (("x", "y", "name"), {"y": 2, "name": "origin"})
    assert repr(Point(1)) == "Point(x=1, y=2, name='origin')"


def test_it_is_matched_by_place() -> None:
    match Point(7, 8):
        case Point(x, 8, name="origin"):
            assert x == 7


def test_it_takes_no_more_memory_than_a_tuple() -> None:
    assert sys.getsizeof(Point(1)) == sys.getsizeof((1, 2, "origin"))


def test_a_value_that_is_changed_again_and_again_leaves_nothing_behind() -> None:
    point, before = Point(1), sys.getallocatedblocks()
    for number in range(1500):
        point = point._replace(y=number)
    assert sys.getallocatedblocks() - before < 150
