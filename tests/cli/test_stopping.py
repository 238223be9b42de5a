"""Signals: what keeps checkpoints is asked, everything else stops at once, and nobody waits longer than the grace."""

import os
import signal
import time

import pytest

from excise.cli import stopping


class Training:
    def __init__(self, inside=True):
        self.inside, self.heard = inside, []

    def stop(self, error):
        self.heard.append(error)


@pytest.fixture(autouse=True)
def listening():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    stopping.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


SIGNALS = [(signal.SIGTERM, stopping.Terminated), (signal.SIGINT, KeyboardInterrupt)]


@pytest.mark.parametrize(("number", "kind"), SIGNALS)
def test_what_keeps_no_checkpoints_stops_at_once(number, kind):
    with pytest.raises(kind):
        send(number)
    with pytest.raises(kind), stopping.stoppable(Training(inside=False)):
        send(number)


@pytest.mark.parametrize(("number", "kind"), SIGNALS)
def test_a_training_is_asked_first_and_a_second_signal_does_not_wait(number, kind):
    training = Training()
    with stopping.stoppable(training):
        send(number)
        assert [type(error) for error in training.heard] == [kind]
        with pytest.raises(kind):
            send(number)
    assert len(training.heard) == 1


def test_the_grace_ends(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.05)
    training = Training()
    with pytest.raises(stopping.Terminated) as found, stopping.stoppable(training):
        send(signal.SIGTERM)
        time.sleep(5)
    assert found.value is training.heard[0]


def test_after_the_training_nothing_of_it_is_left(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.02)
    training = Training()
    with stopping.stoppable(training):
        send(signal.SIGTERM)
    time.sleep(0.05)  # the time is up, and nobody is there to be stopped
    with pytest.raises(stopping.Terminated):
        send(signal.SIGTERM)
    send(signal.SIGALRM)
    assert len(training.heard) == 1
