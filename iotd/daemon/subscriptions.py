"""Which filters are subscribed when: a session that the broker kept is not subscribed again. Pure.

`held` is what the broker is known to hold for this client id: it survives the line, and a restart of the daemon
through the file that `host` keeps.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

REFUSED = 128  # MQTT 3.1.1, 3.9.3
UNWANTED = -1  # held, and nobody wants it so: unsubscribed on every new line until the broker has lost the session


class Subscriptions(NamedTuple):
    """What is wanted (filter to QoS), what the broker holds, what it was asked for, and what it has refused."""

    wanted: Mapping[str, int]
    held: Mapping[str, int]
    asked: frozenset[str] = frozenset()
    refused: Mapping[str, int] = {}

    def settled(self, filters: Iterable[str]) -> bool:
        """Tell whether the broker has said yes or no to each of the filters."""
        return not self.asked.intersection(filters)


class Plan(NamedTuple):
    """The packets that make the broker hold what is wanted."""

    subscribe: list[tuple[str, int]]
    unsubscribe: list[str]


def opened(subscriptions: Subscriptions, session_present: bool) -> tuple[Subscriptions, Plan]:
    """The line is up: ask for what the broker does not hold, and for the end of what nobody wants any more.

    `session_present` is what the broker says, where it was asked to keep the session.
    """
    held = subscriptions.held if session_present else {}
    return _plan(subscriptions._replace(held=held, asked=frozenset()))


def changed(subscriptions: Subscriptions, wanted: Mapping[str, int]) -> tuple[Subscriptions, Plan]:
    """The configuration has changed while the line is up."""
    refused = {name: code for name, code in subscriptions.refused.items() if name in wanted}
    return _plan(subscriptions._replace(wanted=wanted, refused=refused))


def answered(subscriptions: Subscriptions, codes: tuple[tuple[str, int], ...]) -> Subscriptions:
    """Take a SUBACK: a code for each filter of one SUBSCRIBE."""
    held, refused = dict(subscriptions.held), dict(subscriptions.refused)
    for name, code in codes:
        if code >= REFUSED:
            held.pop(name, None)
            refused[name] = code
        else:
            held[name] = subscriptions.wanted.get(name, UNWANTED)
            refused.pop(name, None)
    asked = subscriptions.asked.difference(name for name, _ in codes)
    return subscriptions._replace(held=held, asked=asked, refused=refused)


def _plan(subscriptions: Subscriptions) -> tuple[Subscriptions, Plan]:
    wanted, held = subscriptions.wanted, subscriptions.held
    ask = [(name, qos) for name, qos in wanted.items() if held.get(name) != qos]
    drop = [name for name in held if name not in wanted]
    # UNSUBSCRIBE may never arrive, and no line may be there to send it on: what is given up counts as held.
    # So does what is asked for at another QoS, until that is answered.
    kept = {name: qos if wanted.get(name) == qos else UNWANTED for name, qos in held.items()}
    asked = subscriptions.asked.union(name for name, _ in ask)
    return subscriptions._replace(held=kept, asked=asked), Plan(ask, drop)
