"""Run the stand-in alone until Ctrl-C: `python3 -m tests.aws [--port N] [--dir DIR] [--thing NAME] [--policy FILE]`."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.aws.gate import Gate
from tests.aws.jobs import JobsService
from tests.aws.service import ShadowService
from tests.certificates import Certificates, make_certificates
from tests.mosquitto import Mosquitto


def main() -> None:
    """Serve until SIGINT or SIGTERM, then leave nothing behind but what --dir asked for."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.aws", description="A local stand-in for AWS IoT Core.")
    parser.add_argument("--port", type=int, help="the port to listen on (default: a free one)")
    parser.add_argument("--dir", type=Path, help="where certificates and broker state go (default: thrown away)")
    parser.add_argument("--thing", default="test-thing", help="whose client certificate to make (default: %(default)s)")
    parser.add_argument("--policy", type=Path,
                        help="what the certificate may: JSON, a policy or a list of them (default: all)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        directory = arguments.dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iotd-aws-")))
        directory = directory.resolve()
        certificates = make_certificates(directory, arguments.thing)
        policies = json.loads(arguments.policy.read_text("utf-8")) if arguments.policy else None
        if isinstance(policies, dict):
            policies = [policies]
        broker = stack.enter_context(Mosquitto(directory))
        stack.enter_context(ShadowService(broker))
        stack.enter_context(JobsService(broker))
        gate = stack.enter_context(Gate(broker, certificates, None if policies is None else {arguments.thing: policies},
                                        port=arguments.port, tell=lambda ruling: print(*ruling, flush=True)))
        print(describe(gate, broker, certificates, arguments.thing), flush=True)
        threading.Event().wait()


def describe(gate: Gate, broker: Mosquitto, certificates: Certificates, thing: str) -> str:
    """Return where a client finds the stand-in, what it has to bring along, and how to look on from the cloud."""
    client = certificates.client
    example = ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-v", "-t", "#",
               "-t", f"$aws/things/{thing}/shadow/#"]
    return (
        f"listening on {gate.host}:{gate.port}, Ctrl-C ends it\n"
        f"ca:   {certificates.ca}\n"
        f"cert: {client.cert}\n"
        f"key:  {client.key}\n"
        f"log:  {broker.log}\n"
        f"{shlex.join(example)}"
    )


if __name__ == "__main__":
    main()
