from __future__ import annotations

import os
from pathlib import Path

import pytest

from webhook.decision import (
    admission,
    draft,
    mutations,
    partial,
    record,
    settings,
    warnings,
    workload,
)
from webhook.decision.mutations import pre_stop


@pytest.mark.parametrize(
    "module",
    [admission, warnings, draft, record, mutations, pre_stop, settings, partial, workload],
)
def test_what_is_tested_is_what_was_asked_for(module: object) -> None:
    """`make test` tests the source, `make test-compiled` what the image runs."""
    compiled = os.environ.get("SEAMLESS_COMPILED") == "1"
    assert (Path(str(module.__file__)).suffix == ".py") is not compiled  # type: ignore[attr-defined]
