"""The hours of the day in which rollouts may begin."""

from __future__ import annotations

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest

from webhook.rollout.window import Window, window

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "at", "is_open"),
    [
        ("22:00-06:00", "2026-03-02T21:59:59+00:00", False),
        ("22:00-06:00", "2026-03-02T22:00:00+00:00", True),
        ("22:00-06:00", "2026-03-03T05:59:59+00:00", True),
        ("22:00-06:00", "2026-03-03T06:00:00+00:00", False),
        ("09:00-17:00", "2026-03-03T12:00:00+00:00", True),
        ("09:00-17:00", "2026-03-03T08:59:00+00:00", False),
        ("00:00-23:59", "2026-03-03T00:00:00+00:00", True),
    ],
)
def test_a_window_is_open_from_its_start_to_its_end(text: str, at: str, *, is_open: bool) -> None:
    """Over midnight, too."""
    assert window(text, UTC).is_open(datetime.fromisoformat(at)) == is_open


def test_a_window_follows_the_clock_on_the_wall_of_its_zone() -> None:
    """02:30 comes not at all in the night that loses an hour, and twice in the one that wins it."""
    night = Window(time(2, 30), time(4, 0), BERLIN)
    lost = [
        datetime(2026, 3, 29, hour, minute, tzinfo=UTC) for hour in (0, 1) for minute in (30, 59)
    ]
    assert [night.is_open(each) for each in lost] == [False, False, True, True]
    twice = [datetime(2026, 10, 25, hour, 45, tzinfo=UTC) for hour in range(4)]
    assert [night.is_open(each) for each in twice] == [True, True, True, False]
    assert window("22:00-06:00", BERLIN).is_open(datetime(2026, 7, 1, 20, 30, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "24:00-06:00", "22:60-06:00", "6:00-6:00"])
def test_what_is_no_window_is_told(text: str) -> None:
    """And what is."""
    with pytest.raises(ValueError, match="expected two times of day such as 22:00-06:00"):
        window(text)
