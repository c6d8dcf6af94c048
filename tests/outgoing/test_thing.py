"""A device that gets another thing, by a reload or a restart: each sends what it made itself, and nothing else."""

from __future__ import annotations

import signal

import pytest

from iotd.vocabulary import Signalled
from tests.sim.world import Simulation

CONFIGURATION = """\
thing: THING
mqtt: {host: broker}
publish: [{topic: "plant/state", every: 60s, payload: {of: "{thing}", n: "{sequence}", run: "{run}"}}]
"""


def become(simulation: Simulation, thing: str, by: str) -> None:
    """Give the device another thing."""
    simulation.configuration = CONFIGURATION.replace("THING", thing)
    if by == "reload":
        assert simulation.daemon is not None
        simulation.daemon.post(Signalled(signal.SIGHUP))
    elif by == "restart":
        simulation.stop()
        simulation.start()
    else:
        simulation.kill()
        simulation.start()


@pytest.mark.parametrize("by", ["reload", "restart", "kill"])
def test_a_backlog_waits_until_its_thing_is_back_whatever_is_made_meanwhile(by: str) -> None:
    simulation = Simulation(CONFIGURATION.replace("THING", "first"))
    simulation.start()
    simulation.run(10.0)
    simulation.cut_line()
    simulation.run(600.0)
    become(simulation, "second", by)
    simulation.network_is_up = True
    simulation.run(600.0)
    told = [delivered.json() for delivered in simulation.broker.on("plant/state")]
    assert [body["of"] for body in told] == ["first"] + ["second"] * (len(told) - 1) and len(told) > 8
    assert {entry["thing"]: entry["count"] for entry in simulation.entries("spool.set_aside")} == {"first": 10}
    become(simulation, "first", by)
    simulation.run(300.0)
    told = [delivered.json() for delivered in simulation.broker.on("plant/state")]
    mine = [(body["run"], body["n"]) for body in told if body["of"] == "first"]
    assert [number for run, number in mine if run == mine[0][0]][:11] == list(range(1, 12))
