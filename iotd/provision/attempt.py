"""One attempt to become a thing, or to renew its certificate: key, connect, certificate, register, identity. Pure.

Each function takes the attempt, what has happened and `now`, and returns the attempt and the effects, which are
performed in their order: what is to be kept is on the disk before the next request goes. An answer that is late, or
comes twice, is taken where it is still the one that is missing, and else changes nothing. Shapes and the life of a
token: AWS IoT Core "Device provisioning MQTT API".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from iotd.mqtt.topics import thing_problem
from iotd.vocabulary import Json

STEP_S = 10.0
CEILING_S = 3600.0
TOKEN_S = 3600.0
MAX_FAILURES = 8  # of one attempt to renew
MAX_TEXT = 20_000  # characters of a certificate or a token
MAX_SHOWN = 300
BAD_TOKEN = "InvalidCertificateOwnershipToken"


class Pending(NamedTuple):
    """A certificate that is made, and the token by which it becomes the thing's; both are on the disk."""

    token: str
    age_s: float | None  # when this was read; None where nobody can tell
    read_at: float


class Attempt(NamedTuple):
    """Where it stands. `ask_at` is when the request of the step is due (math.inf: not now), `answer_by` until when its
    answer is awaited. `reason` is why it failed last, `thing` the only name that will do, where there is one.
    """

    step: str = "key"
    csr: str = ""
    pending: Pending | None = None
    ask_at: float = math.inf
    answer_by: float = math.inf
    is_open: bool = False
    failures: int = 0
    reason: str = ""
    thing: str = ""
    examined: str = ""  # the token of the certificate that is being looked at


class MakeKey(NamedTuple):
    """Make a key and a request for its certificate, and keep the key."""


class Create(NamedTuple):
    """Ask for the certificate."""

    csr: str


class Examine(NamedTuple):
    """Find out whether this certificate is that of the key, and how long it lasts; keep it, and the token."""

    certificate: str
    token: str


class Register(NamedTuple):
    """Ask for the thing."""

    token: str


class Become(NamedTuple):
    """This is who the device is: keep it, in one step."""

    thing: str
    configuration: Mapping[str, Json]


class Failed(NamedTuple):
    """A step has failed and is tried again."""

    step: str
    reason: str
    retry_in_s: float


Effect = MakeKey | Create | Examine | Register | Become | Failed
Next = tuple[Attempt, list[Effect]]


def begun(pending: Pending | None, thing: str, now: float) -> Next:
    """Begin, or go on with what an earlier run has left."""
    attempt = Attempt(thing=thing)
    if pending is None or _is_old(pending, now):
        return _anew(attempt)
    return _go(attempt._replace(step="register", pending=pending, ask_at=now), now)


def key_made(attempt: Attempt, csr: str, now: float) -> Next:
    """The key is on the disk."""
    return _go(attempt._replace(step="certificate", csr=csr, ask_at=now), now)


def opened(attempt: Attempt, now: float) -> Next:
    """The line is up, and the broker has granted the subscriptions to the answers."""
    return _go(attempt._replace(is_open=True), now)


def denied(attempt: Attempt, wait_s: float, now: float) -> Next:
    """The broker denies it; the line of a thing is not torn for a renewal again."""
    attempt = attempt._replace(failures=MAX_FAILURES) if attempt.thing else attempt
    return failed(attempt, "the broker denies it, probably by policy", wait_s, now)


def closed(attempt: Attempt, wait_s: float, now: float) -> Next:
    """The line is down: what was asked for is asked for again on the next one."""
    attempt = attempt._replace(is_open=False)
    if attempt.answer_by == math.inf:
        return attempt, []
    return _failed(attempt, "the line ended before an answer came", wait_s, now)


def created(attempt: Attempt, body: Any) -> Next:
    """A certificate has come."""
    token, pem = _text_of(body, "certificateOwnershipToken"), _text_of(body, "certificatePem")
    if attempt.step != "certificate" or attempt.examined or not (token and pem):
        return attempt, []
    return attempt._replace(ask_at=math.inf, answer_by=math.inf, examined=token), [Examine(pem, token)]


def examined(attempt: Attempt, now: float) -> Next:
    """The certificate is the key's, and on the disk with its token."""
    pending = Pending(attempt.examined, 0.0, now)
    return _go(attempt._replace(step="register", pending=pending, examined="", ask_at=now), now)


