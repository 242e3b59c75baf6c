"""How property tests search: the same examples in each run, unless a long search is asked for.

`HYPOTHESIS_PROFILE=long make test` looks at many more examples, and at others each time; with
`--quick`, as `make quick` runs it, tests that search are left out.
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--quick`."""
    parser.addoption("--quick", action="store_true", help="leave out the tests that search")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--quick`, leave out the tests that search."""
    if not config.getoption("--quick"):
        return
    left_out = [each for each in items if searches(each)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [each for each in items if not searches(each)]


def searches(item: pytest.Item) -> bool:
    """Tell whether a test searches for input that breaks a promise, by Hypothesis."""
    function = getattr(item, "obj", None)
    return getattr(function, "is_hypothesis_test", False)


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
