"""Why no line comes up, in words for the person who can mend it: who refuses whom, and what to look at. Pure."""

TLS_PORTS = (443, 8443, 8883, 8884)
WEB_PORTS = (80, 8000, 8080, 8083, 8084, 9001, 15675, 15676)

# Whichever of FIN and RST we meet.
TLS_ENDED = "TLS failed: the broker ended the line amid the handshake; does it speak TLS on this mqtt.port?"

_HTTP = b"HTTP/"
_ALERT = b"\x15\x03"  # how a record of TLS with an alert begins (RFC 8446, 5.1)
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_OF_CERTIFICATES = ("CERT", "UNKNOWN_CA", "ACCESS_DENIED")  # the alerts about one (RFC 8446, 6.2) in OpenSSL's words
_UNKNOWN_ISSUER = (18, 19, 20, 21)  # X509_V_ERR_… of X509_STORE_CTX_get_error(3)


def refused(code: int, client_id: str, username: str | None) -> str:
    """Return what a CONNACK that refuses means (MQTT 3.1.1, table 3.1)."""
    # What stands behind a question mark may be a token (AWS IoT Core "Custom authentication").
    user = "a client without user name" if username is None else f"the user {username.partition('?')[0]!r}"
    why = {
        1: "it does not speak MQTT 3.1.1",
        2: f"it does not take this client id, {client_id!r}; another one stands in mqtt.client_id",
        3: "it is not available, though it answers; its own log says why",
        4: f"bad user name or password, for {user}; look at mqtt.username and mqtt.password_file",
        5: f"this client is not authorised, as {user}; look at mqtt.username, mqtt.password_file and at what the "
           f"broker allows the client id {client_id!r}",
    }
    return f"the broker refused the connection: {why.get(code, f'code {code}')}"


def before_connack(
    cause: str, reason: str, head: bytes, port: int, secured: bool, client_id: str, will: bool
) -> tuple[str, str]:
    """Return the cause and the reason of a line that ended before its CONNACK.

    `head` are the first bytes that came, `port` is 0 where that is told already, `secured`: the line is under TLS,
    `will`: it has one.
    """
    if cause not in ("closed", "reset", "connack", "protocol"):
        return cause, reason
    if head.startswith(_HTTP):
        return "protocol", f"port {port} speaks HTTP and no MQTT: it may be the broker's port for websockets; " \
                           "write that for MQTT under mqtt.port, or transport: websockets"
    if not secured and (head.startswith(_ALERT) or not head and port in TLS_PORTS):
        return "tls", f"port {port} is for TLS, and there is no mqtt.tls; add that section, or write another mqtt.port"
    if cause in ("closed", "reset"):  # whichever of FIN and RST we meet
        cause, reason = "closed", "the broker closed the line instead of a CONNACK"
        if not head and port in WEB_PORTS:
            reason += f"; port {port} is mostly for HTTP or websockets: write that for MQTT, or transport: websockets"
        elif secured:
            reason += f"; is this device known there and active, and may it connect as {client_id!r}?"
        elif will:
            reason += "; does it take a will on presence.topic, at presence.qos, retained as presence.retain says?"
    return cause, reason


def tls_failed(reason: str, said: str) -> str:
    """Say why there is no TLS, by OpenSSL's `reason`, which is empty for an end without one, and what was `said`.

    Of the device's certificate it is the same whether TLS 1.2 tells it amid the handshake or 1.3 after it (RFC 8446,
    4.4.2.4).
    """
    if "ALERT_CERTIFICATE_REQUIRED" in reason:
        return "the broker asks for a certificate of this device; write mqtt.tls.cert and mqtt.tls.key"
    if "ALERT" in reason and any(word in reason for word in _OF_CERTIFICATES):
        return f"the broker does not accept this device's certificate: is it registered and active there? ({said})"
    if "ALERT_NO_APPLICATION_PROTOCOL" in reason:
        return "TLS failed: the broker does not know the protocol that mqtt.alpn asks for"
    if "ALERT_HANDSHAKE_FAILURE" in reason:
        return f"TLS failed: {said}; does the broker ask for a certificate of this device, or for other ciphers?"
    if any(word in reason for word in _NO_TLS):
        return "TLS failed: what answers there speaks none; write the broker's port for TLS under mqtt.port, mostly " \
               f"8883, or leave out mqtt.tls ({said})"
    return f"TLS failed: {said}"


def unverified(name: str, code: int, said: str) -> str:
    """Say why the broker's certificate is refused, by OpenSSL's code."""
    more = "; mqtt.tls.ca does not hold the authority that signed it" if code in _UNKNOWN_ISSUER else ""
    return f"the certificate of {name} is refused: {said}{more}"
