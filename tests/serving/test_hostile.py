"""One request, whatever it holds, holds nobody else up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.builders import deployment, review
from tests.decision.growth import GROWING, body_of
from tests.servers import JSON, Server, ask

Serve = Callable[..., Server]
CHART_LIMIT_MEBIBYTES = 256
HELD_UP: dict[str, tuple[str, int]] = {
    "settings": ("settings that nobody knows", 20_000),
    "a tree": ("a tree", 20_000),
}


def post(server: Server, body: bytes) -> Any:
    """Send a review, and give the answer."""
    connection = server.connect(seconds=60)
    try:
        connection.request("POST", "/mutate", body, JSON)
        answer = connection.getresponse()
        assert answer.status == 200
        return orjson.loads(answer.read())["response"]
    finally:
        connection.close()


@pytest.mark.parametrize("name", HELD_UP)
def test_others_are_answered_while_it_is_decided(serve: Serve, name: str) -> None:
    """Thousands of settings stopped the process: no `/livez`, no end on SIGTERM."""
    server = serve()
    kind, count = HELD_UP[name]
    body = body_of(GROWING[kind], count)
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(server, body))) for _ in range(2)
    ]
    for each in threads:
        each.start()
    asked = 0
    while any(each.is_alive() for each in threads) or not asked:
        assert server.health("/livez")[0] == 200
        connection = server.connect()
        assert ask(connection)[0].status == 200
        connection.close()
        asked += 1
    for each in threads:
        each.join()
    assert len(answers) == 2
    assert server.stop() == 0


@pytest.mark.parametrize("setting", ["readiness-gates", "precheck"])
def test_the_longest_annotation_fits_into_the_memory_that_the_chart_gives(
    serve: Serve, setting: str
) -> None:
    """6.6 MiB of names took 590 MB."""
    server = serve()
    body = orjson.dumps(review(deployment(template_says={setting: "a.example/g, " * 530_000})))
    for _ in range(3):
        post(server, body)
    assert server.memory() < CHART_LIMIT_MEBIBYTES
