"""The fault lab as a command: python3 -m tests.faults [--write FILE] [--storm N --seed S] [NAME ...]

Runs every case, or those whose name holds one of the given words, prints each verdict, and ends with status 1 where
one is not "pass". With --write the table goes into the file, with the summary of a storm where one is asked for.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path
from typing import Mapping, Sequence

import paho.mqtt

from iotd import __version__
from tests.faults import advisor, large, lines, storm  # all but the last fill CASES
from tests.faults.lab import CASES, Lab, Result

_HEAD = """\
# The fault lab

Written by `python3 -m tests.faults --write docs/faults.md`; do not edit. iotd {version}, paho-mqtt {paho}, Python \
{python}.

Each case runs the real `iotd run` against a broker that is scripted byte by byte. The names of the first table are \
those of AWS IoT Device Advisor, re-created from its documented rules; where it states no number the rule says which \
one is held to. A case passes only without a warning. In every case the device also has to stop in order when it is \
asked to, whatever its line is like, to say nothing but its log, to meet no bug of its own, and to send nothing before \
CONNACK. The cases in italics belong to the long run.

Its two shadow cases need a shadow service and are held by `tests/test_voice.py`. \
`MQTT_Connect_Jitter_Backoff_Retries` waits for twelve CONNECTs within its 300 s: to pass it in the cloud a device \
needs `mqtt.backoff.max: 16s`, which it has here.

Not re-created: the cases of MQTT 5 (iotd speaks 3.1.1, since only there a PUBLISH may be repeated on the same \
connection), `Security_Device_Policies` (it judges the policy in the cloud, not the device) and `Job_Execution`.
"""

_STORM = """\
A real mosquitto and a real iotd with a proxy between them, and faults at random moments by a seed. Every message that \
the spool held when iotd was killed or stopped, and every sequence number below the highest of its run, has to be \
acknowledged by the broker; none arrives before an earlier one of its topic, none is sent again after its PUBACK, none \
is dropped or set aside, and the retained slots end at the newest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.faults")
    parser.add_argument("--write", metavar="FILE", type=Path)
    parser.add_argument("--storm", metavar="N", type=int, default=0, help="a storm of so many faults, afterwards")
    parser.add_argument("--seed", metavar="S", type=int, default=1)
    parser.add_argument("words", metavar="NAME", nargs="*")
    options = parser.parse_args(arguments)
    names = [name for name in CASES if not options.words or any(word in name for word in options.words)]
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="iotd-faults-") as directory:
        lab = Lab(Path(directory) / "lab", names)
        try:
            for name in names:
                results[name] = lab.result(name)
                print(f"{results[name].verdict.word}  {name}: {results[name].verdict.seen}", flush=True)
        finally:
            lab.close()
    text, good = table(results), all(result.verdict.word == "pass" for result in results.values())
    if options.storm:
        finished = storm.sheltered(options.storm, options.seed)
        print(finished.stdout, end="")
        text += f"\n## The storm\n{_STORM}\n{finished.stdout}"
        good = good and finished.returncode == 0
    if options.write:
        options.write.write_text(text, "utf-8")
    return 0 if good else 1


def table(results: Mapping[str, Result]) -> str:
    """Return the page of docs: a table for each group."""
    text = _HEAD.format(version=__version__, paho=paho.mqtt.__version__, python=platform.python_version())
    for group in dict.fromkeys(CASES[name].group for name in results):
        text += f"\n## {group}\n| case | what is done | it passes when | verdict | time |\n|---|---|---|---|---|\n"
        for name, result in results.items():
            entry = CASES[name]
            if entry.group == group:
                title = f"*{name}*" if entry.slow else name
                text += f"| {title} | {entry.done} | {entry.rule} | {result.verdict.word} | {result.took_s:.0f} s |\n"
    return text


assert advisor and large and lines
if __name__ == "__main__":
    sys.exit(main())
