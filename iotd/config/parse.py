"""From the text of the configuration file to Settings: the walk over its sections, and every problem at once.

Text in, values out: nothing but `impossible` and `noticed` looks at the host. Sources of the limits: AWS IoT Core
"endpoints and quotas".
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from iotd.config import base, layers, template
from iotd.config.base import value_of, with_value
from iotd.config.document import Cursor, Document, Place, Unreadable, place_of
from iotd.config.readers import identity_problem
from iotd.config.section import RETAIN, Claim, Note, Section, Use, note_if
from iotd.config.settings import Presence, Settings
from iotd.errors import ConfigError, Problem
from iotd.host.identity import Given, Identity
from iotd.host.unit import hides
from iotd.mqtt import topics
from iotd.mqtt.settings import Tls
from iotd.wings import WINGS, Wing, module
from iotd.wings import sections as sections_of


class Loaded(NamedTuple):
    """A configuration without problems, the place of every key path, and what is probably not meant; its text, as that
    of one file.
    """

    settings: Settings
    places: Mapping[str, Place]
    warnings: tuple[Problem, ...] = ()
    text: str = ""

    def problem(self, key: str, text: str) -> Problem:
        """Return a problem in the line of a key path such as `mqtt.tls.cert`, or of the nearest one above it, else 0.
        """
        line, file = place_of(self.places, key)
        return Problem(line, key, text, file)


def parse(text: str, file: str, identity: Identity, thing: str | None = None,
          above: Sequence[tuple[str, str]] = (), given: Given | None = None) -> Loaded:
    """Read the text of `file`, for the host that `identity` names and what it was `given`, or for a thing of another
    name than the file gives.

    `above` are the files that lie on top of it, each with its text. Raises ConfigError with every problem in them.
    """
    document = Document(identity.lacking())
    try:
        root = layers.merged(text, above)
        text = layers.text_of(root) if above else text
        values = _read(Cursor(root, "", document)) if root else {}
    except Unreadable as error:
        raise ConfigError(file, [Problem(error.line, "", str(error), error.file)]) from None
    if thing is not None:
        values, given = {**values, "thing": thing}, Given(thing, *Tls()[1:])
    settings = _settings(values, identity, given)
    if not any(section.identify for _, section in sections(settings)):
        written = values.get("thing", base.SECTIONS["thing"].default)
        note_if(document.note_consequence, "thing", identity_problem(written, document.lacking))
    _check(settings, document.note_consequence)
    if document.problems:
        raise ConfigError(file, document.problems)
    _advise(settings, document.warn)
    return Loaded(settings, document.places, tuple(sorted(document.warnings)), text)


def problems(settings: Settings) -> list[Problem]:
    """Return what is wrong between the values of settings that were changed after they were read."""
    found: list[Problem] = []
    _check(settings, lambda key, text: found.append(Problem(0, key, text)))
    return found


def impossible(settings: Settings) -> list[tuple[str, str]]:
    """Return, with its key, what can never work on this host; this looks at files."""
    from iotd.host.command import program_problem  # a device loads it where it runs one

    found: list[tuple[str, str]] = []
    for _, section in sections(settings):
        section.look(settings, lambda key, text: found.append((key, text)))
        for key, words, runs in section.names(settings):
            note_if(lambda key, text: found.append((key, text)), key, program_problem(words[0]) if runs else None)
    return found


def hidden(settings: Settings) -> list[tuple[str, str]]:
    """Return, with its key, what is named of this host and not there for the daemon, since its unit hides it."""
    return [(key, f"{word} is not there for the daemon: {why}") for _, section in sections(settings)
            for key, words, _ in section.names(settings) for word in words if (why := hides(word))]


def noticed(settings: Settings) -> list[tuple[str, str]]:
    """Return, with its key, what of this host is not as the settings have it now; this looks at the host."""
    found: list[tuple[str, str]] = []
    for wing in loaded_wings(settings):
        if wing.notices:
            module(wing, "notice").notice(settings.sections[wing.name], lambda key, text: found.append((key, text)))
    return found


def _advise(settings: Settings, note: Note) -> None:
    """Note what works and has no effect, or is probably not meant."""
    used = {key: list(section.uses(value_of(settings, key), settings.thing)) for key, section in sections(settings)}
    for key, section in sections(settings):
        section.advise(settings, [use for other, uses in used.items() if other != key for use in uses], note)


def in_force(settings: Settings) -> Settings:
    """Return the settings as they are in force: of a device that has no name yet what speaks of its host alone."""
    if settings.is_named:
        return settings
    kept: dict[str, Any] = {}
    for wing in loaded_wings(settings):
        for key, section in sections_of(wing).items():
            if section.of_host:
                kept[key] = settings.sections[key]
            elif wing.always:
                kept[key] = section.default
    return settings._replace(presence=Presence(""), sections=kept)


def loaded_wings(settings: Settings) -> list[Wing]:
    """Return the wings that these settings call for, in their order."""
    return [wing for wing in WINGS if wing.always or any(key in settings.sections for key in wing.keys)]


def sections(settings: Settings) -> Iterator[tuple[str, Section]]:
    """Yield each key that can stand at the top of the file and its section, those of wings that are not loaded left
    out.
    """
    yield from base.SECTIONS.items()
    for wing in loaded_wings(settings):
        yield from sections_of(wing).items()


def uses(settings: Settings) -> list[Use]:
    """Return what the broker has to allow for these settings."""
    return [use for key, section in sections(settings) for use in section.uses(value_of(settings, key), settings.thing)]


def retained_topics(settings: Settings) -> dict[str, bool]:
    """Return the topics on which these settings have the broker keep a message; True: no longer than they say so."""
    return {use.filter: section.transient for key, section in sections(settings)
            for use in section.uses(value_of(settings, key), settings.thing) if use.verb == RETAIN}


def claim(settings: Settings) -> Claim | None:
    """Return what it has to allow a line that asks for an identity, None where the settings say of none."""
    found = (section.claim(value_of(settings, key)) for key, section in sections(settings))
    return next(filter(None, found), None)


def _read(root: Cursor) -> dict[str, Any]:
    keys = {key: wing for wing in WINGS for key in wing.keys}
    order = ["thing", "mqtt", "presence", *keys, "log"]
    return root.fields({key: (key, partial(_read_section, keys.get(key), key)) for key in order})


def _read_section(wing: Wing | None, key: str, at: Cursor) -> Any:
    section: Section = base.SECTIONS[key] if wing is None else sections_of(wing)[key]
    return section.read(at)


def _settings(values: Mapping[str, Any], identity: Identity, given: Given | None) -> Settings:
    """Put defaults where the file is silent, and fill what placeholders cannot change in a run."""
    known = {key: values.get(key, section.default) for key, section in base.SECTIONS.items()}
    written = {key: value for key, value in values.items() if key not in known and value != ()}
    settings = Settings(**known, sections=written, hostname=identity.hostname)
    for wing in loaded_wings(settings):
        defaults = {key: section.default for key, section in sections_of(wing).items()}
        settings = settings._replace(sections={**defaults, **settings.sections})
    names = identity._asdict()
    settings = settings._replace(thing=template.compile_tree(settings.thing)(names))
    for _, section in sections(settings):
        if section.identify is not None:
            settings = section.identify(settings, identity, given)
    names["thing"] = settings.thing
    for key, section in sections(settings):
        filled = section.fill(value_of(settings, key), lambda topic: str(template.compile_tree(topic)(names)))
        settings = with_value(settings, key, filled)
    return settings


def _check(settings: Settings, note: Note) -> None:
    """Note what is wrong between values, and with topics and names, which had to be filled first."""
    counts = {}
    for key, section in sections(settings):
        section.check(settings, note)
        counts[key] = section.filters(value_of(settings, key))
    total = sum(counts.values())
    if settings.mqtt.aws_limits and total > topics.AWS_MAX_SUBSCRIPTIONS:
        note(max(counts, key=lambda key: counts[key]),
             f"{total} subscriptions in all ({', '.join(f'{key} {count}' for key, count in counts.items() if count)}); "
             f"AWS IoT allows {topics.AWS_MAX_SUBSCRIPTIONS}")
