"""An attempt to become a thing, step by step, over whatever answers or does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from iotd.provision import attempt as rules
from iotd.provision.attempt import (
    BAD_TOKEN, STEP_S, TOKEN_S, Attempt, Become, Create, Effect, Examine, Failed, MakeKey, Pending, Register,
)

CREATED: dict[str, Any] = {"certificateOwnershipToken": "t", "certificatePem": "pem", "certificateId": "1"}
REGISTERED: dict[str, Any] = {"thingName": "pi-7", "deviceConfiguration": {"a": "b"}}
WAIT_S = 5.0


class Course:
    """An attempt that is under way at the time `now`; `said` are the effects, of which none is lost."""

    def __init__(self, pending: Pending | None = None, thing: str = "", is_open: bool = True, now: float = 0.0) -> None:
        self.now = now
        self.said: list[Effect] = []
        self.take(rules.begun(pending, thing, now))
        if is_open:
            self.opened()

    def take(self, result: tuple[Attempt, list[Effect]]) -> list[Effect]:
        self.attempt, effects = result
        self.said += effects
        return effects

    def key(self) -> list[Effect]:
        return self.take(rules.key_made(self.attempt, "csr", self.now))

    def created(self, body: Any = CREATED) -> list[Effect]:
        return self.take(rules.created(self.attempt, body))

    def examined(self) -> list[Effect]:
        return self.take(rules.examined(self.attempt, self.now))

    def registered(self, body: Any = REGISTERED) -> list[Effect]:
        return self.take(rules.registered(self.attempt, body, WAIT_S, self.now))

    def rejected(self, step: str, body: Any = None) -> list[Effect]:
        return self.take(rules.rejected(self.attempt, step, body, WAIT_S, self.now))

    def closed(self) -> list[Effect]:
        return self.take(rules.closed(self.attempt, WAIT_S, self.now))

    def opened(self) -> list[Effect]:
        return self.take(rules.opened(self.attempt, self.now))

    def go_on(self) -> list[Effect]:
        """Return what is done when it is due next."""
        self.now = rules.next_due(self.attempt)
        assert self.now < math.inf
        return self.take(rules.due(self.attempt, WAIT_S, self.now))


def registering() -> Course:
    course = Course()
    course.key()
    course.created()
    course.examined()
    return course


def test_the_way_from_a_key_to_a_thing() -> None:
    course = registering()
    course.registered()
    assert course.said == [MakeKey(), Create("csr"), Examine("pem", "t"), Register("t"), Become("pi-7", {"a": "b"})]
    assert rules.next_due(course.attempt) == math.inf


def test_nothing_is_asked_before_the_line_is_open_and_the_key_is_made() -> None:
    course = Course(is_open=False)
    assert course.key() == [] and rules.next_due(course.attempt) == math.inf
    assert course.opened() == [Create("csr")]
    early = Course(is_open=False)
    assert early.opened() == [] and early.key() == [Create("csr")]


def test_what_an_earlier_run_has_left_is_registered_first() -> None:
    course = Course(Pending("t", 60.0, 0.0))
    assert course.said == [Register("t")]
    assert Course(Pending("t", None, 0.0)).said == [Register("t")], "of unknown age: the service knows"
    assert Course(Pending("t", TOKEN_S, 0.0)).said == [MakeKey()]


def test_a_lost_answer_is_named_and_the_same_token_asked_with_again() -> None:
    course = registering()
    [failure] = course.go_on()
    assert course.now == STEP_S and isinstance(failure, Failed)
    assert (failure.step, failure.retry_in_s) == ("register", WAIT_S) and "no answer within 10 s" in failure.reason
    assert course.go_on() == [Register("t")] and course.now == STEP_S + WAIT_S
    assert len(course.rejected("register", {"statusCode": 400, "errorCode": BAD_TOKEN})) == 1
    assert course.go_on() == [MakeKey()], "and a new beginning only where that is refused"


def test_an_answer_that_is_late_is_taken() -> None:
    course = Course()
    course.key()
    course.go_on()
    assert course.created() == [Examine("pem", "t")] and rules.next_due(course.attempt) == math.inf
    course.examined()
    course.go_on()
    assert course.registered() == [Become("pi-7", {"a": "b"})]


def test_an_answer_that_comes_twice_changes_nothing() -> None:
    course = registering()
    before = course.attempt
    assert course.created() == [] and course.attempt == before
    course.registered()
    assert course.registered() == [] and course.rejected("register") == []
    assert course.rejected("certificate") == []


@pytest.mark.parametrize("body, words", [
    ({"statusCode": 403, "errorCode": "AccessDenied", "errorMessage": "ACCESS_DENIED"},
     "refused: 403 AccessDenied ACCESS_DENIED"),
    ({"statusCode": 429, "errorCode": "TooManyRequests", "errorMessage": "x" * 9999}, "refused: 429 TooMany"),
    (None, "refused: without a reason"), ([1], "refused: without a reason"), ({"errorCode": {"a": 1}}, "refused: {'a"),
])
def test_a_refusal_is_told_in_the_words_of_the_service_and_the_token_kept(body: Any, words: str) -> None:
    course = registering()
    [failure] = course.rejected("register", body)
    assert isinstance(failure, Failed) and failure.reason.startswith(words) and len(failure.reason) < 1000
    assert course.go_on() == [Register("t")]


def test_a_certificate_that_is_refused_is_asked_for_again_with_the_same_key() -> None:
    course = Course()
    course.key()
    assert isinstance(course.rejected("certificate")[0], Failed)
    assert course.go_on() == [Create("csr")]


def test_a_token_that_grows_old_while_the_service_refuses_it_is_let_go() -> None:
    course = registering()
    course.now = TOKEN_S - 1.0
    course.rejected("register", {"statusCode": 403})
    assert course.go_on() == [MakeKey()]


def test_a_line_that_ends_over_a_request_has_it_asked_again_on_the_next() -> None:
    course = registering()
    [failure] = course.closed()
    assert isinstance(failure, Failed) and rules.next_due(course.attempt) == math.inf
    course.now += WAIT_S
    assert course.opened() == [Register("t")]
    waiting = registering()
    waiting.rejected("register")
    assert waiting.closed() == [], "nothing was awaited"


def test_a_line_that_comes_back_at_once_is_not_asked_before_the_wait_is_over() -> None:
    course = registering()
    course.closed()
    assert course.opened() == [] and course.go_on() == [Register("t")]


@pytest.mark.parametrize("body", [
    None, [], {}, {"certificatePem": "pem"}, {**CREATED, "certificatePem": 1}, {**CREATED, "certificatePem": ""},
    {**CREATED, "certificatePem": "x" * 30_000}, {**CREATED, "certificateOwnershipToken": ["t"]},
])
def test_a_certificate_that_makes_no_sense_is_none(body: Any) -> None:
    course = Course()
    course.key()
    assert course.created(body) == []
    assert isinstance(course.go_on()[0], Failed)


@pytest.mark.parametrize("body", [None, [], {}, {"thingName": 7}, {"thingName": ""}, {"thingName": "a/b"},
                                  {"thingName": "x" * 129}])
def test_a_thing_that_is_none_is_not_become(body: Any) -> None:
    course = registering()
    assert isinstance(course.registered(body)[0], Failed)
    assert course.go_on() == [Register("t")]


def test_a_renewal_makes_no_other_thing() -> None:
    course = Course(Pending("t", 0.0, 0.0), thing="pi-8")
    [failure] = course.registered()
    assert isinstance(failure, Failed) and "another thing, pi-7" in failure.reason


def test_what_fails_on_this_device_is_tried_again() -> None:
    course = Course()
    course.take(rules.failed(course.attempt, "no openssl", WAIT_S, course.now))
    assert course.go_on() == [MakeKey()]
    course.key()
    course.created()
    course.take(rules.failed(course.attempt, "another key's", WAIT_S, course.now))
    assert course.go_on() == [Create("csr")]
    course = registering()
    course.registered()
    course.take(rules.failed(course.attempt, "the disk is full", WAIT_S, course.now))
    assert course.go_on() == [Register("t")]


@pytest.mark.parametrize("failures, chance, expected", [
    (0, 1.0, 2.0), (1, 0.5, 2.0), (5, 1.0, 64.0), (30, 1.0, 3600.0), (10_000, 0.25, 900.0), (3, 0.0, 0.0),
])
def test_waits_double_to_an_hour_with_full_jitter(failures: int, chance: float, expected: float) -> None:
    assert rules.wait_s(2.0, failures, chance) == expected
