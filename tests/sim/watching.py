"""What a simulation tells of: a judge listens to these, and whoever does not care leaves them as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iotd.vocabulary import Json, Message

if TYPE_CHECKING:
    from iotd.daemon.daemon import Daemon
    from iotd.wifi.reading import Reading
    from tests.sim.session import SimulatedSession
    from tests.sim.world import Simulation


class Watching:
    """Everything that can be seen from outside of the device, as it happens."""

    def begin(self, simulation: Simulation) -> None:
        """This is what there is to watch."""

    def started(self, daemon: Daemon) -> None:
        """A process has been made, and is about to start."""

    def ended(self, killed: bool) -> None:
        """The process has ended, or is ended now in the midst of what it does."""

    def cut_off(self) -> None:
        """The process is about to die in the midst of a write."""

    def failed(self, trace: str) -> None:
        """An exception has ended the process."""

    def going_down(self, orderly: bool) -> None:
        """The host is down, and its disk still as it was."""

    def rebooted(self) -> None:
        """The host has lost what it loses."""

    def kept(self, content: bytes) -> None:
        """The daemon has written this where messages are kept."""

    def lost(self, content: bytes) -> None:
        """A damage of the disk has taken this."""

    def dialled(self, session: SimulatedSession) -> None:
        """The device opens a line."""

    def published(self, session: SimulatedSession, message: Message) -> None:
        """The device has sent a PUBLISH."""

    def unacknowledged(self, session: SimulatedSession, count: int) -> None:
        """So many packets of the device's are unacknowledged now."""

    def arrived(self, message: Message, by: SimulatedSession | None) -> None:
        """The broker has taken a PUBLISH, of the device's or of somebody else's."""

    def line_changed(self) -> None:
        """The broker has got, or lost, a line."""

    def store_lost(self) -> None:
        """The broker has lost what stood retained."""

    def requested(self, verb: str) -> None:
        """The recovery helper is asked for a step."""

    def looked(self, reading: Reading) -> None:
        """The device has looked at its Wi-Fi."""

    def performed(self, shadow: str | None, key: str, value: Json) -> None:
        """The device begins an order."""

    def performed_well(self, shadow: str | None, key: str, value: Json) -> None:
        """An order has ended well, and the device is told."""

    def promised(self, payload: bytes) -> None:
        """A program was told that its message with this payload is kept."""

    def handling(self, name: str, payload: bytes) -> None:
        """The command of the subscription with this filter begins for a message."""

    def handled(self, name: str) -> None:
        """That command has ended."""

    def stepped(self, key: str) -> None:
        """A step of a job begins, which has this key."""

    def fed(self) -> None:
        """WATCHDOG=1."""

    def logged(self, entry: dict[str, Any]) -> None:
        """A line of the log."""
