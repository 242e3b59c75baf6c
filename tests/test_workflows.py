"""What CI runs is what `make help` offers, and all of it, on every pull request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

MAKEFILE = Path("Makefile").read_text(encoding="utf-8")
PAGES = sorted(Path(".github/workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in PAGES
}
ON = True  # YAML 1.1 reads the key `on` so
DECIDING = ("lint", "test", "test-compiled", "e2e", "drill")
"""The targets that decide whether a change may land."""


def commands(workflow: dict[Any, Any]) -> list[str]:
    """Give all commands of a workflow."""
    return [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]


def targets(workflow: dict[Any, Any]) -> list[str]:
    """Give the targets of the Makefile that a workflow runs, in its order."""
    return [each for line in commands(workflow) for each in re.findall(r"make ([a-z0-9-]+)", line)]


def test_a_pull_request_runs_each_target_that_decides_about_it() -> None:
    """So does each commit of the main branch."""
    workflow = WORKFLOWS["ci.yml"]
    assert set(DECIDING) <= set(targets(workflow))
    assert {"pull_request", "push"} <= set(workflow[ON])


def test_each_target_that_a_workflow_runs_is_one_of_the_makefile() -> None:
    """And one that `make help` tells of."""
    offered = set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert offered
    for name, workflow in WORKFLOWS.items():
        assert set(targets(workflow)) <= offered, name


def test_each_target_that_help_tells_of_is_phony() -> None:
    """Else a file of its name would stop it."""
    found = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert found
    offered = set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert offered == set(found[1].split())


def test_the_tests_that_need_an_api_server_are_not_skipped_in_ci() -> None:
    """They would be, without a word, where its programs are not fetched before."""
    for job in WORKFLOWS["ci.yml"]["jobs"].values():
        ran = targets({"jobs": {"one": job}})
        for target in {"test", "e2e"} & set(ran):
            assert ran.index("envtest") < ran.index(target)


def test_each_job_ends_by_itself_and_keeps_no_credentials() -> None:
    """GitHub's own limit is six hours; a token on disk can be read by every later step."""
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            assert 0 < job["timeout-minutes"] <= 45
            for step in job["steps"]:
                if "checkout@" in step.get("uses", ""):
                    assert step["with"]["persist-credentials"] is False


def test_each_pinned_action_says_which_version_it_is() -> None:
    """A commit alone tells no reader; of one action one commit is used."""
    found: dict[str, set[str]] = {}
    for path in PAGES:
        for line in re.findall(r"uses: .*", path.read_text(encoding="utf-8")):
            used = re.fullmatch(r"uses: (\S+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
            assert used, line
            found.setdefault(used[1], set()).add(used[2])
    assert found
    assert all(len(pins) == 1 for pins in found.values())
