from __future__ import annotations

import threading
import time

import pytest

from webhook.background import Background


def test_background_work_goes_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a step raises is logged, and the next one comes."""
    monkeypatch.setattr("webhook.background._AFTER_A_BUG_SECONDS", 0.0)
    done = threading.Event()
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        if len(steps) == 1:
            message = "a bug"
            raise RuntimeError(message)
        done.set()
        return 60.0

    background = Background("test", step)
    background.start()
    assert done.wait(5)
    assert "a bug" in caplog.text
    background.wake()
    end = time.monotonic() + 5
    while len(steps) < 3 and time.monotonic() < end:
        time.sleep(0.001)
    background.stop()
    assert len(steps) == 3


def test_what_was_stopped_before_it_began_never_begins() -> None:
    """Stopping is for ever."""
    background = Background("test", lambda: 1 / 0)
    background.stop()
    background.start()
    assert background._thread is None
