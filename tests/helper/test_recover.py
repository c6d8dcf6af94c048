"""The root helper: which commands a verb becomes, and what it refuses to take for a request."""

from __future__ import annotations

import io
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import pytest

from iotd.helper.allowed import Refused
from iotd.helper.recover import (
    MAX_REQUEST_BYTES, VERBS, Command, Outcome, network_services, open_directory, plan, reason_of, run_command, serve,
    take,
)
from iotd.host import log

Entries = Callable[[], list[dict[str, str]]]

US = os.getuid()
REQUEST = {"reason": "not associated; wrong for 120 s"}
NETWORK_MANAGER = frozenset({"NetworkManager.service", "wpa_supplicant.service"})
SUPPLICANT = frozenset({"wpa_supplicant@wlan0.service", "dhcpcd.service"})
ESCALATION = ["systemctl reboot", "systemctl reboot --force", "systemctl reboot --force --force"]
REASSOCIATE = "wpa_cli -s /run/wpa_supplicant -i wlan0 reassociate"


@dataclass
class Host:
    """A stand-in for the commands of a host: it notes what is run and answers as told."""

    states: dict[str, str] = field(default_factory=dict)
    device: str = "30 (disconnected)"
    failing: frozenset[str] = frozenset()
    ran: list[str] = field(default_factory=list)

    def run(self, command: Command) -> Outcome:
        """Answer `systemctl is-active` from `states`, the state of a device from `device`; note everything else."""
        if command[:2] == ("systemctl", "is-active"):
            return Outcome("ended with status 3", "\n".join(self.states.get(unit, "inactive") for unit in command[2:]))
        if command[:3] == ("nmcli", "--get-values", "GENERAL.STATE"):
            return Outcome(None, self.device)
        self.ran.append(" ".join(command))
        return Outcome("ended with status 1" if command[0] in self.failing else None, "")


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """The request directory, owned by us."""
    directory = tmp_path / "recover"
    directory.mkdir()
    return directory


