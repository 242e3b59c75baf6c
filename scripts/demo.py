"""Roll the edge cases of `demo/` on a cluster, print what each lost, and clean up: `make demo`.

Needs kubectl, a context that may make a namespace, and an image of this project which the cluster
can run (`make demo DEMO='--image IMAGE'`). The webhook need not be installed: the treated manifest
is applied as `seamless plan` makes it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from webhook import VERSION

FOLDER = Path(__file__).resolve().parents[1] / "demo"
CASES = ("no-readiness-probe", "abrupt-stop", "stale-endpoints", "treated")
LABEL = "app.kubernetes.io/part-of=seamless-demo"
IMAGE = f"ghcr.io/seamless-rollouts/seamless-rollouts:{VERSION}"
SEAMLESS = [sys.executable, "-P", "-m", "webhook"]


class DemoError(Exception):
    """It cannot go on; the text says why."""


def call(*command: str, given: str | None = None, fine: tuple[int, ...] = (0,)) -> str:
    """Run a program; gives its standard output. Raises `DemoError`."""
    done = subprocess.run(  # noqa: S603 - kubectl and our own program, and no shell
        command, input=given, capture_output=True, check=False, text=True
    )
    if done.returncode not in fine:
        message = f"{Path(command[0]).name} {command[1]}: {' '.join(done.stderr.split())}"
        raise DemoError(message)
    return done.stdout


def manifest(name: str, image: str) -> str:
    """Give a case's objects as JSON, as the webhook would admit them, with another image."""
    found = list(
        yaml.safe_load_all(call(*SEAMLESS, "plan", str(FOLDER / f"{name}.yaml"), "-o", "yaml"))
    )
    for each in found:
        if each["kind"] == "Deployment":
            each["spec"]["template"]["spec"]["containers"][0]["image"] = image
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": found})


def proven(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Roll one case under load; gives its run of the report."""
    where = ["-n", options.namespace, "--service", f"demo-{name}", "--image", options.image]
    if options.kubeconfig:
        where += ["--kubeconfig", options.kubeconfig]
    load = ["--rate", str(options.rate), "--yes", "-o", "json"]
    told = call(*SEAMLESS, "prove", f"deployment/demo-{name}", *where, *load, fine=(0, 1))
    if not told:
        message = f"demo-{name}: there is no report"
        raise DemoError(message)
    run: dict[str, Any] = json.loads(told)["runs"][0]
    return run


def row(run: dict[str, Any]) -> str:
    """Give the line of the table for a run."""
    why = ", ".join(f"{each['cause']} {each['failed']}" for each in run["causes"]) or "-"
    if run["reasons"]:
        why = f"no verdict: {run['reasons'][0]}"
    share = 100 * run["failed"] / max(1, run["requests"])
    seconds = run["rolledOutSeconds"] or 0
    cells = f"{run['requests']:>8} {run['failed']:>7} {share:>6.1f} % {seconds:>7.1f} s"
    return f"{run['workload']:<36}{cells}   {why}"


def main() -> int:
    """Run it; gives the exit status: 1 where the treated one lost a request, or no verdict."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--image", default=IMAGE, help="an image of this project")
    parser.add_argument("--namespace", default="seamless-demo", help="is made, and removed again")
    parser.add_argument("--kubeconfig", help="the cluster")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    options = parser.parse_args()
    program = shutil.which("kubectl")
    if program is None:
        print("make demo: there is no kubectl in the PATH", file=sys.stderr)
        return 2
    kubectl = [program, *(["--kubeconfig", options.kubeconfig] if options.kubeconfig else [])]
    runs: list[dict[str, Any]] = []
    made = False
    try:
        call(*kubectl, "create", "namespace", options.namespace)
        made = True
        call(*kubectl, "label", "namespace", options.namespace, LABEL)
        for name in CASES:
            given = manifest(name, options.image)
            call(*kubectl, "-n", options.namespace, "apply", "-f", "-", given=given)
        for name in CASES:
            print(f"demo-{name}: waiting until it is available, then rolling it", flush=True)
            wait = ("rollout", "status", f"deployment/demo-{name}", "--timeout=180s")
            call(*kubectl, "-n", options.namespace, *wait)
            runs.append(proven(name, options))
    except DemoError as error:
        print(f"make demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("make demo: interrupted", file=sys.stderr)
    finally:
        if made:
            command = (*kubectl, "delete", "namespace", options.namespace, "--wait=false")
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - as above
    if runs:
        print(f"\n{'WORKLOAD':<36}REQUESTS  FAILED    SHARE   ROLLOUT   WHY")
        for each in runs:
            print(row(each))
    trusted = len(runs) == len(CASES) and not any(each["reasons"] for each in runs)
    return int(not trusted or runs[-1]["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
