"""What `typing` gives, for a program whose start counts: nothing of it at run time but named tuples, and those cheap.

A type checker reads typing itself. But a class of typing.NamedTuple compiles its constructor and makes each of its
methods anew: eighty of them were a tenth of iotd's start, and to load typing was some of the rest. Here the methods are
shared, and the constructor is compiled when it is first called.
"""

from __future__ import annotations

TYPE_CHECKING = False  # by this name a type checker takes it for true

if TYPE_CHECKING:
    from typing import IO as IO
    from typing import Any as Any
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import TextIO as TextIO
    from typing import TypeVar as TypeVar
else:
    from collections import _tuplegetter

    class Any:
        """Stands for all that only a type checker looks into: called or subscripted it is itself."""

        def __new__(cls, *_):
            return cls

        def __class_getitem__(cls, _):
            return cls

    IO = Literal = NoReturn = Protocol = TextIO = TypeVar = Any

    class _Kind(type):
        def __new__(kind, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            body.update((field, _tuplegetter(place, "")) for place, field in enumerate(fields))
            body.update(__slots__=(), __match_args__=fields, _fields=fields, _field_defaults=defaults,
                        _places={field: place for place, field in enumerate(fields)})
            return super().__new__(kind, name, bases, body)

    class NamedTuple(tuple, metaclass=_Kind):
        """A tuple whose places have the names, and the defaults, that its class writes down as annotations."""

        def __new__(cls, *values, **named):
            names = "".join(f"{field}, " for field in cls._fields)
            made = eval(f"lambda cls, {names}: new(cls, ({names}))", {"new": tuple.__new__})
            made.__defaults__ = tuple(cls._field_defaults.values())
            cls.__new__ = staticmethod(made)
            return made(cls, *values, **named)

        def _replace(self, **changes):
            # A list makes a tuple of the right length. One that is resized, as of an iterator, leaves another behind.
            values, places = list(self), self._places
            try:
                for name, value in changes.items():
                    values[places[name]] = value
            except KeyError as error:
                raise TypeError(f"{type(self).__name__} has no field {error.args[0]}") from None
            return tuple.__new__(type(self), values)

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"
