"""The kinds of fault: how each begins and how it ends. What lasts may overlap, also with itself, and ends in any order.

Each is told by its `way` (0 to 1) which of its ways it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from iotd.vocabulary import Json, Message, PassedOver, Signalled, ThreadFailed
from tests.sim.device import FEED_S
from tests.sim.jobs import DOCUMENTS, WRONG
from tests.sim.world import SIGHUP, SIGTERM

if TYPE_CHECKING:
    from tests.sim.swarm import Fault
    from tests.sim.world import Simulation

HOUR_S, DAY_S = 3600.0, 86400.0
MOST_JOBS = 3  # that wait at a time
PRESENCE = "MQTTServer/pi/will"
HOME_ASSISTANT, AT_HOME = "homeassistant/status", "homeassistant/device/pi"
CREATE = "$aws/certificates/create-from-csr/json"

End = Callable[[], None]


def counted(mood: str) -> Callable[[Simulation, Fault], End]:
    """A mood of the device's surroundings, which lasts as long as anything has it."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        simulation.air.moods[mood] += 1
        simulation.air.changed()

        def end() -> None:
            simulation.air.moods[mood] -= 1
            simulation.air.changed()

        return end
    return begin


def listed(where: Callable[[Simulation], Any], what: str) -> Callable[[Simulation, Fault], End]:
    """One more in a list, and out of it again; the Wi-Fi may have to do with it."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        where(simulation).append(what)
        simulation.air.changed()

        def end() -> None:
            where(simulation).remove(what)
            simulation.air.changed()

        return end
    return begin


def raised(name: str, value: Callable[[Fault], Any], well: Any) -> Callable[[Simulation, Fault], End]:
    """A number of the broker's, worse for a while."""
    def begin(simulation: Simulation, fault: Fault) -> End:
        setattr(simulation.broker, name, value(fault))
        return lambda: setattr(simulation.broker, name, well)
    return begin


def added(name: str) -> Callable[[Simulation, Fault], End]:
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
    at_home = ("config", "state") if "home_assistant" in daemon.settings.sections else ()
    home = [[f"{AT_HOME}/{what}"] for what in at_home]
    return topics + filters + shadows + jobs + claims + home if name == "denied" else topics + shadows + jobs + home


def _choice(found: list[Any], way: float) -> Any:
    return found[int(way * len(found))] if found else []


def die(power: bool) -> Callable[[Simulation, Fault], None]:
    """The process, or the power, goes in the midst of one of the next writes."""
    def begin(simulation: Simulation, fault: Fault) -> None:
        disk = simulation.disk
        disk.dies_in = 1 + int(fault.way * 20)

        def dies() -> None:
            if power:
                simulation.reboot(orderly=False)
            else:
                kill(simulation, fault)

        disk.dies = dies
    return begin


def kill(simulation: Simulation, fault: Fault) -> None:
    """The process is killed, and systemd starts it again."""
    simulation.kill()
    simulation.restart()


def stop(simulation: Simulation, fault: Fault) -> None:
    """The process is asked to end, and started again later."""
    if simulation.daemon is not None:
        simulation.daemon.post(Signalled(SIGTERM))
        simulation.restart(1.0 + 60.0 * fault.way)


def thread_fails(simulation: Simulation, fault: Fault) -> None:
    """The MQTT thread ends in a bug."""
    if simulation.daemon is not None:
        simulation.daemon.post(ThreadFailed("mqtt", "as the seed has it"))


def hang(simulation: Simulation, fault: Fault) -> None:
    """The MQTT thread hangs, until systemd's watchdog has had enough."""
    session = simulation.session
    if session is not None and simulation.daemon is not None:
        session.hung = True
        runs = simulation.runs
        simulation.schedule.after(4 * FEED_S, lambda: kill(simulation, fault) if simulation.runs == runs else None)


def reload(simulation: Simulation, fault: Fault) -> None:
    """Another configuration, or the same, is read anew."""
    simulation.configuration = _choice(simulation.configurations, fault.way)
    _signal(simulation, SIGHUP)


def step(simulation: Simulation, fault: Fault) -> End:
    """Somebody sets the clock wrong, by years either way, until a time service sets it right."""
    years = (-20.0, -1.0, -0.001, 0.0001, 0.01, 1.0, 8.0)[int(fault.way * 7)]
    simulation.clock.set(years * 365 * DAY_S)
    simulation.clock.is_set = False  # settimeofday(2): no time service has done it
    return lambda: simulation.clock.set()


