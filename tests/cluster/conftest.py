"""Fixtures of the cluster tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.fake_api import FakeApi


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    """An API server that fails on command."""
    server = FakeApi()
    yield server
    server.close()
