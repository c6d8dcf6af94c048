"""The kinds of fault: how each begins and how it ends. What lasts may overlap, also with itself, and ends in any order.

Each is told by its `way` (0 to 1) which of its ways it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from iotd.vocabulary import Message, PassedOver, Signalled, ThreadFailed
from tests.sim.device import FEED_S
from tests.sim.disk import FAILURES
from tests.sim.jobs import DOCUMENTS
from tests.sim.session import LATENCY_S
from tests.sim.world import SIGHUP, SIGTERM

if TYPE_CHECKING:
    from tests.sim.swarm import Fault
    from tests.sim.world import Simulation

HOUR_S, DAY_S = 3600.0, 86400.0
MOST_JOBS = 3  # that wait at a time
PRESENCE = "MQTTServer/pi/will"
CREATE = "$aws/certificates/create-from-csr/json"

End = Callable[[], None]


class Kind(NamedTuple):
    """One kind: `begin` lets it begin and returns what ends it, nothing where it is over at once."""

    group: str
    longest_s: float
    begin: Callable[[Simulation, Fault], End | None]


def _counted(mood: str) -> Callable[[Simulation, Fault], End]:
    """A mood of the device's surroundings, which lasts as long as anything has it."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        simulation.air.moods[mood] += 1
        simulation.air.changed()

        def end() -> None:
            simulation.air.moods[mood] -= 1
            simulation.air.changed()

        return end
    return begin


def _listed(where: Callable[[Simulation], Any], what: str) -> Callable[[Simulation, Fault], End]:
    """One more in a list, and out of it again; the Wi-Fi may have to do with it."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        where(simulation).append(what)
        simulation.air.changed()

        def end() -> None:
            where(simulation).remove(what)
            simulation.air.changed()

        return end
    return begin


def _raised(name: str, value: Callable[[Fault], Any], well: Any) -> Callable[[Simulation, Fault], End]:
    """A number of the broker's, worse for a while."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        setattr(simulation.broker, name, value(fault))
        return lambda: setattr(simulation.broker, name, well)
    return begin


def _added(name: str) -> Callable[[Simulation, Fault], End]:
    """Topics, filters or payloads that the broker does not like for a while."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        chosen = _choice(_places(simulation, name), fault.way)
        disliked: set[Any] = getattr(simulation.broker, name)
        disliked.update(chosen)

        def end() -> None:
            disliked.difference_update(chosen)

        return end
    return begin


def _places(simulation: Simulation, name: str) -> list[list[Any]]:
    """Return what can be disliked, each with what belongs to it."""
    daemon = simulation.daemon
    if daemon is None:
        return [[]]
    topics = [[entry.topic] for entry in daemon.settings.sections["publish"]]
    filters = [[entry.filter] for entry in daemon.settings.sections.get("subscribe", ())]
    shadows = []
    for entry in daemon.settings.sections.get("shadows", ()):
        prefix = f"$aws/things/pi/shadow/{'' if entry.name is None else f'name/{entry.name}/'}"
        shadows.append([prefix + verb for verb in ("get", "update")])
        filters.append([f"{prefix}{verb}/{word}" for verb in ("get", "update") for word in ("accepted", "rejected")])
    if name == "refused":
        return filters
    ends = ("notify-next", "$next/get") if "jobs" in daemon.settings.sections else ()
    jobs = [[f"$aws/things/pi/jobs/{end}"] for end in ends]
    claims = [[CREATE], [f"{CREATE}/accepted"]] if "provision" in daemon.settings.sections else []
    if name == "poison":
        return [[f":{entry.topic.rpartition('/')[2]}:{digit}".encode()]
                for entry in daemon.settings.sections["publish"] for digit in (2, 11, 123)]
    return topics + filters + shadows + jobs + claims if name == "denied" else topics + shadows + jobs


def _choice(found: list[Any], way: float) -> Any:
    return found[int(way * len(found))] if found else []


def _die(power: bool) -> Callable[[Simulation, Fault], None]:
    """The process, or the power, goes in the midst of one of the next writes."""
    def begin(simulation: Simulation, fault: Fault) -> None:
        disk = simulation.disk
        disk.dies_in = 1 + int(fault.way * 20)

        def dies() -> None:
            if power:
                simulation.reboot(orderly=False)
            else:
                _kill(simulation, fault)

        disk.dies = dies
    return begin


def _kill(simulation: Simulation, fault: Fault) -> None:
    simulation.kill()
    simulation.restart()


def _stop(simulation: Simulation, fault: Fault) -> None:
    if simulation.daemon is not None:
        simulation.daemon.post(Signalled(SIGTERM))
        simulation.restart(1.0 + 60.0 * fault.way)


def _thread_fails(simulation: Simulation, fault: Fault) -> None:
    if simulation.daemon is not None:
        simulation.daemon.post(ThreadFailed("mqtt", "as the seed has it"))


def _hang(simulation: Simulation, fault: Fault) -> None:
    """The MQTT thread hangs, until systemd's watchdog has had enough."""
    session = simulation.session
    if session is not None and simulation.daemon is not None:
        session.hung = True
        runs = simulation.runs
        simulation.schedule.after(4 * FEED_S, lambda: _kill(simulation, fault) if simulation.runs == runs else None)


