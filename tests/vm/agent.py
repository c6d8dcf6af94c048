"""Runs in the guest: takes shell scripts from a virtio port, one JSON object a line, and answers with what they did.

Every start says hello with the id of the boot, so that the host sees a reboot for what it is.
"""

from __future__ import annotations

import json
import subprocess
from io import RawIOBase
from pathlib import Path

PORT = "/dev/virtio-ports/agent"


def main() -> None:
    """Serve until the machine ends."""
    with open(PORT, "r+b", buffering=0) as port:
        _send(port, {"boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
        rest = b""
        while True:
            received = port.read(65536)
            if not received:  # nobody at the other end
                return
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                _send(port, _answer(json.loads(line)))


def _answer(request: dict[str, object]) -> dict[str, object]:
    limited = ["timeout", "--signal=KILL", str(request["limit_s"])]  # with all that it has started
    done = subprocess.run([*limited, "/bin/sh", "-euc", str(request["script"])], stdin=subprocess.DEVNULL,
                          encoding="utf-8", errors="backslashreplace", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return {"id": request["id"], "status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _send(port: RawIOBase, body: dict[str, object]) -> None:
    rest = json.dumps(body).encode() + b"\n"
    while rest:
        rest = rest[port.write(rest) or 0:]


if __name__ == "__main__":
    main()
