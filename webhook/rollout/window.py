"""The hours of the day in which rollouts may begin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, tzinfo


@dataclass(frozen=True, slots=True)
class Window:
    """The hours of the day in which rollouts may begin, as a clock on the wall of `zone` shows.

    Args:
        start: from when on.
        end: until when; before `start`, it is on the next day.
        zone: the time zone; the machine's own where none.
    """

    start: time
    end: time
    zone: tzinfo | None = None

    def is_open(self, now: datetime) -> bool:
        """Tell whether one may begin at a moment, which must know its own zone."""
        shown = now.astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= shown < self.end
        return shown >= self.start or shown < self.end


def window(text: str, zone: tzinfo | None = None) -> Window:
    """Read `22:00-06:00`.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", text.strip(), re.ASCII)
    try:
        if found:
            hours = [int(each) for each in found.groups()]
            read = Window(time(hours[0], hours[1]), time(hours[2], hours[3]), zone)
            if read.start != read.end:
                return read
    except ValueError:
        pass
    message = f"expected two times of day such as 22:00-06:00, not {text!r}"
    raise ValueError(message)
