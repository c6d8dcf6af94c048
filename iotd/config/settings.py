"""What the configuration file says, validated, as frozen values. Nobody behind `config` sees a dict of YAML.

Texts that may hold placeholders are kept as written; `template` fills them.
`thing`, topics and filters are filled already, since what they may hold does not change in a run.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.mqtt.settings import Mqtt


class Presence(NamedTuple):
    """The will, and its living counterpart on the same topic, which is empty where presence is off."""

    topic: str
    retain: bool = True
    qos: int = 1


class Log(NamedTuple):
    """`level` is debug, info, warning or error; `format` json or text."""

    level: str = "info"
    format: str = "json"


class Settings(NamedTuple):
    """The whole file: what the kernel needs, and in `sections`, by its key, what each wing has read of its own.

    `hostname` is what the host was called when the file was read, so that it agrees with a `thing` made of it.
    `is_named` is false while the device has yet to be given its thing: until then this one is its client id alone.
    """

    thing: str
    mqtt: Mqtt
    presence: Presence
    log: Log = Log()
    sections: Mapping[str, Any] = {}
    hostname: str = ""
    is_named: bool = True

    @property
    def client_id(self) -> str:
        """Who this is to the broker: the thing, unless the file says otherwise."""
        return self.thing if self.mqtt.client_id is None else self.mqtt.client_id


class Checked(NamedTuple):
    """Settings that can be used, and what is not right about them all the same, as the lines that `check` prints;
    the text that says them.

    `refused` are the problems of the file where these settings are those of an earlier one.
    """

    settings: Settings
    warnings: tuple[str, ...]
    text: str = ""
    refused: tuple[str, ...] = ()
