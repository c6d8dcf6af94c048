"""`iotd doctor` as a command on a device of a test's own, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.running import Iotd, configuration

PATIENCE_S = 20.0


def doctor(iotd: Iotd, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "iotd", "doctor", "-c", str(iotd.file), *arguments],
                          env=iotd.environment(), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE_S)


def found(iotd: Iotd) -> dict[str, Any]:
    """Return what the command says, as JSON, with the findings by their layer."""
    result = doctor(iotd, "--json")
    assert result.stderr == ""
    body: dict[str, Any] = json.loads(result.stdout)
    return {**body, "exit": result.returncode, "layers": {finding["layer"]: finding for finding in body["findings"]}}


def stopped(tmp_path: Path, broker: Mosquitto, certificates: Certificates | None, **sections: Any) -> Iotd:
    """Return a device whose daemon does not run: that layer has failed, whatever else is wrong."""
    return Iotd(tmp_path / "iotd", configuration(broker, certificates, **sections))


def lowest_but_daemon(body: dict[str, Any]) -> str | None:
    failed = [finding["layer"] for finding in body["findings"]
              if finding["level"] == "failed" and finding["consequence_of"] is None]
    return next((layer for layer in failed if layer != "daemon"), None)