def drift(simulation: Simulation, fault: Fault) -> End:
    """The clock goes wrong slowly."""
    simulation.clock.set(simulation.clock.error_s)
    simulation.clock.drift = (fault.way - 0.5) * 2e-3

    def end() -> None:
        simulation.clock.drift = 0.0
        simulation.clock.set()

    return end


def steal(simulation: Simulation, fault: Fault) -> End:
    """A second client with the same id comes again and again."""
    over: list[bool] = []

    def come() -> None:
        if not over:
            simulation.broker.close("closed", "the broker closed the line")
            simulation.schedule.after(2.0 + 60.0 * fault.way, come)

    come()
    return lambda: over.append(True)


def flap(simulation: Simulation, fault: Fault) -> End:
    """Lines are lost at random moments."""
    over: list[bool] = []

    def fall() -> None:
        if not over:
            if simulation.session is not None and simulation.network.passes:
                simulation.session.lose("reset")
            simulation.schedule.after(simulation.chance() * 120.0 * fault.way, fall)

    fall()
    return lambda: over.append(True)


def reset(simulation: Simulation, fault: Fault) -> None:
    """The line is reset."""
    if simulation.session is not None:
        simulation.session.lose("reset")


def lie(simulation: Simulation, fault: Fault) -> None:
    """Somebody else writes on the presence topic."""
    bodies = (b'{"Hostname": "pi", "status": "Communication lost", "session": "old"}', b"",
              b'{"Hostname": "pi", "status": "Stopped", "session": "old"}', b"nonsense",
              b'{"Hostname": "other", "status": "Communication lost", "session": "old"}')
    simulation.broker.publish(Message(PRESENCE, bodies[int(fault.way * len(bodies))], 1, True))


def born(simulation: Simulation, fault: Fault) -> None:
    """Home Assistant starts, or ends, or says what it never says."""
    payload = (b"online", b"online", b"online", b"offline", b"\xff")[int(fault.way * 5)]
    simulation.broker.publish(Message(HOME_ASSISTANT, payload))


def notice(simulation: Simulation, fault: Fault) -> None:
    """A message comes in that is whatever it likes."""
    bodies = (b"{}", b"\xff\xfe", b'{"a": NaN}', b"x" * 50_000, b"[" * 3000)
    simulation.broker.publish(Message(f"plant/all/{int(fault.way * 7919) % 2}", bodies[int(fault.way * len(bodies))]))


def notices(simulation: Simulation, fault: Fault) -> None:
    """Many at once, more than wait for a command."""
    for _ in range(1 + int(fault.way * 130)):
        simulation.notices += 1
        simulation.broker.publish(Message(f"plant/all/{int(fault.way * 7919) % 2}", b'{"n": %d}' % simulation.notices))


def too_large(simulation: Simulation, fault: Fault) -> None:
    """A message comes in that is too large to take."""
    session = simulation.session
    if session is not None and session.up and simulation.daemon is not None:
        simulation.daemon.post(PassedOver(session.line, "plant/all/0", 2 << 20))


def burst(simulation: Simulation, fault: Fault) -> None:
    """A program publishes as fast as it can."""
    simulation.programs.burst(1 + int(fault.way * 1500))


def err(simulation: Simulation, fault: Fault) -> None:
    """A program asks for what makes no sense."""
    simulation.programs.err(fault.way)


def shut(simulation: Simulation, fault: Fault) -> End:
    """Whoever starts meanwhile can open no door to the programs, and is started again by somebody who has mended it."""
    end_of_mood = counted("door is shut")(simulation, fault)
    if fault.way < 0.5:
        kill(simulation, fault)

    def end() -> None:
        end_of_mood()
        if simulation.programs.is_shut_out:
            stop(simulation, fault)

    return end


def bad_configuration(simulation: Simulation, fault: Fault) -> End:
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


def wish(simulation: Simulation, fault: Fault) -> None:
    """The cloud desires something."""
    simulation.wishes.wish(fault.way)


