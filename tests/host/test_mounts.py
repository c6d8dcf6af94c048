"""Which directories a reboot forgets, by the mounts of real systems."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iotd.host.mounts import forgets, is_in_memory, mounts_of

ROOT = Path(__file__).parent.parent.parent
STATE = "/var/lib/iotd"
CARD = "25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw"
RUN = "27 25 0:23 / /run rw,nosuid,nodev shared:12 - tmpfs tmpfs rw,size=187060k,mode=755"
SANDBOX = "88 85 179:2 /var/lib/iotd /var/lib/iotd rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw"
# Debian's overlayroot, and raspi-config, whose upper layer the initramfs has out of sight.
OVERLAYROOT = "25 1 0:22 / / rw - overlay overlayroot rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay"
ROOT_RW = "26 25 0:20 / /media/root-rw rw - tmpfs tmpfs-root rw"
RASPI = "25 1 0:22 / / rw - overlay overlay rw,lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"
RASPI_SANDBOX = "88 85 0:22 /var/lib/iotd /var/lib/iotd rw - overlay overlay rw,lowerdir=/lower,upperdir=/upper/data"


@pytest.mark.parametrize("mountinfo, lost", [
    ([CARD, RUN], False),
    ([CARD, RUN, SANDBOX], False),
    ([CARD, "30 25 0:30 / /var/lib rw - tmpfs tmpfs rw"], True),
    ([CARD, "30 25 0:30 / /var/lib rw - tmpfs tmpfs rw", SANDBOX], False),
    ([CARD, "30 25 0:30 / /var/lib/iot rw - tmpfs tmpfs rw"], False),
    ([CARD, "30 25 253:0 / /var/lib rw - ext4 /dev/zram1 rw"], True),
    (["1 1 0:2 / / rw - rootfs rootfs rw"], True),
    ([OVERLAYROOT, ROOT_RW], True),
    ([OVERLAYROOT, ROOT_RW.replace("tmpfs tmpfs-root", "ext4 /dev/sda3")], False),
    ([OVERLAYROOT, ROOT_RW, SANDBOX.replace("/ /", "/iotd /")], False),
    ([RASPI, RUN], True),
    ([RASPI, RUN, RASPI_SANDBOX], True),
    ([RASPI, RUN, r"31 25 8:1 / /var/lib rw - ext4 /dev/disk/by-label/my\\040state rw"], False),
    ([CARD, "31 25 0:40 / /var/lib rw - overlay o rw,lowerdir=/a:/b"], False),
    (["25 1 0:50 / / rw - nfs4 server:/pi rw"], False),
    ([], False),
    (["nonsense", "1 - 2", " - "], False),
])
def test_what_lies_in_memory_is_forgotten_and_what_lies_on_a_disk_is_not(mountinfo: list[str], lost: bool) -> None:
    assert is_in_memory(STATE, mounts_of("\n".join(mountinfo))) is lost


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_directory_on_a_real_tmpfs_is_forgotten_behind_a_link_too(tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    script = ("import sys; from pathlib import Path; from iotd.host.mounts import forgets\n"
              "sys.exit(forgets(Path(sys.argv[1])))")
    shell = "mount -t tmpfs tmpfs \"$1\" && exec \"$2\" -c \"$3\" \"$4\""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", shell, "sh", place, sys.executable, script,
                           tmp_path / "link"], cwd=ROOT)
    assert done.returncode == 1
    assert isinstance(forgets(tmp_path), bool)
