"""The broker and how to hold a line to it, as the configuration says it."""

from typing import NamedTuple

SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"  # of Debian's package ca-certificates
PROXY_PORT = 3128


class Tls(NamedTuple):
    """The three certificates of mutual TLS, as paths; `cert` and `key` are empty where the broker alone shows one."""

    ca: str = "/etc/iotd/certs/AmazonRootCA1.pem"
    cert: str = "/etc/iotd/certs/certificate.pem.crt"
    key: str = "/etc/iotd/certs/private.pem.key"


class Proxy(NamedTuple):
    """An HTTP proxy whose CONNECT leads to the broker; the password is the first line of its file."""

    host: str
    port: int = PROXY_PORT
    username: str | None = None
    password_file: str | None = None


class Backoff(NamedTuple):
    """Retries wait 1 s + random(0, min(max, first x 2^n) - 1 s)."""

    first_s: float = 1.0
    max_s: float = 120.0


class Mqtt(NamedTuple):
    """The broker and how to hold a line to it. `aws_limits` is `limits` resolved against the host.

    `client_id` None is the thing; `alpn` is the protocol that TLS asks for, None for none. `transport` is tcp or
    websockets.
    """

    host: str
    port: int = 8883
    keepalive_s: int = 60
    clean_session: bool = False
    spread_s: float = 0.0
    aws_limits: bool = False
    tls: Tls | None = None
    backoff: Backoff = Backoff()
    client_id: str | None = None
    username: str | None = None
    password_file: str | None = None
    alpn: str | None = None
    proxy: Proxy | None = None
    transport: str = "tcp"
    path: str = "/mqtt"

    @property
    def websocket_path(self) -> str | None:
        """The path of the websocket, None where there is none."""
        return self.path if self.transport == "websockets" else None
