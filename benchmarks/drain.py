"""What is lost while replicas are rolled and killed under load: the long version of the test.

Two replicas behind a balancer, called as API servers call (tests/replicas.py). It counts; it does
not measure time. `python benchmarks/drain.py [ROLLS [KILLS [SECONDS [LINGER]]]]`: at most SECONDS
for all rolls, and for all kills; LINGER is `--linger-seconds`, 0 to see what closing idle
connections costs. The exit status is 1 where a roll lost a request, or where a replica that was
rolled did not end with 0; what a kill takes along is only counted.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.replicas import LINGER_SECONDS, Counts, Drill

DRAIN_SECONDS = 0.5  # the balancer takes up to 0.15


async def row(
    name: str, drill: Drill, step: Callable[[], Awaitable[None]], times: int, seconds: float
) -> Counts:
    """Do it again and again; prints and gives what became of the requests."""
    end = time.monotonic() + seconds
    done = 0
    while done < times and time.monotonic() < end:
        await step()
        done += 1
    counts = drill.take()
    lost = sum(counts.lost.values())
    print(f"| {name} | {done} | {counts.answered + lost:,} | {lost} | ", end="")
    print(f"{lost / done if done else 0:.2f} |", flush=True)
    for why, number in counts.lost.most_common():
        print(f"    {number} x {why}", file=sys.stderr)
    print(f"    exit statuses: {dict(counts.ends)}", file=sys.stderr, flush=True)
    return counts


async def main() -> int:
    """Print the table; gives the exit status."""
    numbers, rest = [int(each) for each in sys.argv[1:4]], sys.argv[4:]
    rolls, kills, seconds = (*numbers, *(100, 50, 600)[len(numbers) :])[:3]
    linger = float(rest[0]) if rest else LINGER_SECONDS
    drill = Drill(f"--drain-seconds={DRAIN_SECONDS}", f"--linger-seconds={linger}")
    print("| what | times | requests | lost | each time |")
    print("| --- | ---: | ---: | ---: | ---: |")
    async with drill.load():
        rolled = await row("rolled (SIGTERM)", drill, drill.roll, rolls, seconds)
        await row("killed (SIGKILL)", drill, drill.kill, kills, seconds)
    return int(bool(rolled.lost) or set(rolled.ends) != {"0"})


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