def _reload(simulation: Simulation, fault: Fault) -> None:
    simulation.configuration = _choice(simulation.configurations, fault.way)
    _signal(simulation, SIGHUP)


def _step(simulation: Simulation, fault: Fault) -> End:
    """Somebody sets the clock wrong, by years either way, until a time service sets it right."""
    years = (-20.0, -1.0, -0.001, 0.0001, 0.01, 1.0, 8.0)[int(fault.way * 7)]
    simulation.clock.set(years * 365 * DAY_S)
    simulation.clock.is_set = False  # settimeofday(2): no time service has done it
    return lambda: simulation.clock.set()


def _drift(simulation: Simulation, fault: Fault) -> End:
    simulation.clock.set(simulation.clock.error_s)
    simulation.clock.drift = (fault.way - 0.5) * 2e-3

    def end() -> None:
        simulation.clock.drift = 0.0
        simulation.clock.set()

    return end


def _steal(simulation: Simulation, fault: Fault) -> End:
    """A second client with the same id comes again and again."""
    over: list[bool] = []

    def come() -> None:
        if not over:
            simulation.broker.close("closed", "the broker closed the line")
            simulation.schedule.after(2.0 + 60.0 * fault.way, come)

    come()
    return lambda: over.append(True)


def _flap(simulation: Simulation, fault: Fault) -> End:
    """Lines are lost at random moments."""
    over: list[bool] = []

    def fall() -> None:
        if not over:
            if simulation.session is not None and simulation.network.passes:
                simulation.session.lose("reset")
            simulation.schedule.after(simulation.chance() * 120.0 * fault.way, fall)

    fall()
    return lambda: over.append(True)


def _reset(simulation: Simulation, fault: Fault) -> None:
    if simulation.session is not None:
        simulation.session.lose("reset")


def _lie(simulation: Simulation, fault: Fault) -> None:
    """Somebody else writes on the presence topic."""
    bodies = (b'{"Hostname": "pi", "status": "Communication lost", "session": "old"}', b"",
              b'{"Hostname": "pi", "status": "Stopped", "session": "old"}', b"nonsense",
              b'{"Hostname": "other", "status": "Communication lost", "session": "old"}')
    simulation.broker.publish(Message(PRESENCE, bodies[int(fault.way * len(bodies))], 1, True))


def _notice(simulation: Simulation, fault: Fault) -> None:
    bodies = (b"{}", b"\xff\xfe", b'{"a": NaN}', b"x" * 50_000, b"[" * 3000)
    simulation.broker.publish(Message(f"plant/all/{int(fault.way * 7919) % 2}", bodies[int(fault.way * len(bodies))]))


def _notices(simulation: Simulation, fault: Fault) -> None:
    """Many at once, more than wait for a command."""
    for _ in range(1 + int(fault.way * 130)):
        simulation.notices += 1
        simulation.broker.publish(Message(f"plant/all/{int(fault.way * 7919) % 2}", b'{"n": %d}' % simulation.notices))


def _too_large(simulation: Simulation, fault: Fault) -> None:
    """A message comes in that is too large to take."""
    session = simulation.session
    if session is not None and session.up and simulation.daemon is not None:
        simulation.daemon.post(PassedOver(session.line, "plant/all/0", 2 << 20))


