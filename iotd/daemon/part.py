"""A part: one capability as the main loop drives it; and the kernel as a part sees it.

The kernel knows its parts by this protocol alone, and a part knows nothing but the kernel. All of it is called on the
main thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from iotd.config.settings import Settings
from iotd.daemon.outage import Outages
from iotd.daemon.world import World
from iotd.vocabulary import Json, Message, Offer, Received, Taken


class Kernel(Protocol):
    """What a part may ask of the kernel."""

    world: World
    run_id: str
    outages: Outages
    written: Settings  # as the file says them, without what the cloud has set

    @property
    def connected(self) -> bool:
        """Whether the line is up."""

    @property
    def clear(self) -> bool:
        """Whether messages may go out: the line is up and open, and nothing is awaited on a careful one."""

    @property
    def leaving(self) -> bool:
        """Whether the last word is being said: what is begun now would be cut off."""

    def post(self, event: Any) -> None:
        """Put an event into the inbox; from any thread."""

    def send(self, message: Message, then: Callable[[str], None] | None = None) -> None:
        """Publish now, past the spool: it speaks of this very moment and is made anew on the next line.

        `then` is told once the broker has acknowledged it, with nothing, or why that did not come. Such a message is
        an action that the broker may deny.
        """

    def hand_over(self, messages: Sequence[tuple[int, Message]]) -> None:
        """Publish messages, each kept under its number, from 1, until `acknowledged` gives that back."""

    def acknowledged(self, eager: bool | None = None) -> list[int]:
        """Return the numbers acknowledged since the last call; `eager`: the main loop is to be woken by the next."""

    def passed(self) -> tuple[int, int]:
        """Return how many publishes, and bytes of them, went past `hand_over` or came in since the last call."""

    def values(self, names: Iterable[str]) -> dict[str, Json]:
        """Return what these placeholders stand for now, None for one that nobody knows."""

    def status(self) -> dict[str, Json]:
        """Return what `iotd status` shows."""

    def about(self) -> dict[str, Json]:
        """Return what a shadow tells of iotd itself."""

    def gather(self, names: Iterable[str], then: Callable[[dict[str, Json]], None]) -> None:
        """Call `then` with what these placeholders stand for now; later, where some have to be measured first."""

    def publish(self, offers: Sequence[Offer], now: float) -> list[Taken]:
        """Keep or send these messages of a program's; return what became of each."""

    def crowded_until(self, now: float) -> float:
        """Return until when programs that have handed over messages are to wait with more, 0 for not at all."""

    def tell(self, name: str, value: Json, now: float) -> str:
        """Take a value that a program tells; return why it is refused, nothing where it is taken."""

    def ask(self, word: str, now: float) -> str:
        """Ask for what a part does; return why it does not, nothing where it does."""

    def shared(self) -> tuple[str, ...]:
        """Return the filters whose messages programs may listen to."""

    def is_retained(self, topic: str) -> bool:
        """Tell whether the broker keeps a message of this device's on the topic, as far as is known."""

    def clear_retained(self, topic: str | None, then: Callable[[list[str], str], None]) -> None:
        """Have the broker keep nothing on this topic any more, None for all that is an orphan; call `then` with the
        topics for which it has acknowledged that, and why there are no more of them.
        """

    def status_changed(self) -> None:
        """What `iotd status` shows has changed: renew it soon."""

    def reboot(self, reason: str, ask: Callable[[], None]) -> None:
        """Say Rebooting, bring everything to the disk, write down why, and then `ask` for the reboot."""


