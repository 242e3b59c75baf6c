from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    """Run the program where it has a resolver and a search list of its own."""
    unshare = shutil.which("unshare")
    if not unshare:
        pytest.skip("no unshare here: a resolver of its own needs namespaces")
    command = [unshare, "--net", "--mount"]
    if os.getuid():
        command += ["--user", "--map-root-user"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here: they need root, or unprivileged user namespaces")
    ended = subprocess.run(
        [*command, sys.executable, "-m", "tests.precheck.pod"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    outcomes: dict[str, Any] = json.loads(ended.stdout)
    return outcomes


def test_a_short_name_is_looked_up_as_the_pod_would(pod: dict[str, Any]) -> None:
    """The search list completes it, and NXDOMAIN at first is waited out."""
    assert pod["found"]["status"] == 0
    assert "mysql:" in pod["found"]["out"]
    assert "mysql.shop.svc.cluster.local A" in pod["asked"]
    assert "zk.other.svc.cluster.local AAAA" in pod["asked"]


def test_a_name_that_no_search_domain_knows_does_not_resolve(pod: dict[str, Any]) -> None:
    """At the time limit the reason is the name."""
    assert pod["unknown"]["status"] == 1
    assert "missing: ghost (name does not resolve)" in pod["unknown"]["err"]


def test_a_failing_dns_server_is_told_from_a_missing_name(pod: dict[str, Any]) -> None:
    """SERVFAIL is the server's fault."""
    assert pod["failing"]["status"] == 1
    assert "missing: sick (no DNS server answers)" in pod["failing"]["err"]


def test_a_silent_dns_server_does_not_hold_up_the_end(pod: dict[str, Any]) -> None:
    """The resolver would hang for 40 s: the time limit holds all the same."""
    assert pod["silent"]["status"] == 1
    assert "missing: ghost (name look-up timed out)" in pod["silent"]["err"]
    assert pod["silent"]["seconds"] < 8


def test_sigterm_ends_a_look_up_that_hangs(pod: dict[str, Any]) -> None:
    """While the resolver waits for an answer, SIGTERM ends the process with 143."""
    assert pod["ended"]["status"] == 143
    assert "ended by signal 15: 0 of 1 up" in pod["ended"]["err"]
    assert pod["ended"]["seconds"] < 4