def _burst(simulation: Simulation, fault: Fault) -> None:
    """A program publishes as fast as it can."""
    simulation.programs.burst(1 + int(fault.way * 1500))


def _err(simulation: Simulation, fault: Fault) -> None:
    simulation.programs.err(fault.way)


def _bad_configuration(simulation: Simulation, fault: Fault) -> End:
    """The file has a problem for a while, over starts and reloads."""
    good, simulation.configuration = simulation.configuration, "mqtt: {host: 1, prot: x}\n"
    _signal(simulation, SIGHUP)

    def end() -> None:
        if simulation.configuration not in simulation.configurations:
            simulation.configuration = good
        if simulation.daemon is None:
            simulation.restart(1.0)
        _signal(simulation, SIGHUP)

    return end


def _signal(simulation: Simulation, number: int) -> None:
    if simulation.daemon is not None:
        simulation.daemon.post(Signalled(number))


def _wish(simulation: Simulation, fault: Fault) -> None:
    simulation.wishes.wish(fault.way)


def _take_back(simulation: Simulation, fault: Fault) -> None:
    simulation.wishes.take_back(fault.way)


def _change_of_mind(simulation: Simulation, fault: Fault) -> End:
    """Something is desired while the device is away, and taken back before it is there again."""
    end = _counted("network is down")(simulation, fault)
    simulation.schedule.after(fault.for_s / 3, lambda: _wish(simulation, fault))
    simulation.schedule.after(fault.for_s / 2, lambda: simulation.wishes.take_back(0.999))
    return end


def _with(begin: Callable[[Simulation, Fault], End | None],
          do: Callable[[Simulation, Fault], Any]) -> Callable[[Simulation, Fault], End | None]:
    """Something that lasts, and what is done in the midst of it."""
    def both(simulation: Simulation, fault: Fault) -> End | None:
        simulation.schedule.after(min(1.0, fault.for_s / 2), lambda: do(simulation, fault))
        return begin(simulation, fault)
    return both


