"""Which settings can be opened to the cloud, and what a value from there makes of them."""

from __future__ import annotations

import pytest

from iotd.config import override, template
from iotd.config.settings import Log, Presence, Settings
from iotd.mqtt.settings import Mqtt
from iotd.outgoing.section import Bounds, Publish
from iotd.shadows.section import Shadow
from iotd.vocabulary import Json

SECOND: dict[str, Json] = {"msg": "hello {hostname}", "x.y": "dots", "deep": {"a": "b"}}
FILE = Settings("t", Mqtt("h"), Presence("p"), Log("info", "text"), {
    "publish": (Publish("a", 30.0, {"n": 1}), Publish("b", 60.0, SECOND)), "spool": Bounds(),
    "shadows": (Shadow("s"),)})


@pytest.mark.parametrize("setting", [
    "publish[0].every", "publish[1].every", "shadows[0].every", "log.level", "publish[1].payload.msg",
    "publish[1].payload.x.y",
])
def test_a_setting_that_can_be_opened(setting: str) -> None:
    assert override.problem(setting, FILE) is None


@pytest.mark.parametrize("setting, why", [
    ("mqtt.host", "no setting that can be opened"), ("log.format", "no setting"), ("", "no setting"),
    ("publish[0].topic", "no setting"), ("publish[00000].every", "no setting"), ("publish[-1].every", "no setting"),
    ("publish[2].every", "publish has no item 2"), ("shadows[1].every", "shadows has no item 1"),
    ("publish[9].payload.msg", "publish has no item 9"), ("publish[0].payload.n", "no text under the key 'n'"),
    ("publish[1].payload.deep", "no text"), ("publish[1].payload.no", "no text"), ("publish[٣].every", "no setting"),
])
def test_a_setting_that_cannot(setting: str, why: str) -> None:
    assert why in str(override.problem(setting, FILE))
    with pytest.raises(ValueError):
        override.applied(FILE, {setting: "30s"})


def test_values_from_the_cloud_stand_in_for_the_file_s_and_touch_nothing_else() -> None:
    settings = override.applied(FILE, {"publish[0].every": "5s", "shadows[0].every": "2m", "log.level": "debug",
                                       "publish[1].payload.msg": "こんにちは"})
    assert settings == Settings("t", Mqtt("h"), Presence("p"), Log("debug", "text"), {
        "publish": (Publish("a", 5.0, {"n": 1}), Publish("b", 60.0, {**SECOND, "msg": "こんにちは"})), "spool": Bounds(),
        "shadows": (Shadow("s", 120.0),)})
    assert FILE.sections["publish"][1].payload["msg"] == "hello {hostname}"
    assert override.applied(FILE, {}) == FILE


@pytest.mark.parametrize("text", ["{hostname}", "{{", "}", "{nobody} {", "$(reboot)", "a\nb", ""])
def test_a_text_from_the_cloud_is_published_as_it_is(text: str) -> None:
    settings = override.applied(FILE, {"publish[1].payload.msg": text})
    assert template.compile_tree(settings.sections["publish"][1].payload)({})["msg"] == text


@pytest.mark.parametrize("setting, value", [
    ("publish[0].every", 5), ("publish[0].every", "5"), ("publish[0].every", "0s"), ("publish[0].every", "999ms"),
    ("publish[0].every", "5s\n"), ("publish[0].every", "٣s"), ("publish[0].every", "99999d"), ("shadows[0].every", []),
    ("publish[0].every", {"a": 1}), ("log.level", "loud"), ("log.level", ["info"]), ("log.level", 1),
    ("publish[1].payload.msg", 1), ("publish[1].payload.msg", {"a": "b"}), ("publish[1].payload.msg", None),
])
def test_a_value_of_no_use_is_refused(setting: str, value: Json) -> None:
    with pytest.raises(ValueError, match="expected"):
        override.applied(FILE, {setting: value})


def test_each_opened_setting_tells_its_value_and_where_it_comes_from() -> None:
    cloud: dict[str, Json] = {"publish[0].every": "5s", "publish[1].payload.msg": "{x}"}
    opened = {**cloud, "log.level": None, "shadows[0].every": None, "publish[7].every": None}
    assert override.origins(override.applied(FILE, cloud), opened) == {
        "publish[0].every": {"value": "5s", "from": "shadow"},
        "publish[1].payload.msg": {"value": "{x}", "from": "shadow"},
        "log.level": {"value": "info", "from": "file"}, "shadows[0].every": {"value": "30s", "from": "file"}}
