"""Brokers as they are installed by `script/bootstrap brokers`, each in a directory of its own, on loopback."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.metadata import Distribution
from pathlib import Path
from types import TracebackType

from tests.certificates import Certificates
from tests.mosquitto import HOST, free_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iotd/brokers"
HERE = f"Debian {platform.freedesktop_os_release().get('VERSION_ID', '')}"
TRIXIE = CACHE / "trixie"  # a root of Debian 13
PATIENCE_S = 60.0
SEEN, KEPT, ANEW = "yes", "kept", "begun anew"


# Runs a program in another Debian, which sees the directory at the same place: ROOT DIRECTORY WORK-DIRECTORY PROGRAM…
_IN_ROOT = """\
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mkdir -p "$1$2"
mount --rbind "$2" "$1$2"
root=$1 work=$3
shift 3
exec chroot "$root" sh -euc 'cd "$0"; exec "$@"' "$work" "$@"
"""


class Broker:
    """A broker that keeps its ports, and what it keeps at all, over a restart: `port` is plain, `tls_port` with TLS.

    `session` is what becomes of a session when it is started again. `login` is the user of all, where it wants one.
    """

    key = ""  # of the command line
    name = ""
    origin = ""
    session = KEPT
    host = HOST
    root: Path | None = None  # of another Debian that it runs in, as root
    login: tuple[str, str] | None = None
    certificates = None  # of clients, of whom none is asked for one: what an Observer looks at

    def __init__(self, directory: Path, server: Certificates) -> None:
        self.directory = directory
        self.server = server.server
        self.log = directory / "broker.log"
        self.port, self.tls_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Write its configuration; return how it is started."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return what it needs beside the environment of all."""
        return {}

    def version(self) -> str:
        """Return its version; raises OSError or a subclass of Exception where it is not installed."""
        raise NotImplementedError

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Return once both ports accept connections; raises RuntimeError with its log where they do not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.in_root(self.command()), env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0, cwd=self.directory)
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if all(map(self._listens, (self.port, self.tls_port))):
                return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"{self.name} has not started:\n{self.log.read_text(errors='replace')[-3000:]}")

    def in_root(self, command: list[str]) -> list[str]:
        """Return how the command is run in the Debian of this broker."""
        if self.root is None:
            return command
        return ["unshare", "--mount", "sh", "-euc", _IN_ROOT, "sh", str(self.root), str(self.directory.parent),
                str(self.directory), *command]

    def stop(self) -> None:
        """End it as systemd would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would, with whatever it has started."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 10.0
        while any(map(self._listens, (self.port, self.tls_port))) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _listens(self, port: int) -> bool:
        try:
            socket.create_connection((self.host, port), timeout=1.0).close()
        except OSError:
            return False
        return True


class Mosquitto(Broker):
    """Debian's."""

    key, name, origin = "mosquitto", "mosquitto", HERE

    def command(self) -> list[str]:
        config = self.directory / "mosquitto.conf"
        config.write_text(f"""\
user root
persistence true
persistence_location {self.directory}/
allow_anonymous true
listener {self.port} {HOST}
listener {self.tls_port} {HOST}
certfile {self.server.cert}
keyfile {self.server.key}
""")
        return [_program("mosquitto", self.root), "-c", str(config)]

    def version(self) -> str:
        return _of_package("mosquitto", self.root)