def _again_and_again(do: Callable[[Simulation, Fault], Any]) -> Callable[[Simulation, Fault], End]:
    """Something that is done every few seconds."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        over: list[bool] = []

        def come() -> None:
            if not over:
                do(simulation, fault)
                simulation.schedule.after(0.5 + 20.0 * fault.way ** 2, come)

        come()
        return lambda: over.append(True)
    return begin


def _overrule(simulation: Simulation, fault: Fault) -> None:
    simulation.wishes.overrule(fault.way)


def _job(simulation: Simulation, fault: Fault) -> None:
    """A job is given, in one case of four with a time that it may take."""
    jobs, document = simulation.jobs, DOCUMENTS[int(fault.way * len(DOCUMENTS))]
    if len(jobs.open()) >= MOST_JOBS or not any("\njobs:" in text for text in simulation.configurations):
        return
    part = fault.way * len(DOCUMENTS) % 1.0
    jobs.create(f"job-{len(jobs.executions.all)}", document, 1200.0 * part if part < 0.25 else None)
    _look_at_time(simulation)


def _look_at_time(simulation: Simulation) -> None:
    """As long as there is a job, the service looks whether it takes too long."""
    simulation.jobs.run_timers()
    if any(one.in_progress_s is not None for one in simulation.jobs.open()):
        simulation.schedule.after(60.0, lambda: _look_at_time(simulation))


def _job_for_a_while(simulation: Simulation, fault: Fault) -> End:
    """A job is given, and later one that is open is cancelled."""
    _job(simulation, fault)

    def end() -> None:
        found = simulation.jobs.open()
        if found:
            simulation.jobs.cancel(_choice(found, fault.way).job)

    return end


def _ask(word: str) -> Callable[[Simulation, Fault], None]:
    """A person asks iotd for something."""
    def begin(simulation: Simulation, fault: Fault) -> None:
        if simulation.daemon is not None:
            simulation.daemon.ask(word, simulation.clock.monotonic())
    return begin


def _move(simulation: Simulation, fault: Fault) -> None:
    """The card is put into another board."""
    simulation.identity = simulation.identity._replace(cpu_serial=f"{simulation.boots + 2:016x}")
    simulation.reboot(orderly=fault.way < 0.5)


def _delete(simulation: Simulation, fault: Fault) -> None:
    simulation.wishes.delete(fault.way)


def _stick(simulation: Simulation, fault: Fault) -> End:
    """The driver hangs, and one step alone, or a boot, brings it back; in the end somebody does."""
    simulation.air.stuck = ("reconnect", "radio-cycle", "restart-network", "reboot", "reboot")[int(fault.way * 5)]
    simulation.air.changed()

    def end() -> None:
        simulation.air.stuck = ""
        simulation.air.changed()

    return end


def _another_route(simulation: Simulation, fault: Fault) -> End:
    simulation.air.other_route = True
    simulation.air.changed()

    def end() -> None:
        simulation.air.other_route = False
        simulation.air.changed()

    return end


def _damage(simulation: Simulation, fault: Fault) -> None:
    simulation.disk.damaged = True


def _power(simulation: Simulation, fault: Fault) -> None:
    simulation.reboot(orderly=False, for_s=20.0 + 3600.0 * fault.way ** 4)


def _reboot(simulation: Simulation, fault: Fault) -> None:
    simulation.reboot(orderly=True)


def _kick(simulation: Simulation, fault: Fault) -> None:
    simulation.broker.close("closed", "the broker closed the line")


def _forget(simulation: Simulation, fault: Fault) -> None:
    simulation.broker.forget(sessions=fault.way < 0.7, retained=fault.way > 0.4)
    simulation.broker.close("closed", "the broker closed the line")


KINDS: dict[str, Kind] = {
    **{f"{step} fails": Kind("network", DAY_S, _listed(lambda simulation: simulation.network.failing, step))
       for step in ("dns", "tcp", "tls", "proxy")},
    "nothing passes": Kind("network", 3 * DAY_S, _counted("network is down")),
    "half-open for a moment": Kind("network", 90.0, _counted("network is down")),
    "lines fall": Kind("network", HOUR_S, _flap),
    "line reset": Kind("network", 0.0, _reset),
    "kicked": Kind("broker", 0.0, _kick),
    "duplicate client": Kind("broker", 2 * HOUR_S, _steal),
    "refused": Kind("broker", 6 * HOUR_S, _raised("refusal", lambda fault: "it is not available", "")),
    "slow CONNACK": Kind("broker", HOUR_S, _raised("connack_s", lambda fault: 14.0 * fault.way, 0.0)),
    "slow answers": Kind("broker", HOUR_S, _raised("answer_s", lambda fault: 25.0 * fault.way, LATENCY_S)),
    "late wills": Kind("broker", DAY_S, _raised("will_delay_s", lambda fault: 90.0 * fault.way, 0.0)),
    "sessions or retained lost": Kind("broker", 0.0, _forget),
    "grants less": Kind("broker", DAY_S, _raised("grants", lambda fault: 0, 1)),
    "denied": Kind("policy", DAY_S, _added("denied")),
    "refused filter": Kind("policy", DAY_S, _added("refused")),
    "poison": Kind("policy", DAY_S, _added("poison")),
    "mute": Kind("policy", HOUR_S, _added("mute")),
    **{f"shadow answers {mood}": Kind("shadow", 6 * HOUR_S, _listed(
        lambda simulation: simulation.broker.shadows.moods, mood))
       for mood in ("mixed", "twice", "lost", "refused", "late", "garbled")},
    "wish": Kind("cloud", 0.0, _wish),
    "wish that fails": Kind("cloud", HOUR_S, _with(_counted("commands fail"), _wish)),
    "wish on a full disk": Kind("cloud", HOUR_S, _with(_listed(
        lambda simulation: simulation.disk.failures, "full"), _wish)),
    "wishes against each other": Kind("cloud", 2 * HOUR_S, _again_and_again(
        lambda simulation, fault: simulation.wishes.wish(fault.way))),
    "another reports": Kind("cloud", 2 * HOUR_S, _again_and_again(_overrule)),
    "wish taken back": Kind("cloud", 0.0, _take_back),
    "change of mind": Kind("cloud", HOUR_S, _change_of_mind),
    "shadow deleted": Kind("cloud", 0.0, _delete),
    "lie on the presence topic": Kind("cloud", 0.0, _lie),
    "notice": Kind("cloud", 0.0, _notice),
    "notices": Kind("cloud", 0.0, _notices),
    "notices that fail": Kind("cloud", HOUR_S, _with(_counted("commands fail"), _notices)),
    "notice too large": Kind("cloud", 0.0, _too_large),
    "commands fail": Kind("programs", 3 * HOUR_S, _counted("commands fail")),
    "commands are slow": Kind("programs", 3 * HOUR_S, _counted("commands are slow")),
    "values fail": Kind("programs", 6 * HOUR_S, _counted("values fail")),
    "values hang": Kind("programs", 6 * HOUR_S, _counted("values hang")),
    "programs are away": Kind("programs", 6 * HOUR_S, _counted("programs are away")),
    "program in a hurry": Kind("programs", 0.0, _burst),
    "program in error": Kind("programs", 0.0, _err),
    "checks fail": Kind("programs", 6 * HOUR_S, _counted("checks fail")),
    "checks hang": Kind("programs", 6 * HOUR_S, _counted("checks hang")),
    "job": Kind("jobs", 0.0, _job),
    "job that is cancelled": Kind("jobs", HOUR_S, _job_for_a_while),
    **{f"job answers {mood}": Kind("jobs", 6 * HOUR_S, _listed(lambda simulation: simulation.jobs.moods, mood))
       for mood in ("twice", "lost", "refused", "late")},
    "renewal asked for": Kind("provisioning", 0.0, _ask("renew")),
    "claim asked for": Kind("provisioning", 0.0, _ask("provision again")),
    **{f"provisioning answers {mood}": Kind("provisioning", 6 * HOUR_S, _listed(
        lambda simulation: simulation.account.moods, mood)) for mood in ("twice", "lost", "refused", "late")},
    **{f"access point {wrong}": Kind("Wi-Fi", 12 * HOUR_S, _listed(lambda simulation: simulation.air.wrong, wrong))
       for wrong in ("gone", "other", "absent", "unknown")},
    "access point gone for a moment": Kind("Wi-Fi", 120.0, _listed(lambda simulation: simulation.air.wrong, "gone")),
    "driver stuck": Kind("Wi-Fi", DAY_S, _stick),
    "another route": Kind("Wi-Fi", DAY_S, _another_route),
    "helper does nothing": Kind("Wi-Fi", 6 * HOUR_S, _counted("helper does nothing")),
    "looks hang": Kind("Wi-Fi", 3 * FEED_S, _counted("looks hang")),
    **{f"disk {failure}": Kind("disk", DAY_S, _listed(lambda simulation: simulation.disk.failures, failure))
       for failure in FAILURES},
    "runtime directory full": Kind("disk", HOUR_S, _listed(
        lambda simulation: simulation.disk.runtime_failures, "full")),
    "database damaged": Kind("disk", 0.0, _damage),
    "killed": Kind("process", 0.0, _kill),
    "killed in a write": Kind("process", 0.0, _die(power=False)),
    "stopped": Kind("process", 0.0, _stop),
    "thread fails": Kind("process", 0.0, _thread_fails),
    "thread hangs": Kind("process", 0.0, _hang),
    "reload": Kind("process", 0.0, _reload),
    "bad configuration": Kind("process", DAY_S, _bad_configuration),
    "power cut": Kind("power", 0.0, _power),
    "power cut in a write": Kind("power", 0.0, _die(power=True)),
    "another board": Kind("power", 0.0, _move),
    "rebooted": Kind("power", 0.0, _reboot),
    "clock stepped": Kind("clock", DAY_S, _step),
    "clock drifts": Kind("clock", 3 * DAY_S, _drift),
    "no time service": Kind("clock", DAY_S, _counted("no time service")),
    "certificate not yet valid": Kind("clock", DAY_S, _listed(lambda simulation: simulation.network.failing, "clock")),
}
GROUPS: dict[str, list[str]] = {}
for _name, _kind_of in KINDS.items():
    GROUPS.setdefault(_kind_of.group, []).append(_name)