def registered(attempt: Attempt, body: Any, wait_s: float, now: float) -> Next:
    """The thing is there."""
    if attempt.step != "register":
        return attempt, []
    thing = body.get("thingName") if isinstance(body, dict) else None
    configuration = body.get("deviceConfiguration") if isinstance(body, dict) else None
    problem = thing_problem(thing, True) if isinstance(thing, str) else "the answer names no thing"
    if not problem and attempt.thing and attempt.thing != thing:
        problem = f"the template makes this device another thing, {thing}"
    if problem:
        return _failed(attempt, problem, wait_s, now)
    return attempt._replace(step="identity", ask_at=math.inf, answer_by=math.inf), [
        Become(str(thing), configuration if isinstance(configuration, dict) else {})]


def rejected(attempt: Attempt, step: str, body: Any, wait_s: float, now: float) -> Next:
    """The service says no to the request of this step; to a token that it does not know by a new beginning."""
    if attempt.step != step or attempt.examined:
        return attempt, []
    said = [body.get(key) for key in ("statusCode", "errorCode", "errorMessage")] if isinstance(body, dict) else []
    words = " ".join(str(word)[:MAX_SHOWN] for word in said if word not in (None, ""))
    attempt, effects = _failed(attempt, f"refused: {words or 'without a reason'}", wait_s, now)
    if step == "register" and len(said) > 1 and said[1] == BAD_TOKEN:
        attempt = attempt._replace(step="key", pending=None)
    return attempt, effects


def failed(attempt: Attempt, reason: str, wait_s: float, now: float) -> Next:
    """What the step needs of this device itself has failed; an identity that cannot be kept is asked for again."""
    step = "register" if attempt.step == "identity" else attempt.step
    attempt, effects = _failed(attempt._replace(examined=""), reason, wait_s, now)
    return attempt._replace(step=step), effects


def due(attempt: Attempt, wait_s: float, now: float) -> Next:
    """Do what is due: ask, or give up waiting for the answer."""
    if now >= attempt.answer_by:
        return _failed(attempt, f"no answer within {STEP_S:g} s; does the policy of the claim allow to receive it?",
                       wait_s, now)
    return _go(attempt, now)


def next_due(attempt: Attempt) -> float:
    """Return when `due` has something to do, math.inf for never."""
    waits_for_line = not attempt.is_open and attempt.step != "key"
    return min(math.inf if waits_for_line else attempt.ask_at, attempt.answer_by)


def body_of(payload: bytes) -> Json:
    """Return what an answer says, None for what is no JSON."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def wait_s(first_s: float, failures: int, chance: float) -> float:
    """Return random(0, min(1 h, first x 2^failures)), where `chance` (0 to 1) is the random draw."""
    return chance * min(CEILING_S, first_s * 2.0 ** min(failures, 32))


def _anew(attempt: Attempt) -> Next:
    return attempt._replace(step="key", csr="", pending=None, ask_at=math.inf, answer_by=math.inf), [MakeKey()]


def _go(attempt: Attempt, now: float) -> Next:
    """Ask for what the step needs, where that is due and the line is there."""
    if now < attempt.ask_at:
        return attempt, []
    if attempt.step == "key" or attempt.pending is not None and _is_old(attempt.pending, now):
        return _anew(attempt)
    if not attempt.is_open:
        return attempt, []
    request: Effect = Create(attempt.csr) if attempt.pending is None else Register(attempt.pending.token)
    return attempt._replace(ask_at=math.inf, answer_by=now + STEP_S), [request]


def _failed(attempt: Attempt, reason: str, wait_s: float, now: float) -> Next:
    attempt = attempt._replace(ask_at=now + wait_s, answer_by=math.inf, failures=attempt.failures + 1, reason=reason)
    return attempt, [Failed(attempt.step, reason, round(wait_s, 1))]


def _text_of(body: Any, key: str) -> str:
    """Return a text of an answer, nothing where there is none that is one."""
    text = body.get(key) if isinstance(body, dict) else None
    return text if isinstance(text, str) and len(text) <= MAX_TEXT else ""


def _is_old(pending: Pending, now: float) -> bool:
    """Tell whether the service has forgotten the token; one of unknown age is tried."""
    return pending.age_s is not None and pending.age_s + now - pending.read_at >= TOKEN_S
