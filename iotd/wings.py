"""Every capability of iotd: a wing is a folder of this package and a line here, and what the YAML does not name is not
even imported.

A wing's module `section` has SECTIONS, how its keys of the YAML are read, where it has any; its module `part` has
`build`, which makes the object that the main loop drives (`iotd.daemon.part`). Parts are driven, and their keys read,
in this order. Where it `notices`, the `notice` of its module `notice` looks at the host for `iotd check`.
"""

from importlib import import_module
from typing import Any, NamedTuple


class Wing(NamedTuple):
    """A folder, its keys at the top of the YAML, the placeholders that have no value without it, and the keys in other
    sections that it alone `reads`.

    `always`: it is there whatever the file says.
    """

    name: str
    keys: tuple[str, ...]
    placeholders: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    always: bool = False
    notices: bool = False


WINGS = (
    Wing("values", ("values",)),  # first: its names are placeholders to what follows
    Wing("outgoing", ("publish", "spool"), always=True),
    Wing("incoming", ("subscribe",)),
    Wing("shadows", ("shadows",)),
    Wing("wifi", ("wifi",), placeholders=("essid", "bssid", "rssi", "frequency"), notices=True),
    Wing("provision", ("provision",)),
    Wing("local", ("local",), always=True),
    Wing("jobs", ("jobs",), placeholders=("updates_pending",)),
    Wing("home_assistant", ("home_assistant",), reads=("entities",)),
    Wing("doctor", (), always=True),
)


def sections(wing: Wing) -> dict[str, Any]:
    """Return how each of the wing's keys is read; none of a wing that has no key."""
    return dict(module(wing, "section").SECTIONS) if wing.keys else {}


def module(wing: Wing, name: str) -> Any:
    """Import a module of the wing."""
    return import_module(f"iotd.{wing.name}.{name}")
