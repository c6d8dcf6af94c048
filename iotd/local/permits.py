"""What the configuration opens to programs: topics to publish on, filters to listen to. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from iotd.config.settings import Settings
from iotd.mqtt import topics


def publish_problem(topic: str, retain: bool, settings: Settings) -> str | None:
    """Return why no program may publish on the topic, None where it may."""
    if topic == settings.presence.topic:
        return f"{topic!r} is the presence topic, which is iotd's own"
    opened: tuple[str, ...] = settings.sections["local"].publish
    if not any(topics.matches(name, topic) for name in opened):
        return (f"the configuration does not open {topic[:80]!r} to programs; "
                f"local.publish opens {', '.join(opened) or 'nothing'}")
    return topics.topic_problem(topic, settings.mqtt.aws_limits, retain)


def listen_problem(filter: str, shared: Iterable[str], settings: Settings) -> str | None:
    """Return why no program may listen to the filter, None where one of the `shared` ones has all of its messages."""
    problem = topics.filter_problem(filter, settings.mqtt.aws_limits)
    if problem is None and _is_own(filter, settings):
        problem = f"{filter!r} is iotd's own; programs ask for the status, and join a shadow by its files"
    if problem is None and not any(topics.covers(name, filter) for name in shared):
        problem = (f"the configuration does not subscribe {filter[:80]!r}; "
                   f"it subscribes {', '.join(shared) or 'nothing'}")
    return problem


def hears(filters: Iterable[str], shared: Iterable[str], topic: str, settings: Settings) -> bool:
    """Tell whether a message on the topic is for a program that listens to these filters."""
    return (any(topics.matches(name, topic) for name in filters)
            and any(topics.matches(name, topic) for name in shared) and not _is_own(topic, settings))


def _is_own(topic: str, settings: Settings) -> bool:
    """Tell whether a topic is that of the presence or of a shadow."""
    return topic == settings.presence.topic or topic.startswith("$aws/things/") and "/shadow/" in topic
