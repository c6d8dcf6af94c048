"""One daemon a directory, in real processes: who holds it is named, and a kill lets it go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iotd.host import lock

ROOT = Path(__file__).parent.parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from iotd.host import lock
print(lock.take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""
NOBODY = 65534


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        assert int(next(lines)) > 2
        yield process
        process.kill()
        process.wait()


def test_a_directory_that_is_held_tells_by_whom(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(lock.Taken, match=rf"^{tmp_path} is held by process {holder.pid} \({sys.executable} -c "):
        lock.take(tmp_path)


def test_a_kill_lets_it_go_and_leaves_a_file_that_holds_nothing(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NAME).read_text() == f"{holder.pid}\n"
    taken = lock.take(tmp_path)
    assert taken is not None and (tmp_path / lock.NAME).read_text() == f"{os.getpid()}\n"
    os.close(taken)


def test_a_holder_that_could_not_write_its_number_holds_it_all_the_same(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    os.truncate(tmp_path / lock.NAME, 0)
    with pytest.raises(lock.Taken, match="is held by another process;"):
        lock.take(tmp_path)


def test_where_nothing_can_be_written_nothing_is_held(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lock.take(tmp_path / "missing") is lock.take(tmp_path / "file") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_root_leaves_no_file_in_the_directory_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(lock.Taken, match="belongs to nobody, .* systemctl start iotd, or by hand: sudo -u nobody iotd"):
        lock.take(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_directory_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).touch(0o600)
    script = HOLDER.replace("print(", "import os\nos.seteuid(65534)\nprint(").replace("time.sleep(60)", "")
    for folder in (tmp_path, *tmp_path.parents):
        os.chmod(folder, folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert f"{tmp_path} is used by root;" in done.stderr