@pytest.fixture
def entries() -> Entries:
    """What has been logged, parsed."""
    stream = io.StringIO()
    log.start("info", "json", under_journald=False, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def allow(verb: str) -> str:
    """Let everything be done to wlan0."""
    return "wlan0"


def ask(directory: Path, verb: str) -> Path:
    """Leave a proper request."""
    path = directory / verb
    path.write_text(json.dumps(REQUEST))
    return path


@pytest.mark.parametrize(
    ("verb", "in_use", "commands"),
    [
        ("reconnect", NETWORK_MANAGER, ["nmcli --wait 45 device connect wlan0"]),
        ("reconnect", SUPPLICANT, [REASSOCIATE]),
        ("reconnect", frozenset(), [REASSOCIATE]),
        ("radio-cycle", NETWORK_MANAGER, [
            "nmcli device set wlan0 managed no",
            "ip link set dev wlan0 down",
            "ip link set dev wlan0 up",
            "nmcli device set wlan0 managed yes",
            "nmcli device set wlan0 autoconnect yes",
        ]),
        ("radio-cycle", SUPPLICANT, ["ip link set dev wlan0 down", "ip link set dev wlan0 up", REASSOCIATE]),
        ("restart-network", NETWORK_MANAGER, ["systemctl restart NetworkManager.service wpa_supplicant.service"]),
        ("restart-network", SUPPLICANT, ["systemctl restart wpa_supplicant@wlan0.service dhcpcd.service"]),
        ("restart-network", frozenset(), []),
        ("reboot", NETWORK_MANAGER, ESCALATION),
        ("reboot", frozenset(), ESCALATION),
    ],
)
def test_a_verb_becomes_these_commands(verb: str, in_use: frozenset[str], commands: list[str]) -> None:
    assert [" ".join(command) for command in plan(verb, "wlan0", in_use, connected=False)] == commands


@pytest.mark.parametrize("states, device, commands", [
    ({"NetworkManager.service": "active"}, "100 (connected)",
     ["nmcli --wait 45 device disconnect wlan0", "nmcli device set wlan0 autoconnect yes"]),
    ({"NetworkManager.service": "active"}, "30 (disconnected)", ["nmcli --wait 45 device connect wlan0"]),
    ({"NetworkManager.service": "active"}, "", ["nmcli --wait 45 device connect wlan0"]),
    ({"wpa_supplicant@wlan0.service": "active"}, "100 (connected)", [REASSOCIATE]),
])
def test_networkmanager_chooses_anew_where_it_has_connected_to_a_wrong_network(
    requests: Path, states: dict[str, str], device: str, commands: list[str]
) -> None:
    host = Host(states, device)
    ask(requests, "reconnect")
    assert serve("reconnect", str(requests), US, allow, host.run)
    assert host.ran == commands


def test_a_network_service_that_failed_is_restarted(requests: Path) -> None:
    host = Host({"NetworkManager.service": "failed", "wpa_supplicant.service": "active"})
    ask(requests, "restart-network")
    assert serve("restart-network", str(requests), US, allow, host.run)
    assert host.ran == ["systemctl restart NetworkManager.service wpa_supplicant.service"]


def test_the_state_of_each_service_is_told_apart(requests: Path) -> None:
    host = Host({"wpa_supplicant@wlan0.service": "active", "networking.service": "activating"})
    ask(requests, "restart-network")
    assert serve("restart-network", str(requests), US, allow, host.run)
    assert host.ran == ["systemctl restart wpa_supplicant@wlan0.service networking.service"]


def test_without_a_known_network_service_a_restart_is_a_failure(requests: Path, entries: Entries) -> None:
    ask(requests, "restart-network")
    assert not serve("restart-network", str(requests), US, allow, Host().run)
    assert [entry["event"] for entry in entries()] == ["recovery.accepted", "recovery.failed"]


def test_the_journal_says_what_is_done_and_why(requests: Path, entries: Entries) -> None:
    ask(requests, "reconnect")
    assert serve("reconnect", str(requests), US, allow, Host().run)
    accepted, command = entries()
    assert (accepted["event"], accepted["level"], accepted["verb"]) == ("recovery.accepted", "warning", "reconnect")
    assert (accepted["interface"], accepted["reason"]) == ("wlan0", REQUEST["reason"])
    assert (command["event"], command["message"]) == ("recovery.command", f"{REASSOCIATE}: done")


def test_a_reboot_that_does_not_come_is_asked_for_with_more_force(requests: Path, entries: Entries) -> None:
    waits: list[float] = []
    host = Host()
    ask(requests, "reboot")
    assert not serve("reboot", str(requests), US, allow, host.run, waits.append)
    assert host.ran == ESCALATION and waits == [120.0] * 3
    assert [entry["event"] for entry in entries()] == ["recovery.accepted", *["recovery.command"] * 3,
                                                       "recovery.failed"]


def test_the_radio_comes_up_again_even_when_a_command_before_it_failed(requests: Path) -> None:
    host = Host({"NetworkManager.service": "active"}, failing=frozenset({"nmcli"}))
    ask(requests, "radio-cycle")
    assert not serve("radio-cycle", str(requests), US, allow, host.run)
    assert "ip link set dev wlan0 up" in host.ran and host.ran[-1].endswith("wlan0 autoconnect yes")


def test_the_request_is_gone_before_the_first_command_runs(requests: Path) -> None:
    """A request that comes while the commands run is a new one and stays."""
    path = ask(requests, "reconnect")
    there: list[bool] = []

    def run(command: Command) -> Outcome:
        there.append(path.exists())
        ask(requests, "reconnect")
        return Outcome(None, "")

    assert serve("reconnect", str(requests), US, allow, run)
    assert there[0] is False and path.exists()


def test_without_a_request_nothing_is_done(requests: Path) -> None:
    host = Host()
    assert serve("reboot", str(requests), US, allow, host.run)
    assert serve("reboot", str(requests / "missing"), US, allow, host.run)
    assert host.ran == []


@pytest.mark.parametrize("verb", ["reconnect", "unknown"])
def test_strays_are_removed_by_every_run(verb: str, requests: Path, entries: Entries) -> None:
    ask(requests, "reboot")
    (requests / ".reconnect.new").write_text("{")
    for name in ("format", "reboot.new", "REBOOT", "re\nboot", os.fsdecode(b"\xff\xfe")):
        (requests / name).write_text("{}")
    (requests / "folder").mkdir()
    (requests / "folder" / "file").touch()
    (requests / "link").symlink_to("/etc/passwd")
    host = Host()
    assert not serve(verb, str(requests), US, allow, host.run)
    assert sorted(os.listdir(requests)) == [".reconnect.new", "reboot"] and host.ran == []
    refused = entries()
    assert {entry["event"] for entry in refused} == {"recovery.refused"} and len(refused) == 7


def make_link(path: Path) -> None:
    """A link to a request that would be fine in itself."""
    path.with_name("..elsewhere").write_text(json.dumps(REQUEST))
    path.symlink_to("..elsewhere")


def make_pipe(path: Path) -> None:
    """A pipe that nobody writes into."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_folder(path: Path) -> None:
    """A folder with something in it."""
    (path / "deep").mkdir(parents=True)


def make_large(path: Path) -> None:
    """A request one byte too large."""
    path.write_text(json.dumps(REQUEST).ljust(MAX_REQUEST_BYTES + 1))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_link, "symbolic link"),
        (make_pipe, "not a regular file"),
        (make_socket, "cannot be opened"),
        (make_folder, "not a regular file"),
        (make_large, f"larger than {MAX_REQUEST_BYTES} bytes"),
    ],
)
def test_what_is_no_plain_small_file_is_refused_and_removed(
    make: Callable[[Path], None], why: str, requests: Path, entries: Entries
) -> None:
    path = requests / "reboot"
    make(path)
    host = Host()
    assert not serve("reboot", str(requests), US, allow, host.run)
    assert not os.path.lexists(path) and host.ran == []
    assert why in entries()[-1]["reason"]


def test_a_file_of_somebody_else_is_refused_and_removed(requests: Path) -> None:
    path = ask(requests, "reboot")
    directory = os.open(requests, os.O_RDONLY)
    with pytest.raises(Refused, match="does not belong to iotd"):
        take(directory, "reboot", US + 1)
    os.close(directory)
    assert not path.exists()


def test_the_request_of_the_largest_size_is_taken(requests: Path) -> None:
    ask(requests, "reconnect").write_text(json.dumps(REQUEST).ljust(MAX_REQUEST_BYTES))
    assert serve("reconnect", str(requests), US, allow, Host().run)


@pytest.mark.parametrize("owner", [US, US + 1])
def test_a_directory_that_is_a_link_or_not_ours_is_not_touched(requests: Path, owner: int) -> None:
    """Else a link to /etc would have root remove what lies there."""
    (requests / "passwd").touch()
    (requests.parent / "link").symlink_to(requests)
    path = requests.parent / "link" if owner == US else requests
    with pytest.raises(Refused):
        open_directory(str(path), owner)
    assert not serve("unknown", str(path), owner, allow, Host().run)
    assert (requests / "passwd").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"reboot",
        b"[" * 1000,
        b'["wlan0", "why"]',
        b'{"interface": "wlan0"}',
        b'{"reason": 1}',
        b'{"reason": null}',
    ],
)
def test_a_malformed_request_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        reason_of(body)


def test_of_a_request_nothing_but_its_reason_is_taken(requests: Path, entries: Entries) -> None:
    ask(requests, "radio-cycle").write_text(json.dumps({"interface": "eth0", "verb": "reboot", "reason": "届かない"}))
    host = Host({"NetworkManager.service": "active"})
    assert serve("radio-cycle", str(requests), US, allow, host.run)
    assert entries()[0]["reason"] == "届かない" and host.ran
    assert not [command for command in host.ran if "eth0" in command or "reboot" in command]


def test_what_is_not_allowed_is_refused_and_its_request_is_gone(requests: Path, entries: Entries) -> None:
    def refuse(verb: str) -> str:
        raise Refused(f"{verb} is not allowed")

    path, host = ask(requests, "reboot"), Host()
    assert not serve("reboot", str(requests), US, refuse, host.run)
    assert host.ran == [] and not path.exists()
    assert [(entry["event"], entry["reason"]) for entry in entries()] == [("recovery.refused", "reboot is not allowed")]


def test_the_services_in_question_name_the_interface() -> None:
    assert "wpa_supplicant@wlan1.service" in network_services("wlan1")
    assert all("wlan1" not in word for command in plan("reboot", "wlan1", frozenset(), False) for word in command)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (("sh", "-c", "echo heard; echo seen >&2"), Outcome(None, "heard\nseen")),
        (("sh", "-c", "echo why; exit 3"), Outcome("ended with status 3", "why")),
        (("no-such-command",), Outcome("cannot be run: No such file or directory", "")),
        (("cat",), Outcome(None, "")),
    ],
)
def test_how_a_command_ended_is_told(command: Command, outcome: Outcome) -> None:
    assert run_command(command) == outcome


def test_every_verb_has_a_plan() -> None:
    for verb in VERBS:
        assert plan(verb, "wlan0", NETWORK_MANAGER, connected=False)
