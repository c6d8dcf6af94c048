"""A machine of its own for a test: Debian with its own kernel under QEMU, and a root shell into it.

KVM is left aside on purpose: where tests run it is often missing or does not boot a stock kernel, and the times in
a report should not depend on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("systemd-sysv", "dbus", "udev", "kmod", "iproute2", "linux-image-amd64",
            "ca-certificates", "openssl",
            "python3", "python3-paho-mqtt", "python3-sdnotify", "python3-yaml", "python3-pythonjsonlogger",
            "hostapd", "iw", "wireless-regdb", "wpasupplicant", "network-manager", "mosquitto", "mosquitto-clients")

# Run before any package is configured: an initrd that holds what this machine needs, small enough to emulate.
PREPARE = r"""
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/vm"
printf '%s\n' virtio_pci virtio_blk ext4 crc32c > "$1/usr/share/initramfs-tools/modules.d/vm"
"""

# Run in the new root: the host's directories by 9p, the agent at every boot, nothing that disturbs a measurement.
FURNISH = r"""
mkdir -p /checkout /share
systemd-machine-id-setup >/dev/null
touch /etc/.updated /var/.updated
echo 127.0.0.1 localhost > /etc/hosts
cat > /etc/fstab <<'END'
checkout /checkout 9p trans=virtio,version=9p2000.L,msize=262144,ro 0 0
share    /share    9p trans=virtio,version=9p2000.L,msize=262144    0 0
END
cat > /etc/systemd/system/agent.service <<'END'
[Unit]
RequiresMountsFor=/checkout /share
[Service]
ExecStart=/usr/bin/python3 -I -B /checkout/tests/vm/agent.py
KillMode=process
[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable agent.service
systemctl --quiet disable mosquitto.service hostapd.service
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service
"""


class MachineError(Exception):
    """The machine did not do what a scenario relies on."""


def base(release: str) -> Path:
    """Return a directory with `disk`, `kernel` and `initrd` of a furnished Debian, built once for each content.

    It is kept in `$XDG_CACHE_HOME/iotd` (`~/.cache/iotd`), outside the checkout. Needs root, or sudo.
    """
    key = hashlib.sha256("\0".join((release, *PACKAGES, PREPARE, FURNISH)).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iotd"
    ready = cache / f"vm-{release}-{key}"
    if not ready.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as building:
            made = Path(building) / "base"
            made.mkdir()
            _build(release, made)
            made.rename(ready)
    return ready


def _build(release: str, directory: Path) -> None:
    script = """
        trap 'rm -rf --one-file-system "$1/root"' EXIT
        mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --include="$2" \
            --essential-hook='sh -euc "$PREPARE" sh "$1"' --customize-hook='chroot "$1" sh -euc "$FURNISH"' \
            "$3" "$1/root"
        cp "$1"/root/boot/vmlinuz-* "$1/kernel"
        cp "$1"/root/boot/initrd.img-* "$1/initrd"
        /sbin/mke2fs -q -t ext4 -d "$1/root" "$1/disk" 3G
        chmod a+r "$1/kernel" "$1/initrd" "$1/disk"
    """
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "env", f"PREPARE={PREPARE}", f"FURNISH={FURNISH}", "sh", "-euc", script, "sh",
                    str(directory), ",".join(PACKAGES), release], check=True)


class Machine:
    """One running guest on a copy-on-write disk that lives as long as QEMU: reboots keep it, the end forgets it.

    The checkout is read-only at `/checkout` inside; `share` is the same directory on both sides (`/share` inside).
    """

    def __init__(self, release: str = "trixie") -> None:
        self._base = base(release)
        self._directory = Path(tempfile.mkdtemp(prefix="iotd-vm-"))
        self.share = self._directory / "share"
        self.share.mkdir()
        self.console = self._directory / "console"
        self._requests = 0
        self._rest = b""
        self._qemu = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL)
        self._port = self._connected("agent")
        self._monitor = self._connected("monitor")
        self.boot_id = ""

    def __enter__(self) -> Machine:
        try:
            self.wait_for_boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._qemu.kill()
        self._qemu.wait()
        self._port.close()
        self._monitor.close()
        shutil.rmtree(self._directory)

    def run(self, script: str, limit_s: float = 120.0) -> str:
        """Run a shell script (`sh -eu`) as root and return its stdout.

        Raises MachineError where it fails, and where it has to be killed at the limit.
        """
        self._requests += 1
        request = {"id": self._requests, "script": script, "limit_s": limit_s}
        self._port.sendall(json.dumps(request).encode() + b"\n")
        answer = self._receive(limit_s + 30, lambda body: body.get("id") == self._requests, script)
        if answer["status"] != 0:
            raise MachineError(f"exit status {answer['status']} from {script!r}: {answer['stderr']}{answer['stdout']}")
        return str(answer["stdout"])

    def wait_until(self, script: str, limit_s: float = 120.0) -> None:
        """Run a shell script again and again until it succeeds; raises MachineError at the limit."""
        try:
            self.run(f"until ( {script}\n) >/dev/null 2>&1; do sleep 0.2; done", limit_s)
        except MachineError as error:
            raise MachineError(f"not so within {limit_s:g} s: {script}") from error

    def wait_for_boot(self, limit_s: float = 400.0) -> str:
        """Wait until the guest comes up, or comes up again, and return the id of that boot."""
        hello = self._receive(limit_s, lambda body: body.get("boot_id", self.boot_id) != self.boot_id, "a boot")
        self.boot_id = str(hello["boot_id"])
        return self.boot_id

    def cut_power(self) -> None:
        """Cut the power and give it back: what the guest had not written to its disk is gone."""
        self._monitor.sendall(b"system_reset\n")

    def _receive(self, limit_s: float, wanted: Any, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        while True:
            *lines, self._rest = self._rest.split(b"\n")
            for number, line in enumerate(lines):
                body: dict[str, Any] = json.loads(line) if line.startswith(b"{") and line.endswith(b"}") else {}
                if wanted(body):
                    self._rest = b"\n".join((*lines[number + 1:], self._rest))
                    return body
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._qemu.poll() is not None:
                why = "no answer" if left_s <= 0 else "the machine ended"
                raise MachineError(f"{why}: {what}\n{self._last_words()}")
            self._port.settimeout(min(left_s, 1.0))
            try:
                self._rest += self._port.recv(65536)
            except TimeoutError:
                pass

    def _last_words(self) -> str:
        return self.console.read_text("utf-8", "replace")[-2000:] if self.console.exists() else ""

    def _connected(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 10
        while True:
            try:
                connection.connect(str(self._directory / name))
                return connection
            except OSError:
                if time.monotonic() > deadline or self._qemu.poll() is not None:
                    connection.close()
                    self._qemu.kill()
                    self._qemu.wait()
                    shutil.rmtree(self._directory)
                    raise
                time.sleep(0.05)

    def _command(self) -> list[str]:
        here, disk = self._directory, self._base
        return ["setpriv", "--pdeathsig", "KILL",  # should the tests be killed, so is the machine
                "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024",
                "-cpu", "Nehalem",  # a newer one is slower: the wide vectors of its C library are dear to emulate
                "-nodefaults", "-display", "none", "-serial", f"file:{here}/console",
                "-monitor", f"unix:{here}/monitor,server=on,wait=off",
                "-kernel", f"{disk}/kernel", "-initrd", f"{disk}/initrd",
                "-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off",
                "-drive", f"file={disk}/disk,if=virtio,format=raw,snapshot=on",
                "-device", "virtio-serial",
                "-chardev", f"socket,id=agent,path={here}/agent,server=on,wait=off",
                "-device", "virtserialport,chardev=agent,name=agent",
                "-virtfs", f"local,path={CHECKOUT},mount_tag=checkout,security_model=none,readonly=on",
                "-virtfs", f"local,path={here}/share,mount_tag=share,security_model=none"]