class RabbitMQ(Broker):
    """Debian's, with its MQTT plugin, and a port mapper of its own."""

    key, name, origin = "rabbitmq", "RabbitMQ", f"{HERE}, rabbitmq_mqtt"
    node = "iotd@localhost"
    settings = ""  # more lines of rabbitmq.conf

    def __init__(self, directory: Path, server: Certificates) -> None:
        super().__init__(directory, server)
        self._ports = [free_port() for _ in range(3)]
        self._mapper: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        (self.directory / "enabled").write_text("[rabbitmq_mqtt].\n")
        (self.directory / "rabbitmq.conf").write_text(f"""\
listeners.tcp.1 = {self.host}:{self._ports[0]}
mqtt.listeners.tcp.1 = {self.host}:{self.port}
mqtt.listeners.ssl.1 = {self.host}:{self.tls_port}
ssl_options.certfile = {self.server.cert}
ssl_options.keyfile = {self.server.key}
mqtt.allow_anonymous = true
{self.settings}""")
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        at, (_, distribution, mapper) = self.directory, self._ports
        return {"HOME": str(at), "RABBITMQ_NODENAME": self.node, "RABBITMQ_MNESIA_BASE": f"{at}/mnesia",
                "RABBITMQ_LOG_BASE": f"{at}/log", "RABBITMQ_LOGS": "-", "RABBITMQ_DIST_PORT": str(distribution),
                "RABBITMQ_ENABLED_PLUGINS_FILE": f"{at}/enabled", "RABBITMQ_CONFIG_FILE": f"{at}/rabbitmq.conf",
                "ERL_EPMD_PORT": str(mapper), "ERL_EPMD_ADDRESS": HOST}

    def version(self) -> str:
        return _of_package("rabbitmq-server", self.root)

    def start(self) -> None:
        if self._mapper is None:
            self._mapper = subprocess.Popen(self.in_root([
                _program("epmd", self.root), "-port", str(self._ports[2]), "-address", HOST]), stdin=subprocess.DEVNULL)
        super().start()

    def kill(self) -> None:
        super().kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None


# Answers each question of ejabberd's with yes (ejabberd "External Authentication").
_EVERYBODY = """\
#!/usr/bin/python3
import sys
while size := sys.stdin.buffer.read(2):
    sys.stdin.buffer.read(int.from_bytes(size, "big"))
    sys.stdout.buffer.write(b"\\0\\2\\0\\1")
    sys.stdout.buffer.flush()
"""


class Ejabberd(Broker):
    """Debian's, with mod_mqtt; started without ejabberdctl, which would change the user."""

    key, name, origin, session, login = "ejabberd", "ejabberd", f"{HERE}, mod_mqtt", ANEW, ("pi@localhost", "geheim")

    def command(self) -> list[str]:
        config = self.directory / "ejabberd.yml"
        everybody = self.directory / "everybody"
        everybody.write_text(_EVERYBODY)
        everybody.chmod(0o755)
        both = self.directory / "server.pem"
        both.write_bytes(self.server.cert.read_bytes() + self.server.key.read_bytes())
        config.write_text(f"""\
hosts: [localhost]
loglevel: info
certfiles: [{both}]
auth_method: [external]
extauth_program: "{everybody}"
auth_use_cache: false
listen:
  - {{port: {self.port}, ip: "{HOST}", module: mod_mqtt, backlog: 100}}
  - {{port: {self.tls_port}, ip: "{HOST}", module: mod_mqtt, backlog: 100, tls: true}}
acl:
  everybody: {{server: localhost}}
modules:
  mod_mqtt:
    access_publish: {{"#": [{{allow: all}}]}}
    access_subscribe: {{"#": [{{allow: all}}]}}
    session_expiry: 1 hour
    db_type: mnesia
""")
        root = self.root or Path("/")
        code = Path("/", next(root.glob("usr/lib/*/ejabberd-*/ebin")).relative_to(root))
        return [_program("erl", self.root), "-noinput", "-pa", str(code),
                "-mnesia", "dir", f'"{self.directory}/mnesia"', "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        return {"HOME": str(self.directory), "EJABBERD_CONFIG_PATH": str(self.directory / "ejabberd.yml"),
                "EJABBERD_LOG_PATH": str(self.directory / "ejabberd.log"), "SPOOL_DIR": str(self.directory / "mnesia")}

    def version(self) -> str:
        return _of_package("ejabberd", self.root)


class Aedes(Broker):
    """npm's, which keeps everything in memory."""

    key, name, origin, session = "aedes", "aedes", "npm", ANEW

    def command(self) -> list[str]:
        script = self.directory / "broker.mjs"
        script.write_text(f"""\
import {{ readFileSync }} from 'node:fs'
import {{ createServer }} from 'node:net'
import {{ createServer as createTlsServer }} from 'node:tls'
import {{ createRequire }} from 'node:module'
import {{ pathToFileURL }} from 'node:url'
const require = createRequire('{CACHE}/npm/')
const {{ Aedes }} = await import(pathToFileURL(require.resolve('aedes')))
const aedes = await Aedes.createBroker()
createServer(aedes.handle).listen({self.port}, '{HOST}')
createTlsServer({{
  cert: readFileSync('{self.server.cert}'), key: readFileSync('{self.server.key}')
}}, aedes.handle).listen({self.tls_port}, '{HOST}')
""")
        return [_program("node"), str(script)]

    def version(self) -> str:
        return str(json.loads((CACHE / "npm/node_modules/aedes/package.json").read_text())["version"])


