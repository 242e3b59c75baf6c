"""Reviews that grow in one way each, and what deciding about them costs.

A kind of input is bad where twice of it takes more than about twice the time, or where it takes
many times the memory that it has itself. Both are told from ratios within one run.
"""

from __future__ import annotations

import functools
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import orjson

from tests.builders import (
    EXEC_QUIT,
    NATIVE_30,
    Json,
    after,
    changed,
    container,
    deployment,
    forged,
    hooked,
    review,
    sidecar,
    template_changed,
    with_settings,
    workload,
)
from webhook.decision.admission import Admission

Pair = tuple[Json, Json | None]
"""An object, and the one before an update."""


def joined(form: str) -> Callable[[int], str]:
    """Make a value of a setting that lists so many."""
    return lambda count: ",".join(form.format(number) for number in range(count))


def says(name: str, value: Callable[[int], str], *, template: bool = False) -> Callable[..., Pair]:
    """Make a workload with one long value."""
    key = "template_says" if template else "says"
    return lambda count: (deployment(**{key: {name: value(count)}}), None)


def bad_settings(count: int, key: str = "says") -> Pair:
    """Settings that nobody knows, others before than now."""
    new, old = ({f"{word}-{number}": "1" for number in range(count)} for word in ("new", "old"))
    return deployment(**{key: new}), deployment(**{key: old})


def bad_values(count: int) -> Pair:
    """Known settings, with values that are not."""
    names = ("pre-stop-sleep", "min-ready", "precheck", "readiness-gates", "inject")
    new, old = (dict.fromkeys(names, word * count) for word in ("x", "y"))
    return deployment(says=new), deployment(says=old)


def gates(count: int) -> list[Json]:
    """Readiness gates of a user."""
    return [{"conditionType": f"a.example/g{number}"} for number in range(count)]


def recorded_gates(count: int) -> Pair:
    """Gates that a record names, taken out."""
    record = forged({f"spec.readinessGates[{each['conditionType']}]": {} for each in gates(count)})
    old = deployment(template_says={"injected": record}, pod={"readinessGates": gates(count)})
    return with_settings(old, inject="disabled"), old


def hooks_of(count: int, prefix: str) -> Json:
    """Containers with hooks, by a record of those that are named `a`."""
    record = forged(
        {
            f"spec.containers[a{number}].lifecycle.preStop": {"is": NATIVE_30, "made": 1}
            for number in range(count)
        }
    )
    return deployment(
        *(hooked(NATIVE_30, f"{prefix}{number}", image=f"i:{number}") for number in range(count)),
        template_says={"injected": record},
    )


def deep(count: int, levels: int = 80) -> Pair:
    """A precheck container of ours that has grown a tree, and is another at its very bottom."""
    stored = after(deployment(says={"precheck": "db:5432"}))
    trees = []
    for end in (1, 2):
        tree: Any = {"a": [{"b": number} for number in range(count)], "z": end}
        trees.append(functools.reduce(lambda below, _: {"a": below}, range(levels), tree))
    one, other = (
        template_changed(stored, "initContainers", 0, "newField", to=tree) for tree in trees
    )
    return one, other


def annotations(count: int) -> Pair:
    """Annotations of others."""
    new, old = ({f"{word}{number}": "x" for number in range(count)} for word in "ab")
    return deployment(metadata={"annotations": new}), deployment(metadata={"annotations": old})


def ports(count: int) -> Pair:
    """Ports of one container, of which none is the probe's."""
    declared = [{"containerPort": number, "name": f"p{number}"} for number in range(count)]
    probe = {"readiness-probe": "tcp://:none", "strategy": "surge"}
    return deployment(container(ports=declared, readinessProbe=None), says=probe), None


GROWING: Final[dict[str, Callable[[int], Pair]]] = {
    "settings that nobody knows": bad_settings,
    "the same on the template": functools.partial(bad_settings, key="template_says"),
    "values that are none": bad_values,
    "a list of gates": says("readiness-gates", joined("a.example/g{}")),
    "a list of targets": says("precheck", joined("db{}:5432"), template=True),
    "a list of containers": says("pre-stop-containers", joined("c{}")),
    "a list of nothing": says("readiness-gates", lambda count: ", " * count),
    "a long word": says("precheck", lambda count: "a" * count),
    "gates": lambda count: (deployment(pod={"readinessGates": gates(count)}), None),
    "gates of a record": recorded_gates,
    "containers": lambda count: (deployment(*(container(f"c{n}") for n in range(count))), None),
    "chained hooks": lambda count: (
        deployment(
            *(hooked(EXEC_QUIT, f"c{number}") for number in range(count)),
            says={"pre-stop-existing": "chain"},
        ),
        None,
    ),
    "containers that were renamed": lambda count: (hooks_of(count, "b"), hooks_of(count, "a")),
    "containers of one name": lambda count: (deployment(*[container("a")] * count), None),
    "containers of a list": lambda count: (
        deployment(
            *(container(f"c{number}") for number in range(count)),
            says={"pre-stop-containers": joined("d{}")(min(count, 200))},
        ),
        None,
    ),
    "native sidecars": lambda count: (
        deployment(
            pod={"initContainers": [sidecar(f"s{n}") for n in range(count)]},
            says={"precheck": "db:1"},
        ),
        None,
    ),
    "a tree": deep,
    "annotations": annotations,
    "ports": ports,
    "a command": lambda count: (
        deployment(hooked({"exec": {"command": ["sleep 1"] * count}})),
        None,
    ),
    "white space in a command": lambda count: (
        deployment(hooked({"exec": {"command": ["sleep" + " " * count]}})),
        None,
    ),
    "a field that nobody knows": lambda count: (
        changed(workload("Rollout"), "spec", "newField", to=[{"a": n} for n in range(count)]),
        None,
    ),
}
"""Each gives an object of about this many of something, and the one before an update."""

_MOST_BYTES: Final = 40
"""Of memory for each byte of a body: Python's objects of a list of empty mappings take 24."""
_FIXED_BYTES: Final = 4 * 2**20
_TIMES: Final = 4
_GROWTH: Final = 2.5


def body_of(grow: Callable[[int], Pair], count: int) -> bytes:
    """Write the review."""
    new, old = grow(count)
    return orjson.dumps(review(new, old))


def seconds(by: Admission, body: bytes, *, rounds: int = 3) -> float:
    """Tell the CPU time of an answer: the least of a few, so that the machine's pauses are out."""
    found = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            start = time.process_time()
            by.answer(body)
            found.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(found)


def check_memory(by: Admission, body: bytes) -> None:
    """An answer takes no more memory than a few times its body."""
    tracemalloc.start()
    try:
        by.answer(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= _FIXED_BYTES + _MOST_BYTES * len(body), f"{peak:,} bytes for {len(body):,}"


def check_growth(by: Admission, grow: Callable[[int], Pair], count: int) -> None:
    """Four times the input takes about four times the time; what is quadratic takes sixteen."""
    small, large = body_of(grow, count), body_of(grow, _TIMES * count)
    for _ in range(3):  # a neighbour on the machine can spoil one
        before, now = seconds(by, small), seconds(by, large)
        ratio = now / before / (len(large) / len(small))
        if ratio <= _GROWTH:
            return
    message = f"{len(large) / len(small):.1f} times the body, {now / before:.1f} times the time"
    raise AssertionError(message)
