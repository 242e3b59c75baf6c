"""The manifests of the demonstration, and what is played of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.pod_security import violations
from webhook.demo import local
from webhook.demo.stage import StageError, rules
from webhook.workload import pod_spec


@functools.cache
def admitted(name: str) -> Any:
    """Give a case's Deployment, as the webhook would admit it."""
    return local.deployment(local.FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", local.CASES)
def test_each_manifest_is_restricted_and_is_played(name: str) -> None:
    """A Deployment and its Service, as the webhook would admit them."""
    path = local.FOLDER / f"{name}.yaml"
    workload, service = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert not violations(pod_spec(workload))
    assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]
    found = rules(admitted(name))
    treated = name == "treated"
    assert (found.sleep, found.min_ready, found.unavailable) == (
        (5, 3, 0) if treated else (0, 0, 0)
    )
    assert (found.probe is None) == (name == "no-readiness-probe")
    assert found.grace == (30 if not treated else max(30, 5 + 10))


def test_the_treated_application_is_the_one_whose_endpoints_are_stale() -> None:
    """Only the webhook's changes differ."""
    first, second = (rules(admitted(name)).arguments for name in ("stale-endpoints", "treated"))
    assert first == second


def test_a_manifest_that_cannot_be_played_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit status 2."""
    path = tmp_path / "service.yaml"
    path.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: web}\n", encoding="utf-8")
    assert local.main([str(path)]) == 2
    assert "no Deployment in it" in capsys.readouterr().err
    with pytest.raises(StageError):
        local.deployment(tmp_path / "nowhere.yaml")
