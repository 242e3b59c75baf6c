"""How property tests search: the same examples in each run, unless a long search is asked for.

`HYPOTHESIS_PROFILE=long make test` looks at many more examples, and at others each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Server

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    stateful_step_count=20,
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=3000,
    stateful_step_count=50,
    suppress_health_check=_SLOW,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start `seamless serve`, any number of times; what a test leaves running is ended."""
    started: list[Server] = []

    def start(*arguments: str, **others: object) -> Server:
        started.append(Server(*arguments, **others))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for server in started:
        server.close()
