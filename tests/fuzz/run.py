"""`make fuzz`: run the harnesses for as long as is wanted, and say how many inputs were tried.

With atheris the search is guided by coverage: what reaches new code is kept in `.fuzz/TARGET` and
gone on from, in this run and the next. Without it inputs are drawn blindly. Either way an input
that breaks a promise is written to `.fuzz/found/`, and the exit status is 1; the same file as an
argument runs it again.

    python tests/fuzz/run.py [--seconds N] [TARGET ...]
    python tests/fuzz/run.py --again FILE TARGET
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".fuzz"
FOUND = FOLDER / "found"
LONGEST_INPUT = 1024
SLOWEST_SECONDS = 30  # of one input; a busy machine has its pauses
MEGABYTES = 2048
GUIDED = importlib.util.find_spec("atheris") is not None
_DONE = re.compile(rb"Done (\d+) runs in (\d+) second")


def main() -> int:
    """Run what the command line asks for; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="which; all where none is named"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--again", metavar="FILE", help="run one input of one target again")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of a blind search")
    given = parser.parse_args()
    os.chdir(ROOT)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    if given.again:
        _harness(given.targets[0])(Path(given.again).read_bytes())
        sys.stdout.write("nothing broke\n")
        return 0
    FOUND.mkdir(parents=True, exist_ok=True)
    if given.worker:
        return _guided(given.targets[0], given.seconds)
    return _all(given.targets or _names(), given.seconds, given.seed)


def _all(targets: list[str], seconds: int, seed: int) -> int:
    """Run one target after the other, each in a process of its own."""
    if GUIDED:
        how = "atheris, guided by coverage"
    else:
        how = f"blind, by seed {seed}: atheris is not installed here (requirements/fuzz.txt)"
    sys.stdout.write(f"targets: {len(targets)}, {seconds} s each; {how}\n")
    broken = 0
    for name in targets:
        tried, error = _supervised(name, seconds) if GUIDED else _blind(name, seconds, seed)
        broken += bool(error)
        sys.stdout.write(f"{name:14} {tried:12,} inputs{': ' + error if error else ''}\n")
        sys.stdout.flush()
    return 1 if broken else 0


def _harness(name: str):  # noqa: ANN202 - imported late, so that it can be instrumented
    from tests.fuzz.harnesses import HARNESSES

    return HARNESSES[name]


def _names() -> list[str]:
    from tests.fuzz.harnesses import HARNESSES

    return list(HARNESSES)


def _blind(name: str, seconds: int, seed: int) -> tuple[int, str]:
    draw = random.Random(seed)  # noqa: S311 - not a secret
    harness = _harness(name)
    end = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < end:
        data = draw.randbytes(draw.randrange(LONGEST_INPUT))
        tried += 1
        try:
            harness(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was found
            path = FOUND / f"{name}-{seed}-{tried}"
            path.write_bytes(data)
            return tried, f"{type(error).__name__}: {error} ({path})"
    return tried, ""


def _supervised(name: str, seconds: int) -> tuple[int, str]:
    """Run libFuzzer, which ends its process in its own way, and read what it tells."""
    worker = [sys.executable, __file__, "--worker", f"--seconds={seconds}", name]
    # S603: our own program
    done = subprocess.run(worker, capture_output=True, check=False, cwd=ROOT)
    told = _DONE.search(done.stderr)
    if told and done.returncode == 0:
        return int(told[1]), ""
    counts = re.findall(rb"^#(\d+)", done.stderr, re.MULTILINE)
    log = FOUND / f"{name}.log"
    log.write_bytes(done.stdout + done.stderr)
    return int(counts[-1]) if counts else 0, f"broken, see {log}"


def _guided(name: str, seconds: int) -> int:
    import atheris

    with atheris.instrument_imports(include=["webhook"], enable_loader_override=False):
        harness = _harness(name)
    corpus = FOLDER / name
    corpus.mkdir(exist_ok=True)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT}",
            f"-timeout={SLOWEST_SECONDS}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-artifact_prefix={FOUND}/{name}-",
            "-len_control=0",
        ],
        harness,
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
