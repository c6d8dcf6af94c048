"""What a wing, or the kernel, says of one key at the top of the YAML."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from iotd.config.document import Cursor
from iotd.config.readers import LONGEST_S, seconds_of
from iotd.config.settings import Settings
from iotd.config.template import placeholders
from iotd.vocabulary import Json
from iotd.wings import WINGS

SHORTEST_S = 1.0  # a period that the cloud can set

Note = Callable[[str, str], None]  # takes the path of a key, and what is wrong there
Fill = Callable[[str], str]  # fills {thing}, {hostname}, {machine_id} and {cpu_serial} in a topic


class Setting(NamedTuple):
    """A setting that `on_delta` can open to the cloud.

    `name` is its form for a person, `pattern` matches what follows the section's key. Of the section's value and the
    match `problem` tells why it cannot be opened, `get` its value; `put` returns the section with another one, and
    raises ValueError for one of no use.
    """

    name: str
    pattern: str
    problem: Callable[[Any, re.Match[str]], str | None]
    get: Callable[[Any, re.Match[str]], Json]
    put: Callable[[Any, re.Match[str], Json], Any]


PUBLISH, RETAIN, SUBSCRIBE = "publish", "retain", "subscribe"


class Use(NamedTuple):
    """What the broker has to allow for a section: PUBLISH or RETAIN (with it) on the topics of a filter, or SUBSCRIBE.
    """

    verb: str
    filter: str


class Claim(NamedTuple):
    """What the broker has to allow a line that asks for a certificate: `client_id` begins its client ids."""

    client_id: str
    uses: tuple[Use, ...]


class Named(NamedTuple):
    """What a section names of this host, with its key: a path, or a command that it `runs`, with its arguments."""

    key: str
    words: tuple[str, ...]
    runs: bool


class Section(NamedTuple):
    """How one key is read and judged.

    `read` makes its value, `default` is that of a key that is left out, `fill` fills the topics in it. `check` notes
    what is wrong between values, with all settings before it, and `look` what can never work on this host, whose files
    it sees; `names` tells what the settings name of it. `filters` counts what it subscribes; `uses` names that and all
    that is published for it, of its value and the thing's name, and `claim` what a line without an identity of its own
    does. `iotd policy` prints these.
    `advise` notes what has no effect or is probably not meant, with all settings before it, and what the other sections
    use.
    `transient`: what it has the broker keep is cleared once nothing has it kept any more.
    `of_host`: it is in force before the device has a name. `identify` says who the device is where that is not as the
    file has it: of all settings, the host's identity and what it was given it makes those with another thing and other
    certificates, or with `is_named` false.
    """

    read: Callable[[Cursor], Any]
    default: Any = None
    fill: Callable[[Any, Fill], Any] = lambda value, fill: value
    check: Callable[[Any, Note], None] = lambda settings, note: None
    advise: Callable[[Any, Sequence[Use], Note], None] = lambda settings, others, note: None
    filters: Callable[[Any], int] = lambda value: 0
    settable: tuple[Setting, ...] = ()
    look: Callable[[Any, Note], None] = lambda settings, note: None
    names: Callable[[Any], Iterable[Named]] = lambda settings: ()
    uses: Callable[[Any, str], Iterable[Use]] = lambda value, thing: ()
    claim: Callable[[Any], Claim | None] = lambda value: None
    transient: bool = False
    of_host: bool = False
    identify: Callable[[Any, Any, Any], Any] | None = None


def advise_of_placeholders(settings: Settings, note: Note, key: str, tree: Json) -> None:
    """Note a placeholder in the tree under the key that is null because the section it belongs to is left out."""
    for wing in WINGS:
        lacking = sorted(placeholders(tree).intersection(wing.placeholders))
        if lacking and not any(name in settings.sections for name in wing.keys):
            note(key, f"{', '.join(f'{{{name}}}' for name in lacking)} is null while there is no section {wing.name}; "
                      "add it, or leave the placeholder out")


def advise_of_readers(settings: Settings, note: Note, key: str, word: str) -> None:
    """Note at the key that only a section that is left out reads what stands under this word."""
    for wing in WINGS:
        if word in wing.reads and not any(name in settings.sections for name in wing.keys):
            note(key, f"nobody is told of them while there is no section {wing.name}; write {wing.name}: {{}} in the "
                      "file, or leave them out")


def note_if(note: Note, key: str, problem: str | None) -> None:
    """Note the problem at the key, where there is one."""
    if problem:
        note(key, problem)


def period_of_an_item(key: str) -> Setting:
    """Return the setting KEY[0].every of a section that is a list of entries with an `every_s`."""
    def put(entries: tuple[Json, ...], found: re.Match[str], value: Json) -> tuple[Json, ...]:
        return with_item(entries, int(found[1]), entries[int(found[1])]._replace(every_s=_duration(value)))

    return Setting(f"{key}[0].every", r"\[([0-9]{1,4})\]\.every",
                   lambda entries, found: missing_item(key, entries, int(found[1])),
                   lambda entries, found: f"{entries[int(found[1])].every_s:g}s", put)


def missing_item(key: str, entries: tuple[Json, ...], position: int) -> str | None:
    """Return why a list has no item at this position, None where it has."""
    return None if position < len(entries) else f"{key} has no item {position}; the first is {key}[0]"


def with_item(entries: tuple[Json, ...], position: int, entry: Json) -> tuple[Json, ...]:
    """Return the list with another item at this position."""
    return (*entries[:position], entry, *entries[position + 1:])


def _duration(value: Json) -> float:
    seconds = seconds_of(value)
    if seconds is None:
        raise ValueError("expected a duration in quotes with its unit, such as \"30s\"")
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError(f"expected a duration from {SHORTEST_S:g}s to 3650d")
    return seconds
