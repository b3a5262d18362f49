"""A library that may be away: waited for as long as it is worth, and no error of another kind is."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from esper.oona import BreakerState
from esper.urza import AccessDenied, InvalidEntry, Library, LibraryUnavailable
from esper.weatherlight.patient import PatientLibrary

LIBRARY = cast(Library, object())


class Question:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: type[Exception] = LibraryUnavailable) -> None:
        self.left, self.error, self.asked = failures, error, 0

    def __call__(self, library: Any) -> str:
        assert library is LIBRARY
        self.asked += 1
        if self.left:
            self.left -= 1
            raise self.error("the library is away")
        return "answer"


@pytest.mark.parametrize("error", [LibraryUnavailable, AccessDenied])
def test_it_is_asked_again_until_it_answers(error: type[Exception]) -> None:
    question = Question(3, error)
    assert PatientLibrary(LIBRARY).ask(question, threading.Event()) == "answer"
    assert question.asked == 4


def test_another_error_is_not_waited_for() -> None:
    question = Question(1, InvalidEntry)
    with pytest.raises(InvalidEntry):
        PatientLibrary(LIBRARY).ask(question, threading.Event())
    assert question.asked == 1


def test_patience_ends() -> None:
    question = Question(1000)
    began = time.monotonic()
    with pytest.raises(LibraryUnavailable, match="away"):
        PatientLibrary(LIBRARY, 0.35).ask(question, threading.Event())
    assert time.monotonic() - began < 5
    assert 1 < question.asked < 6


def test_whoever_is_stopped_waits_no_longer_but_is_answered_where_there_is_an_answer() -> None:
    stop = threading.Event()
    stop.set()
    patient = PatientLibrary(LIBRARY)
    assert patient.ask(Question(0), stop) == "answer"
    question = Question(1000)
    with pytest.raises(LibraryUnavailable):
        patient.ask(question, stop)
    assert question.asked == 1


def test_while_it_stays_away_it_is_asked_ever_less_often() -> None:
    patient, question, stop = PatientLibrary(LIBRARY), Question(1000), threading.Event()

    def wait() -> None:
        with pytest.raises(LibraryUnavailable):
            patient.ask(question, stop)

    waiting = threading.Thread(target=wait)
    waiting.start()
    deadline = time.monotonic() + 20
    while patient.breaker.state is not BreakerState.OPEN:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Others are refused without asking it, and wait for the same try.
    asked = question.asked
    other = Question(1000)
    stop.set()
    with pytest.raises(LibraryUnavailable, match="not tried"):
        patient.ask(other, stop)
    waiting.join(20)
    assert other.asked == 0
    assert question.asked <= asked + 1
