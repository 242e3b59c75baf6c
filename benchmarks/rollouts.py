"""Roll the demo application on the local stage, patch by patch and lag by lag; count what is lost.

Prints a Markdown table: a row for each manifest, a column for each lag of the balancer. The
manifest's seconds are played at a fifth of their length; lags and the application's own times are
as they are. Takes about six minutes.

    .venv/bin/python benchmarks/rollouts.py
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from webhook.demo.stage import Stage
from webhook.proof.failures import Scene
from webhook.proof.load import Job
from webhook.proof.run import Plan, run
from webhook.proof.sender import LocalSender
from webhook.proof.verdict import Answer, Verdict

LAGS: Final = (0.1, 0.3, 0.6, 1.0, 1.5)
SCALE: Final = 0.2
RATE: Final = 80.0
TIMEOUT: Final = 4.0
PROBE: Final = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
SURGE: Final = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
RECREATE: Final = {"type": "Recreate"}
ABRUPT: Final = ("--term", "exit")
ORDERLY: Final = ("--term", "linger", "--linger", "0.3")


def manifest(
    *term: str,
    probe: bool = False,
    sleep: int = 0,
    min_ready: int = 0,
    strategy: dict[str, Any] = RECREATE,
) -> dict[str, Any]:
    """Make a Deployment of three pods that start in half a second, and answer in a tenth."""
    arguments = ["demo-app", "--start", "0.5", "--request", "0.1", *term]
    container: dict[str, Any] = {"name": "app", "args": arguments}
    if probe:
        container["readinessProbe"] = PROBE
    if sleep:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": sleep}}}
    pod = {"terminationGracePeriodSeconds": 60, "containers": [container]}
    return {
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "minReadySeconds": min_ready,
            "strategy": strategy,
            "template": {"spec": pod},
        },
    }


# Each line adds one patch to the one before it.
MANIFESTS: Final = (
    ("plain: Recreate, no probe, exits on SIGTERM", manifest(*ABRUPT)),
    ("+ surge", manifest(*ABRUPT, strategy=SURGE)),
    ("+ readiness probe", manifest(*ABRUPT, strategy=SURGE, probe=True)),
    ("+ preStop sleep of 10 s (2 s here)", manifest(*ABRUPT, strategy=SURGE, probe=True, sleep=10)),
    (
        "+ closes connections in order",
        manifest(*ORDERLY, strategy=SURGE, probe=True, sleep=10),
    ),
    (
        "+ minReadySeconds of 10 s (2 s here): all",
        manifest(*ORDERLY, strategy=SURGE, probe=True, sleep=10, min_ready=10),
    ),
)


def rolled(given: dict[str, Any], lag: float) -> Verdict:
    """Roll it once."""
    with Stage(given, lag=lag, scale=SCALE) as stage:
        sender = LocalSender(Job(stage.url, rate=RATE, timeout=TIMEOUT))
        scene = Scene((), slack=0.1, linger=lag + 1, young=5)
        plan = Plan("web", warm=1, tail=lag + 0.5, timeout=TIMEOUT, scene=scene)
        return run(sender, stage, plan).verdict


def cell(found: Verdict) -> str:
    """Give what was lost, and why."""
    if found.answer is Answer.NO_VERDICT:
        print(f"no verdict: {found.reasons[0]}", file=sys.stderr)
        return "no verdict"
    why = ", ".join(f"{cause.value} {count}" for cause, count in found.causes.items())
    return f"{found.failed} of {found.requests}" + (f" ({why})" if why else "")


def main() -> int:
    """Print the table; gives 1 where all patches together lost a request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-by-side", type=int, default=2, help="stages at a time (2)")
    options = parser.parse_args()
    pairs = [(given, lag) for _, given in MANIFESTS for lag in LAGS]
    with ThreadPoolExecutor(options.side_by_side) as pool:
        found = list(pool.map(lambda pair: rolled(*pair), pairs))
    print("| manifest | " + " | ".join(f"lag {lag:g} s" for lag in LAGS) + " |")
    print("| --- |" + " --- |" * len(LAGS))
    for row, (name, _) in enumerate(MANIFESTS):
        those = found[row * len(LAGS) : (row + 1) * len(LAGS)]
        print(f"| {name} | " + " | ".join(map(cell, those)) + " |")
    return int(any(each.failed for each in found[-len(LAGS) :]))


if __name__ == "__main__":
    sys.exit(main())