class Part:
    """One capability. What it does not care for it leaves as it is here.

    `is_open` is the kernel's: from `opened` to `closed`. A part that needs to be opened anew takes it back.
    """

    is_open = False

    # What is configured

    def read(self, settings: Settings, now: float) -> None:
        """Take the settings as the file says them, before `overrides` is asked and any are applied."""

    def overrides(self) -> Mapping[str, Json]:
        """Return the settings that the cloud has set, by their names."""
        return {}

    def apply(self, settings: Settings, now: float) -> None:
        """Let the settings take effect."""

    def placeholders(self) -> Mapping[str, Callable[[], Json]]:
        """Return how to look up each placeholder that is this part's."""
        return {}

    def fetch(self, names: Iterable[str], then: Callable[[Mapping[str, Json]], None]) -> bool:
        """Find out what those of these placeholders stand for that take time, and call `then` with them, now or later.

        False where none is this part's: then nothing is called. All of them are one part's.
        """
        return False

    # The line

    def filters(self) -> Mapping[str, int]:
        """Return the filters that it wants subscribed, with their QoS."""
        return {}

    def actions(self) -> Mapping[str, str]:
        """Return the action that each topic and filter is part of, where the broker denies several as one."""
        return {}

    def session_lost(self, now: float) -> None:
        """The line is up, and the broker holds no session though it is to keep one: what it retained may be lost."""

    def opened(self, now: float, careful: bool, resting: Iterable[str]) -> None:
        """The line is up and the broker has answered for all of its filters.

        `careful`: one action at a time. `resting` names the actions that are not to be tried.
        """

    def welcomed(self, now: float) -> None:
        """The broker has acknowledged the first word on the line: it takes what this device says."""

    def closed(self, blamed: bool, now: float) -> None:
        """The line is down; `blamed`: the broker ended it, over nothing but what is `in_flight` perhaps."""

    def heard(self, received: Received, now: float) -> None:
        """Take a message on one of its filters."""

    def pending(self) -> list[str]:
        """Return the actions that the broker has yet to answer, for the kernel to judge where the line ends."""
        return []

    def in_flight(self, now: float) -> list[str]:
        """Return the actions in flight that this part judges itself where the line ends over them.

        What went long ago, and what the broker is known to take, is none of them.
        """
        return []

    def unacknowledged(self, number: int, now: float) -> None:
        """The broker has never acknowledged the message handed over under this number, and the line ends over it."""
    # What programs on the device ask for

    def publish(self, offers: Sequence[Offer], now: float) -> list[Taken] | None:
        """Keep or send these messages, in their order; return what became of each, None where that is not its task."""
        return None

    def crowded_until(self, now: float) -> float:
        """Return until when programs that have handed over messages are to wait with more: math.inf for as long as
        this is said, 0 for not at all.
        """
        return 0.0

    def tell(self, name: str, value: Json, now: float) -> str | None:
        """Take a value that a program tells; None where the name is not this part's, "" where it is taken, else why
        it is refused.
        """
        return None

    def asked(self, word: str, now: float) -> str | None:
        """Do what root, or the daemon's own user, asks for by this word; None where that is not its task, "" where it
        does, else why it does not.
        """
        return None

    def shared(self) -> Iterable[str]:
        """Return those of its filters whose messages programs may listen to."""
        return ()

    # Time, and what happens

    def handlers(self) -> Mapping[type, Callable[[Any, float], None]]:
        """Return who takes each kind of event that it posts."""
        return {}

    def next_due(self) -> float:
        """Return when `keep` has something to do that no event announces, math.inf for never."""
        return math.inf

    def keep(self, now: float) -> None:
        """Do what is due; also called after every event."""

    # The end

    def settle(self, now: float) -> None:
        """Bring what must outlive this boot to the disk: the host may go down now."""

    def close(self, now: float) -> None:
        """End; what it has begun in other threads and processes too."""

    # How it is

    def stuck(self, now: float) -> str:
        """Return the name of a thread of its own that is stuck, nothing where none is."""
        return ""

    def waiting(self) -> int:
        """Return how many messages wait to be acknowledged by the broker."""
        return 0

    def status(self) -> dict[str, Json]:
        """Return what it adds to status.json."""
        return {}

    def about(self) -> Mapping[str, Json]:
        """Return what a shadow tells of it beside that, null where there is nothing to tell; short, since it goes out.
        """
        return {}

    def problems(self) -> list[str]:
        """Return what is not as it should be, a sentence each."""
        return []

    def doing(self) -> str:
        """Return what it does that all else may wait for, which systemd is told; nothing for nothing."""
        return ""

    def sentences(self) -> list[str]:
        """Return what `iotd status` tells a person of it beside the problems."""
        return []
