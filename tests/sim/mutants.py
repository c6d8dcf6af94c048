"""Mutants: small, believable slips in the code that lives of the simulator catch, and no other quick test does.

`test_mutants` lives a short life with each of them and without. Before one is added the quick suite is run with it.
"""

from typing import NamedTuple

from tests.sim.swarm import Fault, Plan, Profile, Shadow, Topic, Value, Wifi


class Mutant(NamedTuple):
    """A slip: a text that stands in a module once, and what it becomes; `means` is what that is to a fleet.

    In the life of the plan the invariant does not hold then.
    """

    name: str
    module: str
    text: str
    becomes: str
    means: str
    invariant: str
    plan: Plan


MUTANTS = (
    Mutant(
        "the judgement of the Wi-Fi is kept over a reload", "iotd/wifi/part.py",
        "self._settings, self._state, self._reading = wifi, recovery.initial(), None",
        "self._settings, self._reading = wifi, None",
        "A reload with a shorter ladder, amid an outage that has climbed beyond it, ends the recovery in an exception:"
        " the device stays off the air.",
        "bug", Plan(73, 0.028, (
            Profile(),
            Profile(wifi=Wifi(every_s=30, grace_s=60, recover=("reconnect",), max_per_day=1, min_uptime_s=60)),
            Profile(wifi=Wifi(every_s=30, grace_s=600, recover=("reconnect", "radio-cycle", "reboot"))),
        ), (
            Fault("reload", 880.0, way=0.8961),
            Fault("access point gone", 1250.0, for_s=1924.5),
            Fault("reload", 2300.0, way=0.5348),
        ))),
    Mutant(
        "what is acknowledged and not yet deleted takes the places of what waits", "iotd/outgoing/spool.py",
        "most + len(self._undeleted), resting",
        "most, resting",
        "Where the card has turned read-only under a backlog and the line falls once more, the rest is not sent until"
        " it falls again.",
        "liveness", Plan(1, 0.06, (
            Profile(topics=(Topic("a0", 5),), backoff_max_s=16),
        ), (
            Fault("slow answers", 100.0, for_s=4400.0, way=0.2),
            Fault("tcp fails", 100.0, for_s=4000.0),
            Fault("kicked", 110.0),
            Fault("disk read-only", 4000.0, for_s=500.0),
            Fault("kicked", 4130.0),
        ))),
    Mutant(
        "what is saved of a damaged database is not kept where the disk fails", "iotd/outgoing/stores.py",
        "            self.journal.hold(saved)\n",
        "",
        "A worn card that damages the database and then takes no writes loses the whole backlog without a word.",
        "liveness", Plan(15, 0.25, (
            Profile(topics=(Topic("a0", 20, retain=False),)),
        ), (
            Fault("nothing passes", 1940.0, for_s=3090.89, way=0.4033),
            Fault("disk I/O error", 4050.0, for_s=172.6, way=0.9713),
            Fault("database damaged", 4080.0, way=0.2828),
        ))),
    Mutant(
        "a database that can be read again is not read from its beginning", "iotd/outgoing/part.py",
        "            self._outbox = self._outbox._replace(cursor=0)\n",
        "",
        "What an earlier run had left on a card that answers late stays there until the line falls, behind all that is"
        " new.",
        "liveness", Plan(1, 0.1, (
            Profile(topics=(Topic("a0", 20),)),
        ), (
            Fault("tcp fails", 100.0, for_s=900.0),
            Fault("kicked", 110.0),
            Fault("disk I/O error", 500.0, for_s=2000.0, way=0.5),
            Fault("killed", 900.0),
        ))),
    Mutant(
        "a report that is on its way is kept over a reload", "iotd/shadows/part.py",
        "            self._asked = {}\n        self._fills",
        "        self._fills",
        "A reload that takes a shadow out while a value is read for its report ends in an exception, and another shadow"
        " may take that report for its own.",
        "bug", Plan(1, 0.05, (
            Profile(shadows=(Shadow(None, 600, value="va0"), Shadow("device_0", 600, value="va0")),
                    values=(Value("va0", "command"),)),
            Profile(shadows=(Shadow(None, 600, value="va0"),), values=(Value("va0", "command"),)),
        ), (
            Fault("values hang", 500.0, for_s=1200.0),
            Fault("reload", 601.0, way=0.9),
            Fault("reload", 900.0, way=0.1),
            Fault("reload", 901.0, way=0.9),
            Fault("reload", 1200.0, way=0.1),
            Fault("reload", 1201.0, way=0.9),
        ))),
    Mutant(
        "a reading that ends after a reload is thought to go on", "iotd/values/part.py",
        "        self._running.pop(found.value, None)\n",
        "        if self._values.get(found.value.name) == found.value:\n"
        "            self._running.pop(found.value, None)\n",
        "A configuration that was tried and taken back leaves a value that is never read again.",
        "values", Plan(1, 0.02, (
            Profile(topics=(Topic("a0", 60, value="va0"),), values=(Value("va0", "command"),)),
            Profile(topics=(Topic("a0", 60, value="va0"),), values=(Value("va0", "command", 60),)),
        ), (
            Fault("values hang", 600.0, for_s=1200.0),
            Fault("reload", 1201.0, way=0.9),
            Fault("reload", 1230.0, way=0.1),
            Fault("reload", 1261.0, way=0.9),
            Fault("reload", 1290.0, way=0.1),
            Fault("reload", 1321.0, way=0.9),
            Fault("reload", 1350.0, way=0.1),
        ))),
    Mutant(
        "a command that ends while the line is left is thought to run", "iotd/incoming/runs.py",
        "        self._running.discard(event.filter)\n",
        "        if go_on:\n"
        "            self._running.discard(event.filter)\n",
        "A reload that dials anew while a command runs leaves its subscription deaf: messages come in and none is"
        " handled.",
        "liveness", Plan(1, 0.05, (
            Profile(notices=1, runs=True),
            Profile(notices=1, runs=True, keepalive_s=30),
        ), (
            Fault("slow answers", 3500.0, for_s=1000.0, way=0.2),
            Fault("notices", 3600.0, way=0.31),
            Fault("reload", 3600.05, way=0.9),
            Fault("notices", 4000.0, way=0.31),
        ))),
)