def change_of_mind(simulation: Simulation, fault: Fault) -> End:
    """Something is desired while the device is away, and taken back before it is there again."""
    end = counted("network is down")(simulation, fault)
    simulation.schedule.after(fault.for_s / 3, lambda: wish(simulation, fault))
    simulation.schedule.after(fault.for_s / 2, lambda: simulation.wishes.take_back(0.999))
    return end


def in_the_midst(
    begin: Callable[[Simulation, Fault], End | None], do: Callable[[Simulation, Fault], Any]
) -> Callable[[Simulation, Fault], End | None]:
    """Something that lasts, and what is done in the midst of it."""
    def both(simulation: Simulation, fault: Fault) -> End | None:
        simulation.schedule.after(min(1.0, fault.for_s / 2), lambda: do(simulation, fault))
        return begin(simulation, fault)
    return both


def again_and_again(do: Callable[[Simulation, Fault], Any]) -> Callable[[Simulation, Fault], End]:
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


def job(simulation: Simulation, fault: Fault) -> None:
    """A job is given, in one case of four with a time that it may take."""
    _give(simulation, fault.way, DOCUMENTS)


def no_job(simulation: Simulation, fault: Fault) -> None:
    """A job is given that can never be done here."""
    _give(simulation, fault.way, WRONG)


def _give(simulation: Simulation, way: float, documents: tuple[Json, ...]) -> None:
    jobs, document = simulation.jobs, documents[int(way * len(documents))]
    if len(jobs.open()) >= MOST_JOBS or not any("\njobs:" in text for text in simulation.configurations):
        return
    part = way * len(documents) % 1.0
    jobs.create(f"job-{len(jobs.executions.all)}", document, 1200.0 * part if part < 0.25 else None)
    _look_at_time(simulation)


def _look_at_time(simulation: Simulation) -> None:
    """As long as there is a job, the service looks whether it takes too long."""
    simulation.jobs.run_timers()
    if any(one.in_progress_s is not None for one in simulation.jobs.open()):
        simulation.schedule.after(60.0, lambda: _look_at_time(simulation))


def job_for_a_while(simulation: Simulation, fault: Fault) -> End:
    """A job is given, and later one that is open is cancelled."""
    job(simulation, fault)

    def end() -> None:
        found = simulation.jobs.open()
        if found:
            simulation.jobs.cancel(_choice(found, fault.way).job)

    return end


def ask(word: str) -> Callable[[Simulation, Fault], None]:
    """A person asks iotd for something."""
    def begin(simulation: Simulation, fault: Fault) -> None:
        if simulation.daemon is not None:
            simulation.daemon.ask(word, simulation.clock.monotonic())
    return begin


def move(simulation: Simulation, fault: Fault) -> None:
    """The card is put into another board."""
    simulation.identity = simulation.identity._replace(cpu_serial=f"{simulation.boots + 2:016x}")
    simulation.reboot(orderly=fault.way < 0.5)


def stick(simulation: Simulation, fault: Fault) -> End:
    """The driver hangs, and one step alone, or a boot, brings it back; in the end somebody does."""
    simulation.air.stuck = ("reconnect", "radio-cycle", "restart-network", "reboot", "reboot")[int(fault.way * 5)]
    simulation.air.changed()

    def end() -> None:
        simulation.air.stuck = ""
        simulation.air.changed()

    return end


def another_route(simulation: Simulation, fault: Fault) -> End:
    """Something beside the Wi-Fi leads out."""
    simulation.air.other_route = True
    simulation.air.changed()

    def end() -> None:
        simulation.air.other_route = False
        simulation.air.changed()

    return end


def damage(simulation: Simulation, fault: Fault) -> None:
    """The database is damaged."""
    simulation.disk.damaged = True


def power(simulation: Simulation, fault: Fault) -> None:
    """The power fails."""
    simulation.reboot(orderly=False, for_s=20.0 + 3600.0 * fault.way ** 4)


def reboot(simulation: Simulation, fault: Fault) -> None:
    """The host is rebooted in good order."""
    simulation.reboot(orderly=True)


def kick(simulation: Simulation, fault: Fault) -> None:
    """The broker closes every line."""
    simulation.broker.close("closed", "the broker closed the line")


def forget(simulation: Simulation, fault: Fault) -> None:
    """The broker loses sessions, or what is retained, or both."""
    simulation.broker.forget(sessions=fault.way < 0.7, retained=fault.way > 0.4)
    simulation.broker.close("closed", "the broker closed the line")
