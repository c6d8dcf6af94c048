"""The broker and how to hold a line to it, as the configuration says it."""

from typing import NamedTuple


class Tls(NamedTuple):
    """The three certificates of mutual TLS, as paths."""

    ca: str = "/etc/iotd/certs/AmazonRootCA1.pem"
    cert: str = "/etc/iotd/certs/certificate.pem.crt"
    key: str = "/etc/iotd/certs/private.pem.key"


class Backoff(NamedTuple):
    """Retries wait 1 s + random(0, min(max, first x 2^n) - 1 s)."""

    first_s: float = 1.0
    max_s: float = 120.0


class Mqtt(NamedTuple):
    """The broker and how to hold a line to it. `aws_limits` is `limits` resolved against the host."""

    host: str
    port: int = 8883
    keepalive_s: int = 60
    clean_session: bool = False
    spread_s: float = 0.0
    aws_limits: bool = False
    tls: Tls | None = None
    backoff: Backoff = Backoff()
