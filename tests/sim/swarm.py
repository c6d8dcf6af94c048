"""What a seed draws: a configuration or several, which kinds of fault there are, how often, and when each happens.

A plan is plain values and all that a life depends on, so that one that fails can be shrunk and written down. Pure.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from tests.sim.kinds import BIRTH, GROUPS, KINDS
from tests.sim.jobs import SECTION
from tests.sim.world import LAYER

DAY_S = 86400.0
LONGEST_AT_HOME = 30.0  # days
THING = "pi"
_T = TypeVar("_T")


class Value(NamedTuple):
    """One value, which a file or a command gives, or a program tells every `tell_s` by the socket.

    `form` is its `as`, or scaled: a number of which something is made.
    """

    name: str
    source: str = "file"
    every_s: int | None = None
    max_age_s: int = 14_400
    tell_s: float = 900.0
    form: str = "number"

    @property
    def placeholder(self) -> str:
        """What a payload names of it."""
        return f"{self.name}.at.0" if self.form == "json" else self.name

    @property
    def stands(self) -> bool:
        """Whether it stands from one reading to the next."""
        return self.every_s is not None or self.source == "socket"


class Topic(NamedTuple):
    """One scheduled message; `id` is unique in a plan, and stands in each payload. `pad`: so many bytes more.

    `value` is the placeholder of the value that it tells, `change` by how much that has to change for it to be sent at
    once. `batch` payloads go together, `gzip` packs them, and `repeats` tells the value so many times more. Of an
    `entity` Home Assistant is told.
    """

    id: str
    every_s: int
    retain: bool = True
    qos: int = 1
    offline: str = "queue"
    pad: int = 0
    value: str = ""
    change: int = 0
    batch: int = 0
    gzip: bool = False
    repeats: int = 0
    entity: bool = False

    @property
    def within_s(self) -> int:
        """For how long payloads are collected."""
        return 4 * self.every_s if self.batch else 0

    @property
    def name(self) -> str:
        """The topic it is published on."""
        return f"plant/{THING}/{self.id}"


class Shadow(NamedTuple):
    """One shadow, the keys that have a command, whether one of them sets an interval, its checks, and whether programs
    join it by files.
    """

    name: str | None
    every_s: int = 3600
    commands: int = 0
    sets: bool = False
    checks: int = 0
    check_s: int = 600
    desires: bool = False
    value: str = ""
    files: bool = False


class Wifi(NamedTuple):
    """The section wifi."""

    every_s: int = 10
    grace_s: int = 120
    recover: tuple[str, ...] = ("reconnect", "restart-network", "reboot")
    max_per_day: int = 3
    min_uptime_s: int = 600


class Profile(NamedTuple):
    """One configuration. `programs` is what programs publish, `runs`: notices have a command, `home`: Home Assistant
    is told of the device, `layered`: half of it lies in /etc/iotd.d. All profiles of a plan take jobs or none does, and
    are provisioned or none is.
    """

    topics: tuple[Topic, ...] = (Topic("a0", 600),)
    shadows: tuple[Shadow, ...] = ()
    wifi: Wifi | None = None
    strict: bool = False
    max_bytes_kb: int = 65536
    max_age_h: int = 168
    clean_session: bool = False
    keepalive_s: int = 60
    aws: bool = True
    backoff_max_s: int = 120
    notices: int = 0
    debug: bool = False
    values: tuple[Value, ...] = ()
    programs: tuple[Topic, ...] = ()
    runs: bool = False
    jobs: bool = False
    renew_after_s: int | None = None  # of a certificate, where the device is provisioned; 0 for never
    home: bool = False
    layered: bool = False


class Fault(NamedTuple):
    """One thing that happens: what, when, for how long, and in which of its ways (`way`, 0 to 1)."""

    kind: str
    at_s: float
    for_s: float = 0.0
    way: float = 0.0


class Plan(NamedTuple):
    """A life: it begins with the first of the profiles; the others are what reloads bring."""

    seed: int
    days: float
    profiles: tuple[Profile, ...] = (Profile(),)
    faults: tuple[Fault, ...] = ()
    overlay: bool = False


# How long a life is, in days, and how many faults it has at most: many of them make it short.
WEATHER = {"calm": ((180.0, 365.0), 80.0), "usual": ((10.0, 30.0), 80.0), "storm": ((1.0, 3.0, 7.0), 250.0)}
PACES = {"brisk": (2, 5, 20), "usual": (600, 600, 600, 1800, 3600), "slow": (3600, 7200, 21600)}
PROGRAMS = {"a": "p", "b": "q", "c": "r"}  # by the letter of a profile that of what its programs publish


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    chance = random.Random(seed)
    brisk = chance.random() < 0.08  # messages so often that a backlog is thousands, and not for long
    weather = chance.choices(tuple(WEATHER), (6, 3, 2))[0]
    lengths, most = WEATHER[weather]
    days = chance.choice((0.25, 1.0)) if brisk else chance.choice(lengths)
    pace = "brisk" if brisk else "slow" if weather == "calm" else "usual"
    profiles = [_profile(chance, "a", pace)._replace(
        jobs=chance.random() < 0.3,
        renew_after_s=chance.choice((0, 72_000, 864_000)) if chance.random() < 0.25 else None)]
    for letter in "bc"[:chance.choice((0, 0, 1, 2))]:
        profiles.append(_changed(chance, profiles[-1], letter, pace))
    faults = _faults(chance, days, chance.uniform(0.0, most), brisk)
    plan = Plan(seed, days, tuple(profiles), tuple(faults), overlay=chance.random() < 0.08)
    profiles = [profile._replace(layered=chance.random() < 0.05) for profile in profiles]
    at_home = days <= LONGEST_AT_HOME and chance.random() < 0.25  # a state a minute is too much for a year
    return _at_home(chance, plan, profiles) if at_home else plan._replace(profiles=tuple(profiles))


def yaml_text(profile: Profile) -> str:
    """Return the configuration file."""
    provisioned = profile.renew_after_s is not None
    lines = [
        f"provision: {{template: fleet, parameters: {{SerialNumber: '{{cpu_serial}}'}}, renew: 0s, "
        f"renew_after: {profile.renew_after_s}s}}" if provisioned else f"thing: {THING}",
        f"mqtt: {{host: broker, {'tls: {}, ' if provisioned else ''}"
        f"limits: {'aws' if profile.aws else 'none'}, keepalive: {profile.keepalive_s}s, "
        f"clean_session: {_word(profile.clean_session)}, backoff: {{first: 1s, max: {profile.backoff_max_s}s}}}}",
        f"spool: {{durability: {'strict' if profile.strict else 'relaxed'}, max_bytes: {profile.max_bytes_kb}KB, "
        f"max_age: {profile.max_age_h}h}}",
    ]
    if profile.debug:
        lines.append("log: {level: debug}")
    if profile.values:
        lines.append("values:")
        lines += [_value_text(value) for value in profile.values]
    if profile.topics:
        lines.append("publish:")
        lines += [_topic_text(topic) for topic in profile.topics]
    if profile.layered:
        lines.append(LAYER)
    if profile.home:
        lines.append("home_assistant: {}")
    if profile.programs:
        lines.append(f"local: {{publish: [{', '.join(topic.name for topic in profile.programs)}]}}")
    if profile.notices:
        run = ', run: [/bin/handle, "{%s}"], timeout: 20s' if profile.runs else "%.0s"
        lines.append("subscribe:")
        lines += [f"  - {{topic: plant/all/{number}{run % what}}}"
                  for number, what in zip(range(profile.notices), ("topic", "payload"))]
    if profile.shadows:
        lines.append("shadows:")
        lines += [_shadow_text(shadow) for shadow in profile.shadows]
    if profile.wifi is not None:
        wifi = profile.wifi
        lines.append(f"wifi: {{essid: [fleet-ap], every: {wifi.every_s}s, grace: {wifi.grace_s}s, "
                     f"recover: [{', '.join(wifi.recover)}], reboot: {{max_per_day: {wifi.max_per_day}, "
                     f"min_uptime: {wifi.min_uptime_s}s}}}}")
    return "\n".join(lines) + "\n" + (SECTION if profile.jobs else "")


def _value_text(value: Value) -> str:
    given = {"file": f"file: /{value.name}", "command": f"command: [/bin/{value.name}]", "socket": "socket: true"}
    form = "number, scale: 0.5, round: 0" if value.form == "scaled" else value.form
    every = f", every: {value.every_s}s" if value.every_s is not None else ""
    age = f", max_age: {value.max_age_s}s" if value.source != "command" else ""
    return f"  {value.name}: {{{given[value.source]}, as: {form}{every}{age}}}"


def _topic_text(topic: Topic) -> str:
    told = f"v{{{topic.value}}}#" if topic.value else ""
    more = f"on_change: {{{topic.value}: {topic.change}}}, " if topic.change else ""
    more += f"batch: {{count: {topic.batch}, within: {topic.within_s}s}}, " if topic.batch else ""
    more += "encoding: gzip, " if topic.gzip else ""
    more += "entities: {key: {icon: mdi:key}}, " if topic.entity else ""
    pad = f"{{{topic.value}}}" * topic.repeats if topic.value else ""
    return (f"  - {{topic: {topic.name}, every: {topic.every_s}s, {more}retain: {_word(topic.retain)}, "
            f"qos: {topic.qos}, offline: {topic.offline}, payload: {{key: \"#{{run}}:{topic.id}:{{sequence}}#{told}\", "
            f"at: \"{{timestamp}}\", pad: \"{pad}{'x' * topic.pad}\"}}}}")


def _shadow_text(shadow: Shadow) -> str:
    actions = [f"order{number}: {{run: [/bin/order, \"{{value}}\"], timeout: 20s}}"
               for number in range(shadow.commands)]
    if shadow.sets:
        actions.append("every: {set: \"publish[0].every\"}")
    checks = [f"{{unit: check{number}.service, every: {shadow.check_s}s}}" for number in range(shadow.checks)]
    if shadow.value:
        checks.append(f"{{value: {shadow.value.partition('.')[0]}, min: 0, every: {shadow.check_s}s}}")
    told = f", level: \"{{{shadow.value}}}\"" if shadow.value else ""
    parts = [f"every: {shadow.every_s}s", f"reported: {{state: \"{{health}}\", essid: \"{{essid}}\"{told}}}"]
    parts += [] if shadow.name is None else [f"name: {shadow.name}"]
    parts += [f"on_delta: {{{', '.join(actions)}}}"] if actions else []
    parts += [f"checks: [{', '.join(checks)}]"] if checks else []
    parts += ["desired: {of_device: 1}"] if shadow.desires else []
    parts += ["files: true"] if shadow.files else []
    return f"  - {{{', '.join(parts)}}}"


def _word(value: bool) -> str:
    return "true" if value else "false"


def _profile(chance: random.Random, letter: str, pace: str) -> Profile:
    names: list[str | None] = [None, "device_0", "device_1"]
    values = tuple(_value(chance, f"v{letter}{number}", pace) for number in range(chance.choice((0, 0, 0, 1, 2))))
    count = chance.choice((0, 0, 0, 1, 1, 2) if pace == "slow" else (0, 0, 1, 1, 2, 3))
    shadows = [_shadow(chance, name, values, pace) for name in chance.sample(names, count)]
    if sum(shadow.sets for shadow in shadows) > 1:  # two shadows over one setting are two masters
        shadows = [shadow._replace(sets=False) for shadow in shadows]
    if shadows and chance.random() < 0.3:
        shadows[0] = shadows[0]._replace(files=True)
    count = chance.choice({"brisk": (1, 2), "usual": (1, 1, 2, 4), "slow": (1, 1, 2)}[pace])
    ladder = ("reconnect", "radio-cycle", "restart-network", "reboot")
    strict = chance.random() < 0.3
    topics = (_telling(chance, _topic(chance, f"{letter}{number}", pace), values) for number in range(count))
    return Profile(
        topics=tuple(_together(chance, topic, strict) for topic in topics),
        shadows=tuple(shadows),
        wifi=None if chance.random() < 0.4 else Wifi(
            every_s=chance.choice((10, 10, 30)), grace_s=chance.choice((60, 120, 120, 600)),
            recover=tuple(step for step in ladder if chance.random() < 0.7),
            max_per_day=chance.choice((0, 1, 3, 3, 24)), min_uptime_s=chance.choice((60, 600, 600, 7200))),
        strict=strict,
        max_bytes_kb=chance.choice((4, 64, 65536, 65536)),
        max_age_h=chance.choice((1, 24, 168, 168)),
        clean_session=chance.random() < 0.2,
        keepalive_s=chance.choice((30, 60, 60, 300, 1200)),
        aws=chance.random() < 0.7,
        backoff_max_s=chance.choice((16, 120, 120, 600)),
        notices=chance.choice((0, 0, 1, 2)),
        debug=chance.random() < 0.06,
        values=values,
        programs=tuple(_topic(chance, f"{PROGRAMS[letter]}{number}", pace)
                       for number in range(chance.choice((0, 0, 0, 1, 2)))),
        runs=chance.random() < 0.5)


def _topic(chance: random.Random, name: str, pace: str) -> Topic:
    return Topic(name, every_s=chance.choice(PACES[pace]), retain=chance.random() < 0.7,
                 qos=0 if chance.random() < 0.1 else 1, offline=chance.choice(("queue",) * 6 + ("latest", "drop")),
                 pad=chance.choice((0,) * 8 + (500, 20_000)))


def _telling(chance: random.Random, topic: Topic, values: tuple[Value, ...]) -> Topic:
    """Return the topic as it is, or telling one of the values, or sent when that has changed."""
    if not values or chance.random() < 0.3:
        return topic
    value = chance.choice(values)
    return topic._replace(value=value.placeholder, change=chance.choice((0, 60, 300)) if value.stands else 0,
                          repeats=chance.choice((0, 0, 3, 12)) if value.form == "text" else 0)


def _together(chance: random.Random, topic: Topic, strict: bool) -> Topic:
    """Return the topic as it is, or packed, or with payloads that go together: what is strict collects none."""
    batch = 0 if strict or topic.pad > 1000 or chance.random() < 0.8 else chance.choice((3, 20))
    return topic._replace(batch=batch, gzip=not topic.retain and chance.random() < 0.4)


def _value(chance: random.Random, name: str, pace: str) -> Value:
    source = chance.choice(("file", "command", "socket"))
    often_s = 7200 if pace == "slow" else 600
    every_s = None if source == "socket" else chance.choice((None, often_s, often_s))
    return Value(name, source, every_s, tell_s=float(chance.choice((often_s, 7200))),
                 form=chance.choice(("number", "scaled", "auto", "json", "text")))


def _shadow(chance: random.Random, name: str | None, values: tuple[Value, ...], pace: str) -> Shadow:
    slow = pace == "slow"
    return Shadow(name, every_s=chance.choice((3600, 7200) if slow else (1800, 3600, 7200)),
                  check_s=7200 if slow else 600, commands=chance.choice((0, 1, 2)),
                  sets=chance.random() < 0.3, checks=chance.choice((0, 0, 1, 2)), desires=chance.random() < 0.3,
                  value=chance.choice(values).placeholder if values and chance.random() < 0.5 else "")


def _changed(chance: random.Random, old: Profile, letter: str, pace: str) -> Profile:
    """Return what a reload brings: some of the topics stay as they are, the rest is drawn anew or left."""
    new = _profile(chance, letter, pace)
    stay = tuple(topic for topic in old.topics if chance.random() < 0.6 and not (new.strict and topic.batch))
    if chance.random() < 0.5:
        new = new._replace(wifi=old.wifi)
    if chance.random() < 0.5:
        new = new._replace(shadows=old.shadows)
    new = new._replace(topics=(*stay, *new.topics)[:4])
    told = [*(topic.value for topic in new.topics), *(shadow.value for shadow in new.shadows)]
    named = {placeholder.partition(".")[0] for placeholder in told}
    new = new._replace(jobs=old.jobs, renew_after_s=old.renew_after_s)
    return new._replace(values=(*(value for value in old.values if value.name in named), *new.values))


def _faults(chance: random.Random, days: float, expected: float, brisk: bool) -> list[Fault]:
    """Draw each kind of a few groups at a rate of its own, about so many faults in all."""
    groups = chance.sample(sorted(GROUPS), chance.choice((1, 2, 3, 5, len(GROUPS))))
    kinds = [kind for group in sorted(groups) for kind in GROUPS[group] if chance.random() < 0.6]
    weights = {kind: math.exp(chance.uniform(-1.5, 1.5)) for kind in kinds}
    faults = []
    for kind, weight in weights.items():
        rate = expected / days * weight / sum(weights.values())
        at_s = chance.expovariate(rate) * DAY_S
        while at_s < days * DAY_S:
            faults.append(Fault(kind, round(at_s, 2), _length(chance, kind, brisk), _way(chance)))
            again = chance.random() < 0.15  # what goes wrong goes wrong again
            at_s += chance.expovariate(1 / 300.0) if again else chance.expovariate(rate) * DAY_S
    lasting = [kind for kind in kinds if KINDS[kind].longest_s]
    for _ in range(chance.choice((1, 2, 3, 5)) if lasting else 0):  # what the end of the life still has to heal
        kind = chance.choice(lasting)
        before_s = min(_length(chance, kind, brisk), days * DAY_S)
        faults.append(Fault(kind, round(days * DAY_S - before_s, 2), before_s + DAY_S, _way(chance)))
    return sorted(faults, key=lambda fault: fault.at_s)


def _at_home(chance: random.Random, plan: Plan, profiles: Sequence[Profile]) -> Plan:
    """Return the plan where Home Assistant is told of the device, by all of its profiles or by some."""
    told = tuple(profile._replace(home=chance.random() < 0.8, topics=tuple(
        topic._replace(entity=not topic.gzip and chance.random() < 0.5) for topic in profile.topics))
        for profile in profiles)
    births = [Fault(BIRTH, round(chance.uniform(0.0, plan.days) * DAY_S, 2), 0.0, _way(chance))
              for _ in range(chance.choice((0, 1, 5, 20)))]
    return plan._replace(profiles=told, faults=tuple(sorted((*plan.faults, *births), key=lambda fault: fault.at_s)))


def _way(chance: random.Random) -> float:
    return int(chance.random() * 10_000) / 10_000  # below 1


def _length(chance: random.Random, kind: str, brisk: bool) -> float:
    longest_s = KINDS[kind].longest_s
    if not longest_s:
        return 0.0
    if brisk:
        longest_s = min(longest_s, 7200.0)
    return round(math.exp(chance.uniform(math.log(0.5), math.log(longest_s))), 2)


def topics_of(profiles: Sequence[Profile]) -> dict[str, Topic]:
    """Return every topic of a plan by its id."""
    return {topic.id: topic for profile in profiles for topic in (*profile.topics, *profile.programs)}
