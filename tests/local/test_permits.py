"""What the configuration opens to programs."""

from __future__ import annotations

import pytest

from iotd.config.settings import Settings
from iotd.local import permits
from iotd.local.section import Local
from tests.kernel import settings

SHADOW = "$aws/things/test-thing/shadow/name/s/update/delta"


def opened(*publish: str, aws: bool = False) -> Settings:
    return settings({"local": Local(publish)}, aws_limits=aws)


@pytest.mark.parametrize(("filters", "topic", "retain", "aws", "why"), [
    (("a/#",), "a/b", True, False, None), (("a/#",), "a", False, False, None), (("+/b",), "a/b", False, False, None),
    ((), "a/b", False, False, "opens nothing"), (("a/#", "c"), "b", False, False, "local.publish opens a/#, c"),
    (("a/#",), "a/+", False, False, "wildcard"), (("#",), "t/will", False, False, "presence topic"),
    (("#",), "", False, False, "is empty"), (("#",), "a\0", False, False, "NUL"),
    (("#",), "$aws/rules/r/t", False, True, "does not open"), (("+/#",), "$aws/a", False, False, "does not open"),
    (("$aws/rules/r/#",), "$aws/rules/r/t", False, True, None),
    (("$aws/rules/r/#",), "$aws/rules/r/t", True, True, "cannot be retained"),
    (("$aws/#",), SHADOW, False, True, "reserved"),
    (("#",), "/".join("abcdefghi"), False, True, "slashes"), (("#",), "/".join("abcdefghi"), False, False, None),
    (("#",), "x" * 257, False, True, "at most 256"),
])
def test_a_program_publishes_where_the_configuration_and_the_broker_let_it(
    filters: tuple[str, ...], topic: str, retain: bool, aws: bool, why: str | None
) -> None:
    problem = permits.publish_problem(topic, retain, opened(*filters, aws=aws))
    assert problem is None if why is None else why in str(problem)


@pytest.mark.parametrize(("shared", "name", "why"), [
    (("a/#",), "a/#", None), (("a/#",), "a/b", None), (("a/#",), "a/+/c", None), (("a/#",), "a", None),
    (("a/+",), "a/+", None), (("a/+",), "a/b", None), (("#",), "a/#", None), (("x", "a/b"), "a/b", None),
    (("a/+",), "a/#", "it subscribes a/+"), (("a/b",), "a/+", "does not subscribe"), (("a/#",), "#", "not subscribe"),
    (("a/+",), "a/b/c", "not subscribe"), (("a/+",), "a", "not subscribe"), (("+/b",), "a/+", "not subscribe"),
    ((), "a", "subscribes nothing"), (("#",), "$SYS/x", "not subscribe"), (("a/#",), "a/#/b", "amid other text"),
    (("#",), "t/will", "iotd's own"), (("$aws/#",), SHADOW, "iotd's own"), (("a",), "", "is empty"),
])
def test_a_program_listens_to_what_is_subscribed_or_a_part_of_it(
    shared: tuple[str, ...], name: str, why: str | None
) -> None:
    problem = permits.listen_problem(name, shared, opened())
    assert problem is None if why is None else why in str(problem)


@pytest.mark.parametrize(("filters", "shared", "topic", "hears"), [
    (("a/#",), ("a/#",), "a/b", True), (("a/b", "a/c"), ("a/#",), "a/c", True), (("a/b",), ("a/#",), "a/c", False),
    (("a/b",), (), "a/b", False), (("t/#",), ("t/#",), "t/will", False), (("$aws/#",), ("$aws/#",), SHADOW, False),
])
def test_a_program_hears_what_it_listens_to_and_nothing_of_iotds_own(
    filters: tuple[str, ...], shared: tuple[str, ...], topic: str, hears: bool
) -> None:
    assert permits.hears(filters, shared, topic, opened()) == hears
