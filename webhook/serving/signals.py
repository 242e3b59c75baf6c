"""Which signals end the process.

Apart from all else: the parent of several workers must not import the metrics before it has said in
which folder they are added up.
"""

from __future__ import annotations

import signal


def ending_signals() -> set[signal.Signals]:
    """Give the signals upon which to drain: SIGHUP too, unless it is ignored, as by `nohup`."""
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    return {each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN}
