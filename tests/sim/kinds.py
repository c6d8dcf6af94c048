"""The kinds of fault, by groups: how long each may last, and what lets it begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tests.sim import faults
from tests.sim.device import FEED_S
from tests.sim.disk import FAILURES
from tests.sim.session import LATENCY_S

if TYPE_CHECKING:
    from tests.sim.swarm import Fault
    from tests.sim.world import Simulation

BIRTH = "Home Assistant starts"  # of no group: it is drawn where Home Assistant is told of the device
HOUR_S, DAY_S = 3600.0, 86400.0


class Kind(NamedTuple):
    """One kind: `begin` lets it begin and returns what ends it, nothing where it is over at once."""

    group: str
    longest_s: float
    begin: Callable[[Simulation, Fault], faults.End | None]


KINDS: dict[str, Kind] = {
    **{f"{step} fails": Kind("network", DAY_S, faults.listed(lambda simulation: simulation.network.failing, step))
       for step in ("dns", "tcp", "tls", "proxy")},
    "nothing passes": Kind("network", 3 * DAY_S, faults.counted("network is down")),
    "half-open for a moment": Kind("network", 90.0, faults.counted("network is down")),
    "lines fall": Kind("network", HOUR_S, faults.flap),
    "line reset": Kind("network", 0.0, faults.reset),
    "kicked": Kind("broker", 0.0, faults.kick),
    "duplicate client": Kind("broker", 2 * HOUR_S, faults.steal),
    "refused": Kind("broker", 6 * HOUR_S, faults.raised("refusal", lambda fault: "it is not available", "")),
    "slow CONNACK": Kind("broker", HOUR_S, faults.raised("connack_s", lambda fault: 14.0 * fault.way, 0.0)),
    "slow answers": Kind("broker", HOUR_S, faults.raised("answer_s", lambda fault: 25.0 * fault.way, LATENCY_S)),
    "late wills": Kind("broker", DAY_S, faults.raised("will_delay_s", lambda fault: 90.0 * fault.way, 0.0)),
    "sessions or retained lost": Kind("broker", 0.0, faults.forget),
    "grants less": Kind("broker", DAY_S, faults.raised("grants", lambda fault: 0, 1)),
    "denied": Kind("policy", DAY_S, faults.added("denied")),
    "refused filter": Kind("policy", DAY_S, faults.added("refused")),
    "poison": Kind("policy", DAY_S, faults.added("poison")),
    "mute": Kind("policy", HOUR_S, faults.added("mute")),
    **{f"shadow answers {mood}": Kind("shadow", 6 * HOUR_S, faults.listed(
        lambda simulation: simulation.broker.shadows.moods, mood))
       for mood in ("mixed", "twice", "lost", "refused", "late", "garbled")},
    "wish": Kind("cloud", 0.0, faults.wish),
    "wish that fails": Kind("cloud", HOUR_S, faults.in_the_midst(faults.counted("commands fail"), faults.wish)),
    "wish on a full disk": Kind("cloud", HOUR_S, faults.in_the_midst(faults.listed(
        lambda simulation: simulation.disk.failures, "full"), faults.wish)),
    "wishes against each other": Kind("cloud", 2 * HOUR_S, faults.again_and_again(
        lambda simulation, fault: simulation.wishes.wish(fault.way))),
    "another reports": Kind("cloud", 2 * HOUR_S, faults.again_and_again(
        lambda simulation, fault: simulation.wishes.overrule(fault.way))),
    "wish taken back": Kind("cloud", 0.0, lambda simulation, fault: simulation.wishes.take_back(fault.way)),
    "change of mind": Kind("cloud", HOUR_S, faults.change_of_mind),
    "shadow deleted": Kind("cloud", 0.0, lambda simulation, fault: simulation.wishes.delete(fault.way)),
    "lie on the presence topic": Kind("cloud", 0.0, faults.lie),
    "notice": Kind("cloud", 0.0, faults.notice),
    "notices": Kind("cloud", 0.0, faults.notices),
    "notices that fail": Kind("cloud", HOUR_S, faults.in_the_midst(faults.counted("commands fail"), faults.notices)),
    "notice too large": Kind("cloud", 0.0, faults.too_large),
    "commands fail": Kind("programs", 3 * HOUR_S, faults.counted("commands fail")),
    "commands are slow": Kind("programs", 3 * HOUR_S, faults.counted("commands are slow")),
    "values fail": Kind("programs", 6 * HOUR_S, faults.counted("values fail")),
    "values are long": Kind("programs", 6 * HOUR_S, faults.counted("values are long")),
    "values hang": Kind("programs", 6 * HOUR_S, faults.counted("values hang")),
    "programs are away": Kind("programs", 6 * HOUR_S, faults.counted("programs are away")),
    "door is shut": Kind("programs", 6 * HOUR_S, faults.shut),
    "program in a hurry": Kind("programs", 0.0, faults.burst),
    "program in error": Kind("programs", 0.0, faults.err),
    "checks fail": Kind("programs", 6 * HOUR_S, faults.counted("checks fail")),
    "checks hang": Kind("programs", 6 * HOUR_S, faults.counted("checks hang")),
    "job": Kind("jobs", 0.0, faults.job),
    "job that makes no sense": Kind("jobs", 0.0, faults.no_job),
    "job that is cancelled": Kind("jobs", HOUR_S, faults.job_for_a_while),
    **{f"job answers {mood}": Kind("jobs", 6 * HOUR_S, faults.listed(lambda simulation: simulation.jobs.moods, mood))
       for mood in ("twice", "lost", "refused", "late")},
    "renewal asked for": Kind("provisioning", 0.0, faults.ask("renew")),
    "claim asked for": Kind("provisioning", 0.0, faults.ask("provision again")),
    **{f"provisioning answers {mood}": Kind("provisioning", 6 * HOUR_S, faults.listed(
        lambda simulation: simulation.account.moods, mood)) for mood in ("twice", "lost", "refused", "late")},
    **{f"access point {wrong}": Kind("Wi-Fi", 12 * HOUR_S, faults.listed(
        lambda simulation: simulation.air.wrong, wrong)) for wrong in ("gone", "other", "absent", "unknown")},
    "access point gone for a moment": Kind("Wi-Fi", 120.0, faults.listed(
        lambda simulation: simulation.air.wrong, "gone")),
    "driver stuck": Kind("Wi-Fi", DAY_S, faults.stick),
    "another route": Kind("Wi-Fi", DAY_S, faults.another_route),
    "helper does nothing": Kind("Wi-Fi", 6 * HOUR_S, faults.counted("helper does nothing")),
    "looks hang": Kind("Wi-Fi", 3 * FEED_S, faults.counted("looks hang")),
    **{f"disk {failure}": Kind("disk", DAY_S, faults.listed(lambda simulation: simulation.disk.failures, failure))
       for failure in FAILURES},
    "runtime directory full": Kind("disk", HOUR_S, faults.listed(
        lambda simulation: simulation.disk.runtime_failures, "full")),
    "database damaged": Kind("disk", 0.0, faults.damage),
    "killed": Kind("process", 0.0, faults.kill),
    "killed in a write": Kind("process", 0.0, faults.die(power=False)),
    "stopped": Kind("process", 0.0, faults.stop),
    "thread fails": Kind("process", 0.0, faults.thread_fails),
    "thread hangs": Kind("process", 0.0, faults.hang),
    "reload": Kind("process", 0.0, faults.reload),
    "bad configuration": Kind("process", DAY_S, faults.bad_configuration),
    "power cut": Kind("power", 0.0, faults.power),
    "power cut in a write": Kind("power", 0.0, faults.die(power=True)),
    "another board": Kind("power", 0.0, faults.move),
    "rebooted": Kind("power", 0.0, faults.reboot),
    "clock stepped": Kind("clock", DAY_S, faults.step),
    "clock drifts": Kind("clock", 3 * DAY_S, faults.drift),
    "no time service": Kind("clock", DAY_S, faults.counted("no time service")),
    "certificate not yet valid": Kind("clock", DAY_S, faults.listed(
        lambda simulation: simulation.network.failing, "clock")),
    BIRTH: Kind("", 0.0, faults.born),
}
GROUPS: dict[str, list[str]] = {}
for _name, _kind_of in KINDS.items():
    if _kind_of.group:
        GROUPS.setdefault(_kind_of.group, []).append(_name)
