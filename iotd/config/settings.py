"""What the configuration file says, validated, as frozen values. Nobody behind `config` sees a dict of YAML.

Texts that may hold placeholders are kept as written; `template` fills them.
`thing`, topics and filters are filled already, since what they may hold does not change in a run.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.errors import Problem
from iotd.mqtt.settings import Mqtt


class Presence(NamedTuple):
    """The will, and its living counterpart on the same topic."""

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
    """

    thing: str
    mqtt: Mqtt
    presence: Presence
    log: Log = Log()
    sections: Mapping[str, Any] = {}
    hostname: str = ""


class Checked(NamedTuple):
    """Settings that can be used, and what is not right about them all the same; the text that says them.

    `refused` are the problems of the file where these settings are those of an earlier one.
    """

    settings: Settings
    warnings: tuple[Problem, ...]
    text: str = ""
    refused: tuple[str, ...] = ()
