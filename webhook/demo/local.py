"""The demonstration on loopback: `make demo-local`.

Rolls the manifests of `demo/` on the stage, one after the other, and prints what each lost, and
why. Each is played as `seamless plan` makes it, so the last shows the webhook's own decision.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from webhook.cli import plan
from webhook.demo.stage import Stage, StageError
from webhook.proof.failures import Scene
from webhook.proof.load import Job
from webhook.proof.report import summary, text
from webhook.proof.run import Plan, run
from webhook.proof.sender import LocalSender, SenderError
from webhook.proof.verdict import Verdict
from webhook.workload import Json

FOLDER: Final = Path(__file__).resolve().parents[2] / "demo"
CASES: Final = ("no-readiness-probe", "abrupt-stop", "stale-endpoints", "treated")
_TIMEOUT: Final = 5.0
_SECOND: Final = 1.0
_WARNING: Final = """\
This is no cluster: real processes stand for pods, and a small balancer on loopback, which hears of
changes {lag:g} s late, for a Service. Who loses a request is decided by the same rules.
"""


def deployment(path: Path) -> Json:
    """Read a Deployment as the webhook would admit it.

    Raises:
        StageError: there is none.
    """
    written, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(said):
        status = plan.main([str(path), "-o", "yaml"])
    if status:
        raise StageError(" ".join(said.getvalue().split()))
    found = (each for each in yaml.safe_load_all(written.getvalue()) if isinstance(each, dict))
    for each in found:
        if each.get("kind") == "Deployment":
            return each
    message = f"{path}: no Deployment in it"
    raise StageError(message)


def played(path: Path, *, lag: float, rate: float, mode: str) -> Verdict:
    """Roll a manifest's Deployment on a stage, under load.

    Raises:
        StageError: it cannot be played.
        SenderError: no load can be sent.
    """
    with Stage(deployment(path), lag=lag, mode=mode) as stage:
        job = Job(stage.url, rate=rate, timeout=_TIMEOUT)
        scene = Scene((), direct=mode != "http", slack=0.1, linger=lag + _SECOND)
        how = Plan(path.stem, warm=2, tail=2, timeout=_TIMEOUT, scene=scene)
        ran = run(LocalSender(job), stage, how, tell=_tell)
    if ran.interrupted:
        raise KeyboardInterrupt
    return ran.verdict


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; gives its exit status: 1 where the treated manifest lost a request."""
    options = _parser().parse_args(arguments)
    width = shutil.get_terminal_size((100, 24)).columns
    sys.stdout.write(_WARNING.format(lag=options.lag) + "\n")
    verdicts: list[Verdict] = []
    try:
        for path in options.manifests:
            _tell(f"{path.stem}: the first pods are starting")
            verdicts.append(played(path, lag=options.lag, rate=options.rate, mode=options.balancer))
            _tell("")
            for line in text(verdicts[-1], width):
                sys.stdout.write(line + "\n")
            sys.stdout.write("\n")
            sys.stdout.flush()
    except (StageError, SenderError, OSError) as error:
        sys.stderr.write(f"demo-local: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\n")
    if verdicts:
        sys.stdout.write("\n".join(summary(verdicts)) + "\n")
    return int(len(verdicts) < len(options.manifests) or verdicts[-1].failed > 0)


def _parser() -> argparse.ArgumentParser:
    def number(text: str) -> float:
        value = float(text)
        if not 0 <= value <= 1000:  # noqa: PLR2004 - far above what a demonstration needs
            raise ValueError(text)
        return value

    number.__name__ = "number"
    parser = argparse.ArgumentParser(
        prog="python -m webhook.demo.local",
        description="Roll Deployments of the demo application on loopback, under load.",
    )
    add: Any = parser.add_argument
    usual = [FOLDER / f"{name}.yaml" for name in CASES]
    add("manifests", nargs="*", type=Path, default=usual, help="what to roll (those of demo/)")
    add("--lag", type=number, default=1.0, help="seconds the balancer's view is late (1)")
    add("--rate", type=number, default=100.0, help="requests a second (100)")
    add("--balancer", choices=("tcp", "http", "nat"), default="tcp", help="what it reads (tcp)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
