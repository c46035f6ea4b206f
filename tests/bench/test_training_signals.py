"""Signals wait for the end of the iteration, once, and reach whatever handled them before."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.training.signals import DEFERRED, DeferredSignals


@pytest.mark.parametrize("number", DEFERRED)
def test_the_first_signal_waits_and_the_second_does_not(number: int) -> None:
    received: list[int] = []
    previous = signal.signal(number, lambda number, frame: received.append(number))
    try:
        with DeferredSignals() as signals:
            signal.raise_signal(number)
            assert received == [] and signals.pending
            signal.raise_signal(number)
            assert received == [number] and signals.pending
            signals.deliver()
            assert received == [number, number] and not signals.pending
            signals.deliver()
            assert received == [number, number]
        signal.raise_signal(number)
        assert received == [number] * 3
    finally:
        signal.signal(number, previous)


def test_a_signal_that_nobody_asked_for_is_delivered_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), DeferredSignals():
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with DeferredSignals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_default_handler_ends_the_process_when_delivered() -> None:
    script = (
        "import signal; from bench.training.signals import DeferredSignals\n"
        "with DeferredSignals() as signals:\n"
        "    signal.raise_signal(signal.SIGTERM); print('whole', flush=True)\n"
        "    signals.deliver(); print('never')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGTERM and done.stdout == "whole\n"
