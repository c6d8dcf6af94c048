"""The shadow as a device's voice and ears: iotd as a process, a broker, and a stand-in for the shadow service."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.aws.service import ShadowService, shadow_prefix
from tests.mosquitto import Mosquitto
from tests.observer import Message, Observer
from tests.running import Iotd, configuration

THING, SHADOW = "test-thing", "pump"
DOCUMENTS = f"{shadow_prefix(THING, SHADOW)}/update/documents"
TOPIC = "t/0"
HEALTHY, UNHEALTHY = "ヨシッ👉", "ダメ🙅"
AT_ONCE_S = 2.0


@pytest.fixture
def service(plain_broker: Mosquitto) -> Iterator[ShadowService]:
    with ShadowService(plain_broker) as running:
        yield running


@pytest.fixture
def cloud(plain_broker: Mosquitto, service: ShadowService) -> Iterator[Observer]:
    """What a user of the cloud sees of the shadow and of the messages."""
    with Observer(plain_broker) as client:
        client.subscribe(DOCUMENTS, TOPIC)
        yield client


def device(broker: Mosquitto, **shadow: Any) -> dict[str, Any]:
    """Return a configuration with one shadow, whose own schedule is too slow to explain anything."""
    return configuration(
        broker, None, publish=[{"topic": TOPIC, "every": "1h", "payload": {"msg": "hello"}}],
        shadows=[{"name": SHADOW, "every": "1h", "reported": {"state": "{health}"}, **shadow}])


def reported(cloud: Observer, fits: Callable[[dict[str, Any]], object], since: int = 0) -> Message:
    """Return the first document whose reported state fits."""
    return cloud.wait_for(
        DOCUMENTS, lambda message: fits(message.json()["current"]["state"].get("reported", {})), since=since)


def state_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = message.json()["current"]["state"]["reported"]
    return found


def desire(service: ShadowService, **desired: Any) -> None:
    service.update(THING, SHADOW, {"desired": desired}, clientToken="DeviceAdvisorShadowTestCaseSetup")


def stop(iotd: Iotd) -> None:
    iotd.signal(signal.SIGTERM)
    assert iotd.end() == 0


def status(iotd: Iotd, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "iotd", "status", *options], env=iotd.environment(), cwd="/",
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def test_device_advisor_shadow_publish_reported_state(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    with Iotd(tmp_path / "iotd", device(plain_broker, reported={"ColorRGB": [1, 2, 3]})):
        assert state_of(reported(cloud, lambda state: state)) == {"ColorRGB": [1, 2, 3]}


@pytest.mark.parametrize("name", [SHADOW, None])
def test_device_advisor_shadow_update_reported_state(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer, name: str | None
) -> None:
    cloud.subscribe(f"{shadow_prefix(THING, name)}/update/documents")
    settings = device(plain_broker, on_delta={"ColorRGB": {"run": ["true"]}})
    if name is None:
        del settings["shadows"][0]["name"]
    with Iotd(tmp_path / "iotd", settings):
        cloud.wait_for("$aws/#")
        service.update(THING, name, {"desired": {"ColorRGB": [9, 9, 9]}},
                       clientToken="DeviceAdvisorShadowTestCaseSetup")
        done = cloud.wait_for("$aws/#", lambda message: message.json()["current"]["state"].get("reported", {}).get(
            "ColorRGB") == [9, 9, 9])
        assert "delta" not in service.get(THING, name)["state"]
        assert done.json()["current"]["state"]["reported"]["iotd"]["orders"] == {"failed": []}


def test_a_check_that_breaks_is_told_at_once_and_so_is_its_recovery(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    checks = [{"command": ["test", "-e", str(flag)], "name": "pump", "every": "200ms"}]
    with Iotd(tmp_path / "iotd", device(plain_broker, checks=checks)) as iotd:
        first = reported(cloud, lambda state: state.get("state") == HEALTHY)
        flag.unlink()
        broken_at = time.monotonic()
        broken = reported(cloud, lambda state: state["state"] == UNHEALTHY, first.order)
        assert time.monotonic() < broken_at + AT_ONCE_S
        [failed] = state_of(broken)["iotd"]["checks"]["failed"]
        assert (failed["check"], failed["reason"]) == ("pump", "exit status 1")
        iotd.wait_for("check.failed", check="pump", level="warning", shadow=SHADOW)
        flag.touch()
        mended_at = time.monotonic()
        mended = reported(cloud, lambda state: state["state"] == HEALTHY, broken.order)
        assert time.monotonic() < mended_at + AT_ONCE_S
        assert state_of(mended)["iotd"]["checks"]["failed"] == []
        iotd.wait_for("check.recovered", check="pump", level="info")
        stop(iotd)


def test_status_names_the_checks_and_the_orders_that_failed(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    # A watchdog of two seconds has status.json renewed every half.
    with Iotd(tmp_path / "iotd", device(plain_broker), WATCHDOG_USEC="2000000") as iotd:
        first = reported(cloud, lambda state: state.get("state") == HEALTHY)
        iotd.configure(device(plain_broker, checks=[{"process": "iotd-no-such"}], on_delta={"fan": {"run": ["false"]}}))
        iotd.signal(signal.SIGHUP)
        desire(service, fan=1)
        reported(cloud, lambda state: state.get("iotd", {}).get("orders", {}).get("failed")
                 and state["state"] == UNHEALTHY, first.order + 1)
        deadline = time.monotonic() + 10
        while "desired of fan" not in (ill := status(iotd)).stdout and time.monotonic() < deadline:
            pass
        assert ill.returncode == 1 and "problem: check process iotd-no-such has failed: no process" in ill.stdout
        assert "problem: what is desired of fan could not be done: exit status 1" in ill.stdout
        stop(iotd)


def test_a_reload_begins_the_conversation_anew_and_no_token_is_used_twice(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    cloud.subscribe(f"{shadow_prefix(THING, SHADOW)}/get", f"{shadow_prefix(THING, SHADOW)}/update")
    with Iotd(tmp_path / "iotd", device(plain_broker)) as iotd:
        first = reported(cloud, lambda state: state.get("state") == HEALTHY)
        iotd.configure(device(plain_broker, reported={"load": "{load}", "version": "{iotd_version}"}))
        iotd.signal(signal.SIGHUP)
        told = state_of(reported(cloud, lambda state: "load" in state, first.order + 1))
        assert isinstance(told["load"], float) and told["version"]
        stop(iotd)
    tokens = [message.json()["clientToken"] for message in cloud.messages
              if message.topic.rsplit("/", 1)[1] in ("get", "update")]
    assert len(tokens) == len(set(tokens)) == 4


def test_a_check_that_hangs_keeps_no_other_from_being_made(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    checks = [{"command": ["sleep", "60"], "every": "100ms", "timeout": "50s"},
              {"tcp": f"127.0.0.1:{plain_broker.port}", "every": "100ms"}]
    with Iotd(tmp_path / "iotd", device(plain_broker, checks=checks)) as iotd:
        reported(cloud, lambda state: state.get("state") == HEALTHY)
        stop(iotd)
        assert sum(entry["event"] == "watchdog.withheld" for entry in iotd.entries) == 0


def counting(file: Path) -> dict[str, Any]:
    """Return an action that writes down each value it is run with."""
    return {"run": ["sh", "-c", f'printf "%s\\n" "$#:$1" >>{file}', "sh", "{value}"]}


def test_an_order_is_carried_out_once_and_reported(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    ran = tmp_path / "ran"
    settings = device(plain_broker, every="1s", reported={"fan": "off"}, on_delta={"fan": counting(ran)})
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: state.get("fan") == "off")
        desire(service, fan="fast", light="on")
        done = reported(cloud, lambda state: state.get("fan") == "fast")
        iotd.wait_for("desired.done", key="fan", value="fast")
        iotd.wait_for("desired.left", key="light")
        reported(cloud, lambda state: state.get("fan") == "fast", done.order + 1)  # the delta of light again
        stop(iotd)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: state.get("fan") == "fast", len(cloud.messages))
        stop(iotd)
    assert ran.read_text() == "1:fast\n"


def test_an_order_given_while_the_device_was_away_is_carried_out_when_it_is_back(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    ran = tmp_path / "ran"
    settings = device(plain_broker, on_delta={"fan": counting(ran)})
    settings["mqtt"]["clean_session"] = True
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "state" in state)
        stop(iotd)
    desire(service, fan="slow")
    desire(service, fan="fast")
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: state.get("fan") == "fast")
        stop(iotd)
    assert ran.read_text() == "1:fast\n"


@pytest.mark.parametrize("value, ran", [
    ("$(touch {mark})", "1:$(touch {mark})\n"), ("'; touch {mark} #", "1:'; touch {mark} #\n"),
    ("a\ntouch {mark}", "1:a\ntouch {mark}\n"), (True, "1:true\n"), ([1, {"a": None}][:1], "1:[1]\n"),
    ("a\0b", None), ("--help", None), ("x" * 3000, "1:" + "x" * 3000 + "\n"),
])
def test_a_hostile_value_is_one_inert_argument_or_is_refused(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer, value: Any, ran: str | None
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "ran"
    value = value.replace("{mark}", str(mark)) if isinstance(value, str) else value
    with Iotd(tmp_path / "iotd", device(plain_broker, on_delta={"fan": counting(file)})) as iotd:
        reported(cloud, lambda state: "state" in state)
        desire(service, fan=value)
        if ran is None:
            refused = reported(cloud, lambda state: state["iotd"]["orders"]["failed"])
            [failed] = state_of(refused)["iotd"]["orders"]["failed"]
            assert failed["key"] == "fan" and "fan" not in state_of(refused)
            iotd.wait_for("desired.failed", key="fan", level="warning")
        else:
            assert state_of(reported(cloud, lambda state: "fan" in state))["fan"] == value
            assert file.read_text() == ran.replace("{mark}", str(mark))
        stop(iotd)
    assert not mark.exists() and file.exists() == (ran is not None)


def test_a_command_that_runs_ends_with_iotd_and_is_not_begun_again(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    os.mkfifo(tmp_path / "began")
    began = os.fdopen(os.open(tmp_path / "began", os.O_RDWR), "rb", buffering=0)
    action = {"run": ["sh", "-c", f"echo $$ >{tmp_path}/began; exec sleep 60", "{value}"], "timeout": "50s"}
    settings = device(plain_broker, on_delta={"fan": action})
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "state" in state)
        desire(service, fan=1)
        assert select.select([began], [], [], 10)[0]
        number = began.read(20).decode().strip()
        stop(iotd)
        assert not Path("/proc", number).exists()
    with Iotd(tmp_path / "iotd", settings) as iotd:
        told = reported(cloud, lambda state: state.get("iotd", {}).get("orders", {}).get("failed"))
        [failed] = state_of(told)["iotd"]["orders"]["failed"]
        assert "iotd ended while this was done" in failed["reason"]
        stop(iotd)
    assert not select.select([began], [], [], 0)[0]
    began.close()


OPEN = {"interval": {"set": "publish[0].every"}, "msg": {"set": "publish[0].payload.msg"}}


def test_a_setting_of_the_clouds_takes_effect_and_outlives_restart_and_reload(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    settings = device(plain_broker, on_delta=OPEN)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "state" in state)
        desire(service, interval="1s", msg="こんにちは {x}")
        told = reported(cloud, lambda state: (state.get("interval"), state.get("msg")) == ("1s", "こんにちは {x}"))
        for _ in range(3):
            told = cloud.wait_for(TOPIC, since=told.order + 1)
            assert told.json() == {"msg": "こんにちは {x}"}
        iotd.signal(signal.SIGHUP)
        iotd.wait_for("daemon.reloaded")
        stop(iotd)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        since = len(cloud.messages)
        for _ in range(2):
            told = cloud.wait_for(TOPIC, since=since)
            assert told.json() == {"msg": "こんにちは {x}"}
            since = told.order + 1
        iotd.wait_told("STATUS=connected")
        found = json.loads(status(iotd, "--json").stdout)["settings"]
        assert found == {"publish[0].every": {"value": "1s", "from": "shadow"},
                         "publish[0].payload.msg": {"value": "こんにちは {x}", "from": "shadow"}}
        assert "publish[0].every is 1s, from the shadow" in status(iotd).stdout

        since = len(cloud.messages)
        iotd.configure(device(plain_broker, on_delta={"interval": OPEN["interval"]}))
        iotd.signal(signal.SIGHUP)
        assert cloud.wait_for(TOPIC, since=since, matches=lambda message: message.json()["msg"] == "hello")
        assert "msg" not in state_of(reported(cloud, lambda state: "msg" not in state, since))
        stop(iotd)


@pytest.mark.parametrize("value", ["1", 1, "0s", "100ms", "-1s", "{health}", ["1s"], {"every": "1s"}])
def test_a_value_that_a_setting_cannot_have_is_named_and_changes_nothing(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer, value: Any
) -> None:
    with Iotd(tmp_path / "iotd", device(plain_broker, on_delta=OPEN)) as iotd:
        reported(cloud, lambda state: "state" in state)
        desire(service, interval=value)
        told = state_of(reported(cloud, lambda state: state["iotd"]["orders"]["failed"]))
        [failed] = told["iotd"]["orders"]["failed"]
        assert failed["key"] == "interval" and "expected a duration" in failed["reason"] and "interval" not in told
        stop(iotd)


def test_a_key_with_another_action_or_none_gives_up_what_the_cloud_has_set(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    settings = device(plain_broker, on_delta=dict(OPEN))
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "state" in state)
        desire(service, msg="from the cloud")
        known = reported(cloud, lambda state: state.get("msg") == "from the cloud")
        stop(iotd)
    settings["publish"][0]["payload"] = {"msg": 1}
    settings["publish"].append({"topic": TOPIC, "every": "1h", "payload": {"msg": "second"}})
    settings["shadows"][0]["on_delta"]["msg"] = {"set": "publish[1].payload.msg"}
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "msg" not in state, known.order + 1)
        cloud.wait_for(TOPIC, lambda message: message.json()["msg"] == "from the cloud", since=known.order + 1)
        stop(iotd)
    settings["publish"].pop(0)
    settings["shadows"][0]["on_delta"] = {}
    with Iotd(tmp_path / "iotd", settings) as iotd:
        since = len(cloud.messages)
        reported(cloud, lambda state: "msg" not in state, since)
        cloud.wait_for(TOPIC, lambda message: message.json()["msg"] == "second", since=since)
        stop(iotd)


def test_an_order_that_waited_when_iotd_ended_is_carried_out_at_the_next_start(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    ran = tmp_path / "ran"
    iotd = Iotd(tmp_path / "iotd", device(plain_broker, on_delta={"fan": counting(ran)}))
    waiting = {"action": "run", "text": '"fast"', "stage": "waiting", "reason": "", "applied": None, "failures": 0}
    (tmp_path / "iotd/state/desired.json").write_text(json.dumps({SHADOW: {"fan": waiting}}))
    desire(service, fan="fast")
    with iotd:
        reported(cloud, lambda state: state.get("fan") == "fast")
        stop(iotd)
    assert ran.read_text() == "1:fast\n"


def test_an_order_that_waited_when_iotd_ended_and_was_withdrawn_since_is_not_carried_out(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    ran = tmp_path / "ran"
    iotd = Iotd(tmp_path / "iotd", device(plain_broker, on_delta={"fan": counting(ran)}))
    waiting = {"action": "run", "text": '"fast"', "stage": "waiting", "reason": "", "applied": None, "failures": 0}
    (tmp_path / "iotd/state/desired.json").write_text(json.dumps({SHADOW: {"fan": waiting}}))
    with iotd:
        first = reported(cloud, lambda state: "state" in state)
        desire(service, light="on")
        iotd.wait_for("desired.left", key="light")
        assert "fan" not in state_of(first)
        stop(iotd)
    assert not ran.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_an_order_that_was_withdrawn_while_the_device_was_away_is_not_carried_out_by_what_the_broker_has_kept(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer, end: signal.Signals
) -> None:
    ran = tmp_path / "ran"
    settings = device(plain_broker, on_delta={"gate": counting(ran), **OPEN})
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "state" in state)
        iotd.signal(end)
        iotd.end()
    desire(service, gate="open", interval="1s", msg="replaced")
    desire(service, gate=None, interval=None, msg="new")
    with Iotd(tmp_path / "iotd", settings) as iotd:
        told = state_of(reported(cloud, lambda state: state.get("msg") == "new"))
        assert "gate" not in told and "interval" not in told
        desire(service, gate="shut")
        reported(cloud, lambda state: state.get("gate") == "shut")
        stop(iotd)
    assert ran.read_text() == "1:shut\n"


def test_other_programs_join_the_shadow_by_files(
    tmp_path: Path, plain_broker: Mosquitto, service: ShadowService, cloud: Observer
) -> None:
    directory = tmp_path / "iotd/runtime"
    settings = device(plain_broker, every="1s", files=True)
    with Iotd(tmp_path / "iotd", settings) as iotd:
        desire(service, speed=3)
        first = reported(cloud, lambda state: "state" in state)
        (directory / "reported.d/bad.json").write_text("{")
        (directory / "reported.d/pump.json").write_text('{"rpm": 900, "state": "mine", "iotd": 1}')
        joined = reported(cloud, lambda state: state.get("rpm") == 900, first.order)
        assert state_of(joined) == {"state": HEALTHY, "rpm": 900}
        iotd.wait_for("bridge.skipped", file="bad.json", level="warning")
        assert json.loads((directory / "desired.json").read_text()) == {"speed": 3}
        (directory / "reported.d/pump.json").write_text('{"litres": 5}')
        reported(cloud, lambda state: "rpm" not in state and "litres" in state, joined.order)
        stop(iotd)
    (directory / "reported.d/pump.json").unlink()
    with Iotd(tmp_path / "iotd", settings) as iotd:
        reported(cloud, lambda state: "litres" not in state, len(cloud.messages))
        stop(iotd)
