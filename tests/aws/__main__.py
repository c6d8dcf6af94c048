"""Run the stand-in alone: `python3 -m tests.aws [--port N] [--dir DIR] [--thing NAME]`, until Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import signal
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.aws.jobs import JobsService
from tests.aws.service import ShadowService
from tests.certificates import make_certificates
from tests.mosquitto import Mosquitto


def main() -> None:
    """Serve until SIGINT or SIGTERM, then leave nothing behind but what --dir asked for."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.aws", description="A local stand-in for AWS IoT Core.")
    parser.add_argument("--port", type=int, help="the port to listen on (default: a free one)")
    parser.add_argument("--dir", type=Path, help="where certificates and broker state go (default: thrown away)")
    parser.add_argument("--thing", default="test-thing", help="whose client certificate to make (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        directory = arguments.dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iotd-aws-")))
        directory = directory.resolve()
        certificates = make_certificates(directory, arguments.thing)
        broker = stack.enter_context(Mosquitto(directory, certificates, port=arguments.port))
        stack.enter_context(ShadowService(broker))
        stack.enter_context(JobsService(broker))
        print(describe(broker, arguments.thing), flush=True)
        threading.Event().wait()


def describe(broker: Mosquitto, thing: str) -> str:
    """Return where a client finds the broker and what it has to bring along."""
    assert broker.certificates is not None
    client = broker.certificates.client
    example = [
        "mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "--cafile", str(broker.certificates.ca),
        "--cert", str(client.cert), "--key", str(client.key), "-v", "-t", "#", "-t", f"$aws/things/{thing}/shadow/#",
    ]
    return (
        f"listening on {broker.host}:{broker.port}, Ctrl-C ends it\n"
        f"ca:   {broker.certificates.ca}\n"
        f"cert: {client.cert}\n"
        f"key:  {client.key}\n"
        f"log:  {broker.log}\n"
        f"{shlex.join(example)}"
    )


if __name__ == "__main__":
    main()
