"""What is said of a line that does not come up: who refuses whom, and what to look at."""

from __future__ import annotations

import pytest

from iotd.mqtt import advice

CLOSED = "the broker closed the line instead of a CONNACK"


def test_a_line_without_a_will_ends_over_something_else() -> None:
    assert advice.before_connack("reset", "said", b"", 1883, False, "pi-7", False) == ("closed", CLOSED)


@pytest.mark.parametrize("cause, head, port, secured, told, words", [
    ("closed", b"", 8883, False, "tls", "port 8883 is for TLS, and there is no mqtt.tls"),
    ("reset", b"", 8883, False, "tls", "port 8883 is for TLS, and there is no mqtt.tls"),
    ("connack", b"", 443, False, "tls", "port 443 is for TLS, and there is no mqtt.tls"),
    ("closed", b"\x15\x03\x01\x00\x02\x02\x46", 1234, False, "tls", "port 1234 is for TLS"),
    ("protocol", b"\x15\x03\x03\x00\x02\x02\x0a", 1234, False, "tls", "port 1234 is for TLS"),
    ("closed", b"HTTP/1.1", 80, False, "protocol", "port 80 speaks HTTP and no MQTT"),
    ("protocol", b"HTTP/1.0", 8084, True, "protocol", "port 8084 speaks HTTP and no MQTT: it may be the broker's"),
    ("closed", b"", 9001, False, "closed", f"{CLOSED}; port 9001 is mostly for HTTP or websockets"),
    ("reset", b"", 9001, False, "closed", f"{CLOSED}; port 9001 is mostly for HTTP or websockets"),
    ("closed", b"", 8883, True, "closed", f"{CLOSED}; is this device known there and active, and may it connect as 'p"),
    ("closed", b"", 1883, False, "closed", f"{CLOSED}; does it take a will on presence.topic, at presence.qos"),
    ("connack", b"", 1883, False, "connack", "said"),
    ("protocol", b"\x99\x99", 8883, False, "protocol", "said"),
    ("refused", b"\x20\x02\x00\x05", 8883, False, "refused", "said"),
    ("fault", b"", 8883, False, "fault", "said"),
])
def test_a_line_that_ends_before_connack_is_told_by_what_was_met(
    cause: str, head: bytes, port: int, secured: bool, told: str, words: str
) -> None:
    found, reason = advice.before_connack(cause, "said", head, port, secured, "pi-7", True)
    assert (found, reason.startswith(words)) == (told, True), reason


@pytest.mark.parametrize("reason, words", [
    ("TLSV1_ALERT_UNKNOWN_CA", "the broker does not accept this device's certificate: is it registered and active th"),
    ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "the broker does not accept this device's certificate"),
    ("TLSV1_ALERT_ACCESS_DENIED", "the broker does not accept this device's certificate"),
    ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "the broker asks for a certificate of this device; write mqtt.tls.cert"),
    ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", "TLS failed: the broker does not know the protocol that mqtt.alpn asks"),
    ("SSLV3_ALERT_HANDSHAKE_FAILURE", "TLS failed: said; does the broker ask for a certificate of this device"),
    ("WRONG_VERSION_NUMBER", "TLS failed: what answers there speaks none; write the broker's port for TLS"),
    ("BAD_SIGNATURE", "TLS failed: said"),
])
def test_a_failure_of_tls_is_told_by_who_refuses_what(reason: str, words: str) -> None:
    assert advice.tls_failed(reason, "said").startswith(words)


@pytest.mark.parametrize("code, username, words", [
    (1, "u", "it does not speak MQTT 3.1.1"), (2, "u", "this client id, 'pi-7'; another one stands in mqtt.client_id"),
    (3, "u", "not available"), (4, "u", "bad user name or password, for the user 'u'; look at mqtt.username"),
    (5, "u", "not authorised, as the user 'u'"), (5, None, "not authorised, as a client without user name"),
    (5, "u?token=x", "not authorised, as the user 'u';"), (77, "u", "code 77"),
])
def test_a_refusal_names_the_user_where_it_is_about_the_user(code: int, username: str | None, words: str) -> None:
    told = advice.refused(code, "pi-7", username)
    assert words in told and ("'u'" in told) == (username is not None and code in (4, 5))