class Amqtt(Broker):
    """PyPI's, in Python."""

    key, name, origin, session = "amqtt", "amqtt", "PyPI", ANEW

    def command(self) -> list[str]:
        config = self.directory / "amqtt.yaml"
        cert, key = self.server.cert, self.server.key
        config.write_text(f"""\
listeners:
  default: {{type: tcp, bind: "{HOST}:{self.port}"}}
  tls: {{type: tcp, bind: "{HOST}:{self.tls_port}", ssl: true, certfile: {cert}, keyfile: {key}}}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}
""")
        return [str(CACHE / "python/bin/amqtt"), "-c", str(config)]

    def version(self) -> str:
        return _of_pypi("amqtt")


class Rumqttd(Broker):
    """rumqttd as PyPI's iotcore carries it, which keeps everything in memory."""

    key, name, origin, session = "rumqttd", "rumqttd", "PyPI, iotcore", ANEW

    def command(self) -> list[str]:
        config = self.directory / "rumqttd.toml"
        listener = """\
[v4.{number}]
name = "{number}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v4.{number}.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""
        tls = f'[v4.2.tls]\ncapath = ""\ncertpath = "{self.server.cert}"\nkeypath = "{self.server.key}"\n'
        config.write_text(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 200\n"
            "max_segment_size = 104857600\nmax_segment_count = 10\n"
            + listener.format(number=1, host=HOST, port=self.port)
            + listener.format(number=2, host=HOST, port=self.tls_port) + tls.replace('capath = ""\n', ""))
        script = ("import sys, time\nfrom iotcore import Broker\n"
                  "with Broker(config_path=sys.argv[1]):\n    time.sleep(1e6)\n")
        return [str(CACHE / "python/bin/python"), "-c", script, str(config)]

    def version(self) -> str:
        return f"iotcore {_of_pypi('iotcore')}"


class MosquittoOfTrixie(Mosquitto):
    """Debian 13's."""

    key, origin, root = "mosquitto-trixie", "Debian 13", TRIXIE


class RabbitMQOfTrixie(RabbitMQ):
    """Debian 13's."""

    key, origin, root = "rabbitmq-trixie", "Debian 13, rabbitmq_mqtt", TRIXIE


class EjabberdOfTrixie(Ejabberd):
    """Debian 13's."""

    key, origin, root = "ejabberd-trixie", "Debian 13, mod_mqtt", TRIXIE


BROKERS: tuple[type[Broker], ...] = (
    Mosquitto, MosquittoOfTrixie, RabbitMQ, RabbitMQOfTrixie, Ejabberd, EjabberdOfTrixie, Aedes, Amqtt, Rumqttd)


def _program(name: str, root: Path | None = None) -> str:
    if root is not None:
        places = (f"/usr/{folder}/{name}" for folder in ("bin", "sbin"))
        found = next((place for place in places if Path(f"{root}{place}").exists()), None)
    else:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; run script/bootstrap brokers")
    return found


def _of_package(name: str, root: Path | None) -> str:
    found = subprocess.run(
        ["dpkg-query", f"--admindir={root or ''}/var/lib/dpkg", "--show", "--showformat", "${Version}", name],
        capture_output=True, text=True, timeout=20)
    if not found.stdout:
        raise FileNotFoundError(f"{name} is not installed; run script/bootstrap brokers as root")
    return found.stdout.partition("-")[0]


def _of_pypi(name: str) -> str:
    places = [str(path) for path in (CACHE / "python/lib").glob("python*/site-packages")]
    found: list[Distribution] = list(importlib.metadata.distributions(name=name, path=places))
    if not found:
        raise FileNotFoundError(f"{name} is not installed; run script/bootstrap brokers")
    return str(found[0].version)
