"""The configuration is UTF-8 and so are its paths, whatever the locale of who starts iotd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from iotd.mqtt.settings import Tls
from tests.certificates import Certificates
from tests.mosquitto import Mosquitto
from tests.running import ROOT, Iotd, configuration

OLD = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # ASCII alone


def test_a_check_by_hand_opens_paths_with_any_letter(tmp_path: Path, certificates: Certificates) -> None:
    directory = tmp_path / "証明書"
    directory.mkdir()
    paths = {key: directory / f"{key}é" for key in Tls._fields}
    for key, path in paths.items():
        path.write_bytes((certificates.ca if key == "ca" else getattr(certificates.client, key)).read_bytes())
        path.chmod(0o640)
    file = directory / "iotd.yaml"
    lines = "".join(f"    {key}: {path}\n" for key, path in paths.items())
    file.write_text(f"thing: a\nmqtt:\n  host: b\n  tls:\n{lines}", "utf-8")
    done = subprocess.run([sys.executable, "-m", "iotd", "check", "-c", os.fsencode(file)], capture_output=True,
                          timeout=60, cwd="/", env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **OLD})
    assert (done.returncode, done.stdout, done.stderr) == (0, os.fsencode(f"{file}: no problem found\n"), b"")


def test_a_check_of_a_path_with_any_letter_looks_at_it(tmp_path: Path, plain_broker: Mosquitto) -> None:
    present = tmp_path / "温度"
    present.touch()
    checks = [{"file": str(path), "max_age": "1h"} for path in (present, tmp_path / "ø")]
    with Iotd(tmp_path / "iotd", configuration(plain_broker, None, shadows=[{"checks": checks}]), **OLD) as iotd:
        failed = iotd.wait_for("check.failed")
    assert failed["reason"] == f"there is no {tmp_path}/ø"
    assert "check.unknown" not in [entry["event"] for entry in iotd.entries]
