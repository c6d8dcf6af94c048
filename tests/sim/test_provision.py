"""A device that is provisioned in the simulation: its power cut at every write and at every moment, answers lost, twice
and late, and its certificate renewed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from iotd.host.identity import IDENTITY
from iotd.vocabulary import Signalled
from tests.aws.provisioning import CREATE, REGISTER, Answer, Provisioning, Template
from tests.sim.disk import STATE
from tests.sim.session import LATENCY_S
from tests.sim.world import SIGHUP, Simulation

FOLDER = STATE / "identity"
CONFIGURATION = """
mqtt: {host: broker, tls: {}}
publish: [{topic: 'plant/{thing}/state', every: 30s, payload: {n: '{sequence}'}}]
provision: {template: fleet, parameters: {SerialNumber: '{cpu_serial}'}, renew: 0s, renew_after: %s}
"""


class Fleet(Simulation):
    """A device that has nothing but the claim, and the account that it is to become a thing of."""

    def __init__(self, renew_after: str = "0s", **rules: Any) -> None:
        super().__init__(CONFIGURATION % renew_after)
        self.identity = self.identity._replace(cpu_serial="7")
        self.cloud = self.account
        self.cloud.rules = Provisioning({"fleet": Template({"SerialNumber": None}, "pi-{SerialNumber}")},
                                        self.cloud.rules.sign, self.clock.wall, **rules)

    @property
    def keys(self) -> int:
        """How many keys were made."""
        return self.cloud.keys

    @property
    def thing(self) -> str:
        """Who is connected, nothing for nobody."""
        session = self.session
        return session.dial_data.client_id if session is not None and session.up and session.dial_data else ""

    @property
    def files(self) -> dict[str, str]:
        """What lies in the folder of the identity."""
        return {path.removeprefix(f"{FOLDER}/"): content.decode() for path, content in self.disk.content.items()
                if path.startswith(f"{FOLDER}/")}

    @property
    def provisioning(self) -> dict[str, Any]:
        """What `iotd status` shows of it."""
        assert self.daemon is not None
        status: dict[str, Any] = self.daemon.status()["provision"]
        return status

    def ask(self, word: str) -> str:
        """Ask as root does."""
        assert self.daemon is not None
        return self.daemon.ask(word, self.clock.monotonic())

    def is_settled(self) -> None:
        """Assert that it is one thing, connected, with one pair that fits, and nothing else kept."""
        assert self.thing == "pi-7", self.log.getvalue()
        assert list(self.cloud.rules.things) == ["pi-7"]
        place = json.loads(self.files[IDENTITY])["place"]
        assert sorted(self.files) == sorted([f"{place}.crt", f"{place}.key", IDENTITY])
        certificate, key = self.files[f"{place}.crt"], self.files[f"{place}.key"]
        assert certificate.split(" ")[0] == key, "the certificate is this key's"
        certified = {known.pem: known for known in self.cloud.rules.certificates.values()}
        assert certified[certificate].status == "ACTIVE"


def power_cut(fleet: Fleet) -> None:
    fleet.reboot(orderly=False)


def killed(fleet: Fleet) -> None:
    fleet.kill()
    fleet.restart()


def settle(fleet: Fleet) -> None:
    """Let it come to rest, boot once more, and see what it has come to."""
    fleet.run(200.0)
    fleet.reboot(orderly=False)
    fleet.run(90.0)
    fleet.is_settled()


def test_a_claim_becomes_a_thing() -> None:
    fleet = Fleet()
    fleet.start()
    fleet.run(10.0)
    fleet.is_settled()
    assert [entry["step"] for entry in fleet.entries("provision.registered")] == ["identity"]
    assert len(fleet.cloud.rules.certificates) == 1
    said = {delivered.message.topic for delivered in fleet.broker.seen if not delivered.message.topic.startswith("$")}
    assert said and all("/pi-7/" in topic for topic in said), "nothing is said in the name of the claim"


@pytest.mark.parametrize("end", [power_cut, killed])
@pytest.mark.parametrize("once", [False, True])
def test_cut_in_the_midst_of_any_write_it_becomes_one_thing(end: Callable[[Fleet], None], once: bool) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        fleet = Fleet(once=once)
        fleet.disk.dies_in, fleet.disk.dies = number, partial(end, fleet)
        fleet.start()
        fleet.run(5.0)
        ended = fleet.disk.dies_in > 0
        fleet.disk.dies_in = 0
        settle(fleet)
    assert number > 6


@pytest.mark.parametrize("end", [power_cut, killed])
def test_cut_at_any_moment_it_becomes_one_thing(end: Callable[[Fleet], None]) -> None:
    for moment in range(40):
        fleet = Fleet(once=moment % 2 == 1)
        fleet.start()
        fleet.run(0.001 + 0.01 * moment)
        end(fleet)
        settle(fleet)


def test_a_registration_whose_answer_was_lost_is_asked_for_again_with_the_same_token() -> None:
    fleet, heard = Fleet(), []

    def lost(answer: Answer) -> list[tuple[float, Answer]]:
        heard.append(answer)
        return [] if len(heard) == 2 else [(LATENCY_S, answer)]

    fleet.cloud.deliver = lost
    fleet.start()
    fleet.run(5.0)
    power_cut(fleet)
    settle(fleet)
    assert len(fleet.cloud.rules.certificates) == 1 and fleet.keys == 1


@pytest.mark.parametrize("delays", [(), (0.02, 0.03), (9.0,), (11.0,), (30.0, 31.0)])
def test_answers_that_are_lost_twice_or_late_at_first_lead_to_one_thing(delays: tuple[float, ...]) -> None:
    fleet, answers = Fleet(), [0]

    def deliver(answer: Answer) -> list[tuple[float, Answer]]:
        answers[0] += 1
        return [(after_s, answer) for after_s in (delays if answers[0] <= 4 else (LATENCY_S,))]

    fleet.cloud.deliver = deliver
    fleet.start()
    fleet.run(400.0)
    settle(fleet)


@pytest.mark.parametrize("operation, status, code", [
    ("create", 429, "TooManyRequests"), ("create", 500, "InternalFailure"), ("register", 403, "AccessDenied"),
    ("register", 400, "InvalidCertificateOwnershipToken"), ("register", 409, "ResourceConflictsException"),
])
def test_what_is_refused_is_told_in_the_services_words_and_tried_again(
    operation: str, status: int, code: str
) -> None:
    fleet = Fleet()
    for _ in range(3):
        fleet.cloud.rules.fail_next(operation, status, code, "because")
    fleet.start()
    fleet.run(600.0)
    failures = fleet.entries("provision.failed")
    assert len(failures) == 3 and all(f"{status} {code} because" in entry["reason"] for entry in failures)
    assert all(entry["retry_in_s"] <= 2.0 ** number for number, entry in enumerate(failures, 1))
    fleet.is_settled()


def test_a_template_that_is_unknown_is_named_for_as_long_as_it_is_and_said_in_the_status() -> None:
    fleet = Fleet()
    templates, fleet.cloud.rules.templates = fleet.cloud.rules.templates, {}
    fleet.start()
    fleet.run(600.0)
    assert fleet.thing.startswith("claim-") and fleet.keys == 1, "its key, its certificate and its token are kept"
    assert fleet.daemon is not None
    status = fleet.daemon.status()
    assert not status["healthy"] and any("Template fleet not found" in problem for problem in status["problems"])
    assert status["provision"]["step"] == "register"
    assert any(sentence.startswith("provisioning: register") for sentence in status["sentences"])
    fleet.cloud.rules.templates = templates
    fleet.run(4000.0)
    fleet.is_settled()


def test_a_clock_that_is_not_set_is_named_and_waited_for() -> None:
    fleet = Fleet()
    fleet.clock.is_set = False
    fleet.network.failing.append("clock")
    fleet.start()
    fleet.run(30.0)
    [failure] = fleet.entries("provision.failed")
    assert failure["step"] == "connect" and "not yet valid" in failure["reason"]
    fleet.clock.is_set = True
    fleet.network.failing.clear()
    fleet.run(30.0)
    fleet.is_settled()


def test_a_disk_that_cannot_be_written_is_named_and_nothing_is_asked_before_it_can() -> None:
    fleet = Fleet()
    fleet.disk.failures.append("full")
    fleet.start()
    fleet.run(20.0)
    assert "the identity cannot be kept" in fleet.entries("provision.failed")[0]["reason"]
    assert not fleet.cloud.rules.certificates
    fleet.disk.failures.clear()
    fleet.run(60.0)
    fleet.is_settled()


def test_a_pair_that_is_lost_is_replaced_and_the_thing_stays_the_same() -> None:
    fleet = Fleet()
    fleet.start()
    fleet.run(10.0)
    fleet.kill()
    for content in (fleet.disk.content, fleet.disk.synced):
        del content[f"{FOLDER}/a.key"]
    fleet.start()
    settle(fleet)
    assert any("cannot be used" in entry.get("reason", "") for entry in fleet.entries("provision.started"))


def test_a_file_that_is_spoilt_meanwhile_does_not_keep_the_device_from_its_name() -> None:
    fleet = Fleet()
    fleet.start()
    good, fleet.configuration = fleet.configuration, "mqtt: {}"
    fleet.run(300.0)
    fleet.is_settled()
    assert len(fleet.entries("daemon.reload_failed")) == 1
    assert fleet.daemon is not None and "is not in force" in fleet.daemon._configuration.problem()
    fleet.configuration = good
    fleet.daemon.post(Signalled(SIGHUP))
    fleet.run(10.0)
    assert not fleet.daemon._configuration.problem()


def test_where_the_new_certificate_fails_the_old_one_is_used_again_although_the_file_has_problems() -> None:
    fleet = Fleet("1d")
    fleet.start()
    fleet.run(86_000.0)
    fleet.configuration = "mqtt: {}"
    while not fleet.entries("provision.registered")[1:]:
        fleet.run(1.0)
    fleet.network.failing.append("tls")
    fleet.reboot(orderly=False)
    fleet.run(1800.0)
    assert fleet.entries("provision.failed")[-1]["step"] == "connect"
    assert fleet.daemon is not None and fleet.daemon.settings.mqtt.tls is not None
    assert fleet.daemon.settings.mqtt.tls.cert in fleet.disk.content, "it dials with what is there"
    fleet.network.failing.clear()
    fleet.run(900.0)
    fleet.is_settled()


@pytest.mark.parametrize("topic", [CREATE, f"{CREATE}/accepted", f"{REGISTER.format('fleet')}/rejected",
                                   REGISTER.format("fleet")])
def test_a_claim_whose_policy_allows_too_little_is_named_and_the_line_is_not_torn_for_ever(topic: str) -> None:
    fleet = Fleet()
    fleet.broker.denied = {topic}
    fleet.start()
    fleet.run(1800.0)
    [denied] = fleet.entries("session.denied")
    assert denied["action"] == "provisioning" and len(fleet.entries("session.connected")) < 20
    assert fleet.daemon is not None and any("denied" in problem for problem in fleet.daemon.status()["problems"])
    fleet.broker.denied = set()
    fleet.run(7200.0)
    settle(fleet)


# Renewal

def not_renewed(fleet: Fleet) -> str:
    """Return the problem that `iotd status` tells of a renewal, nothing for none."""
    assert fleet.daemon is not None
    return "".join(problem for problem in fleet.daemon.status()["problems"] if "not renewed" in problem)


def provisioned(renew_after: str = "0s", **rules: Any) -> Fleet:
    fleet = Fleet(renew_after, **rules)
    fleet.start()
    fleet.run(10.0)
    fleet.is_settled()
    return fleet


def test_a_certificate_is_renewed_at_its_age_on_the_running_line_and_the_old_one_goes() -> None:
    fleet = provisioned("20h")
    old = fleet.files["a.key"]
    fleet.run(19 * 3600.0)
    assert fleet.entries("provision.renewed") == []
    fleet.run(3 * 3600.0)
    assert len(fleet.entries("provision.renewed")) == 1
    fleet.is_settled()
    assert old not in fleet.files.values() and len(fleet.cloud.rules.things["pi-7"]) == 2
    assert len(fleet.entries("session.disconnected")) == 2, "that of the claim, and one for the new certificate"


def test_a_certificate_that_brings_no_line_up_goes_and_the_old_one_is_used_again() -> None:
    fleet = provisioned()
    old = fleet.files
    assert fleet.ask("renew") == ""

    def refuse(answer: Answer) -> list[tuple[float, Answer]]:
        if "provisioning-templates" in answer.topic:
            fleet.broker.refusal = "not authorized"
            fleet.schedule.after(90.0, lambda: setattr(fleet.broker, "refusal", ""))
        return [(LATENCY_S, answer)]

    fleet.cloud.deliver = refuse
    fleet.run(200.0)
    fleet.is_settled()
    assert fleet.files["a.key"] == old["a.key"] and fleet.entries("provision.renewed") == []
    failure = fleet.entries("provision.failed")[-1]
    assert failure["step"] == "connect" and "the old one is used again" in failure["reason"]
    assert fleet.daemon is not None and any("not renewed" in problem for problem in fleet.daemon.status()["problems"])
    assert "less than an hour ago" in fleet.ask("renew")
    fleet.cloud.deliver = lambda answer: [(LATENCY_S, answer)]
    fleet.run(3600.0)
    assert fleet.ask("renew") == ""
    fleet.run(60.0)
    assert len(fleet.entries("provision.renewed")) == 1 and fleet.daemon.status()["healthy"]
    fleet.is_settled()


def test_a_renewal_that_fails_is_tried_no_more_than_once_in_a_tenth_of_the_time() -> None:
    fleet = provisioned("20h", hook=lambda parameters: fleet_may[0])
    fleet_may[0] = False
    fleet.run(23 * 3600.0)
    assert "AccessDenied" in not_renewed(fleet)
    fleet.restart(0.0)
    fleet.kill()
    fleet.run(60.0)
    assert "it is due" in not_renewed(fleet), "another run knows of it too"
    begun = len(fleet.entries("provision.started"))
    assert begun in (2, 3) and len(fleet.cloud.rules.certificates) <= begun
    fleet_may[0] = True
    fleet.run(3 * 3600.0)
    fleet.is_settled()
    assert len(fleet.entries("provision.renewed")) == 1 and not_renewed(fleet) == ""


def test_a_renewal_that_was_asked_for_in_vain_is_no_problem_for_ever() -> None:
    fleet = provisioned("900d", hook=lambda parameters: fleet_may[0])
    fleet_may[0] = False
    assert fleet.ask("renew") == ""
    fleet.run(600.0)
    assert fleet.provisioning["step"] is None and "AccessDenied" in not_renewed(fleet)
    fleet.run(3600.0)
    assert not_renewed(fleet) == "" and fleet.daemon is not None and fleet.daemon.status()["healthy"]
    assert "AccessDenied" in fleet.provisioning["reason"]
    fleet_may[0] = True


fleet_may = [True]


@pytest.mark.parametrize("end", [power_cut, killed])
def test_cut_in_the_midst_of_any_write_of_a_renewal_it_stays_the_thing(end: Callable[[Fleet], None]) -> None:
    number, ended = 0, False
    while not ended:
        number += 1
        fleet = provisioned()
        fleet.disk.dies_in, fleet.disk.dies = number, partial(end, fleet)
        fleet.schedule.after(LATENCY_S, partial(fleet.ask, "renew"))
        fleet.run(8.0)
        ended = fleet.disk.dies_in > 0
        fleet.disk.dies_in = 0
        settle(fleet)
    assert number > 6


def test_a_renewal_that_the_policy_denies_ends_and_leaves_the_line_alone() -> None:
    fleet = provisioned()
    fleet.broker.denied = {CREATE}
    assert fleet.ask("renew") == ""
    fleet.run(3000.0)
    connected = len(fleet.entries("session.connected"))
    assert fleet.thing == "pi-7" and connected < 20
    fleet.run(10_000.0)
    assert len(fleet.entries("session.connected")) <= connected + 1
    fleet.is_settled()


def test_the_claim_is_used_again_on_demand_and_given_up_where_it_is_refused() -> None:
    fleet = provisioned(hook=lambda parameters: fleet_may[0])
    old = fleet.files
    fleet_may[0] = False
    assert fleet.ask("provision again") == ""
    fleet.run(30.0)
    fleet.is_settled()
    assert fleet.files["a.key"] == old["a.key"] and "AccessDenied" in fleet.provisioning["reason"]
    fleet_may[0] = True
    assert fleet.ask("provision again") == ""
    fleet.run(30.0)
    fleet.is_settled()
    assert old["a.key"] not in fleet.files.values()


def test_a_claim_that_brings_no_line_up_is_given_up_for_the_identity_that_is_there() -> None:
    fleet = provisioned()
    assert fleet.ask("provision again") == ""
    fleet.broker.refusal = "not authorized"
    fleet.run(15.0)
    assert fleet.provisioning["reason"].startswith("connect: ") and "not authorized" in fleet.provisioning["reason"]
    fleet.broker.refusal = ""
    fleet.run(60.0)
    fleet.is_settled()
    assert fleet.keys == 2 and fleet.files["a.key"] == "key-1"


def test_whoever_asks_where_there_is_no_line_is_told_so() -> None:
    fleet = Fleet()
    fleet.network.passes = False
    fleet.start()
    fleet.run(60.0)
    ended = fleet.provisioning["ended"]
    assert fleet.ask("provision") == ""
    fleet.run(11.0)
    assert fleet.provisioning["ended"] == ended + 1 and "no answer in time" in fleet.provisioning["reason"]
    fleet.network.passes = True
    fleet.run(60.0)
    fleet.is_settled()
    fleet.cut_line()
    fleet.run(1.0)
    assert "there is no line to ask on" in fleet.ask("renew")


def test_what_is_asked_for_at_the_wrong_time_is_refused_or_already_done() -> None:
    fleet = Fleet()
    fleet.cloud.rules.fail_next("create", 500, "InternalFailure")
    fleet.network.passes = False
    fleet.start()
    assert "no identity yet" in fleet.ask("renew") and fleet.ask("provision") == ""
    assert "nothing in the configuration" in fleet.ask("dance")
    fleet.network.passes = True
    fleet.run(60.0)
    assert fleet.ask("provision") == ""
    fleet.is_settled()


# A disk that takes nothing at the moment when the identity changes

def test_a_new_certificate_that_cannot_be_noted_as_a_good_one_is_so_as_soon_as_the_disk_takes_it() -> None:
    fleet = provisioned()
    assert fleet.ask("renew") == ""
    fleet.cloud.deliver = lambda answer: [(LATENCY_S, answer)]
    while not fleet.entries("provision.registered")[1:]:
        fleet.run(0.01)
    fleet.disk.failures.append("read-only")
    fleet.run(1200.0)
    assert fleet.thing == "pi-7" and not fleet.entries("provision.renewed")
    assert any("cannot be kept" in problem for problem in fleet.daemon.status()["problems"])  # type: ignore[union-attr]
    fleet.disk.failures.clear()
    fleet.run(700.0)
    assert len(fleet.entries("provision.renewed")) == 1
    fleet.is_settled()


def test_a_claim_that_is_given_up_on_a_disk_that_takes_nothing_gives_way_as_soon_as_it_does() -> None:
    """The device stayed on the line of the claim, and nothing was asked there any more, until somebody came."""
    fleet = provisioned()
    assert fleet.ask("provision again") == ""
    fleet.run(0.001)
    fleet.disk.failures.append("read-only")
    fleet.run(3600.0)
    assert fleet.thing.startswith("claim-")
    fleet.disk.failures.clear()
    fleet.run(700.0)
    fleet.is_settled()
    assert fleet.files["a.key"] == "key-1"


def test_a_certificate_that_brings_no_line_up_goes_as_soon_as_the_disk_takes_that_it_does() -> None:
    fleet = provisioned()
    assert fleet.ask("renew") == ""
    while not fleet.entries("provision.registered")[1:]:
        fleet.run(0.01)
    fleet.broker.refusal = "not authorized"
    fleet.disk.failures.append("read-only")
    fleet.run(1800.0)
    fleet.disk.failures.clear()
    fleet.run(620.0)
    fleet.broker.refusal = ""
    fleet.run(130.0)
    fleet.is_settled()
    assert fleet.files["a.key"] == "key-1" and not fleet.entries("provision.renewed")
