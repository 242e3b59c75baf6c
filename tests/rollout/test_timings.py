"""The timings file: what it may say, what is filled in, and what its errors say."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from webhook.decision.workload import DEPLOYMENT, STATEFUL_SET
from webhook.rollout.timings import (
    BALANCER,
    SERVICE,
    Application,
    Propagation,
    Seconds,
    Times,
    Timings,
    TimingsError,
    over,
    parse,
)

DOCS = Path(__file__).parents[2] / "docs" / "timings.md"


@pytest.mark.parametrize("text", ["", "{}", "formatVersion: 1", "application:\nworkloads:\n"])
def test_what_is_absent_has_its_default(text: str) -> None:
    """An empty file, and empty parts of one."""
    assert parse(text, "timings.yaml") == Timings()


def test_single_values_are_laid_over_a_file_and_those_of_a_workload_stay() -> None:
    """What a control of a page says: nothing else of the file changes."""
    text = "{application: {start: 7, stop: 2}, workloads: {deployment/web: {rate: 5}}}"
    file = parse(text, "timings.yaml")
    changed = over(file, {"application": {"stop": 9}, "balancer": {}}, "timings")
    assert changed.times.application.start == Seconds.of(7)
    assert changed.times.application.stop == Seconds.of(9)
    assert changed.times.balancer == BALANCER
    assert over(changed, {"balancer": None}, "timings").times.balancer is None
    assert changed.workloads == file.workloads
    assert over(file, {}, "timings") == file


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (5, "timings: 5: expected a mapping of application"),
        ({"speed": 1}, "timings: speed: unknown key"),
        ({"workloads": {}}, "timings: workloads: unknown key"),
        ({"rate": -1}, "timings: rate: -1: expected requests a second"),
        ({"service": {"remove": {"p50": 2, "max": 1}}}, "timings: service.remove: p50 2, max 1"),
    ],
)
def test_what_cannot_be_laid_over_is_told(content: object, says: str) -> None:
    """As the errors of a file are."""
    with pytest.raises(TimingsError, match=re.escape(says)):
        over(Timings(), content, "timings")


def test_every_key_of_the_contract_is_read() -> None:
    """Each to its place."""
    timings = parse(
        """
        formatVersion: 1
        application: {start: 7, stop: 2, request: 0.3}
        pod: {start: 2, end: 1, imagePull: 4}
        service: {add: 0.4, remove: 0.6}
        balancer: {add: 16, remove: 31}
        rate: 50
        workloads: {deployment/web: {application: {start: 20}}}
        """,
        "timings.yaml",
    )
    times = timings.times
    assert times.application == Application(Seconds.of(7), Seconds.of(2), Seconds.of(0.3))
    assert (times.pod.start, times.pod.end) == (Seconds.of(2), Seconds.of(1))
    assert times.pod.image_pull == Seconds.of(4)
    assert times.service == Propagation(Seconds.of(0.4), Seconds.of(0.6))
    assert times.balancer == Propagation(Seconds.of(16), Seconds.of(31))
    assert times.rate == 50


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", Seconds(3, 3, 3)),
        ("{p50: 1, p99: 2, max: 3}", Seconds(1, 2, 3)),
        ("{p50: 1}", Seconds(1, 1, 1)),
        ("{max: 3}", Seconds(3, 3, 3)),
        ("{p50: 1, max: 3}", Seconds(1, 3, 3)),
        ("{p50: 1, p99: 2}", Seconds(1, 2, 2)),
        ("{p99: 2, max: 3}", Seconds(2, 2, 3)),
    ],
)
def test_a_percentile_that_is_not_given_is_the_next_greater_one(
    value: str, expected: Seconds
) -> None:
    """Else the greatest that there is."""
    assert parse(f"service: {{remove: {value}}}", "t").times.service.remove == expected


def test_a_workload_differs_in_what_it_says_alone() -> None:
    """The rest holds as for all."""
    timings = parse(
        "application: {start: 2, stop: 3}\n"
        "workloads: {Deployment/web: {application: {start: 9}, balancer: {}}}",
        "t",
    )
    web = timings.of(DEPLOYMENT, "web")
    assert (web.application.start, web.application.stop) == (Seconds.of(9), Seconds.of(3))
    assert web.balancer == BALANCER
    assert timings.of(STATEFUL_SET, "web") == timings.times
    assert timings.times.balancer is None


def test_a_key_with_a_namespace_beats_one_without() -> None:
    """Where the workload has that namespace."""
    timings = parse("workloads: {deployment/web: {rate: 1}, shop/deployment/web: {rate: 2}}", "t")
    assert timings.of(DEPLOYMENT, "web", "shop").rate == 2
    assert timings.of(DEPLOYMENT, "web", "bank").rate == 1


def test_a_workload_can_say_that_it_has_no_balancer() -> None:
    """Where the file has one for all."""
    timings = parse("balancer: {add: 1}\nworkloads: {deployment/web: {balancer: null}}", "t")
    assert timings.times.balancer == Propagation(Seconds.of(1), BALANCER.remove)
    assert timings.of(DEPLOYMENT, "web").balancer is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "t: not YAML: "),
        ("- 1", "t: the file: [1]: expected a mapping of formatVersion, application, pod"),
        ("speed: 1", "t: speed: unknown key; known are formatVersion, application, pod"),
        ("formatVersion: 2", "t: formatVersion: 2: expected 1"),
        ("formatVersion: true", "t: formatVersion: True: expected 1"),
        ("pod: {stop: 1}", "t: pod.stop: unknown key; known are start, end, imagePull"),
        ("pod: 3", "t: pod: 3: expected a mapping of start, end, imagePull"),
        (
            "application: {start: fast}",
            "t: application.start: 'fast': expected seconds, a number from 0 to 86,400",
        ),
        ("application: {start: -1}", "t: application.start: -1: expected seconds"),
        ("application: {start: true}", "t: application.start: True: expected seconds"),
        ("application: {start: .nan}", "t: application.start: nan: expected seconds"),
        ("application: {start: .inf}", "t: application.start: inf: expected seconds"),
        ("application: {start: {}}", "t: application.start: {}: expected seconds, or a mapping"),
        ("application: {start: {p95: 1}}", "t: application.start.p95: unknown key; known are p50"),
        (
            "application: {start: {p50: 3, p99: 2}}",
            "t: application.start: p50 3, p99 2: expected p50 to be at most p99",
        ),
        ("rate: -1", "t: rate: -1: expected requests a second, a number from 0 to 1,000,000,000"),
        ("workloads: [web]", "t: workloads: ['web']: expected a mapping"),
        ("workloads: {web: {}}", "t: workloads: 'web': expected KIND/NAME or NAMESPACE/KIND/NAME"),
        ("workloads: {job/web: {}}", "t: workloads: 'job/web': expected KIND/NAME"),
        ("workloads: {1: {}}", "t: workloads: 1: expected KIND/NAME"),
        (
            "workloads: {deployment/web: {pod: {start: x}}}",
            "t: workloads.deployment/web.pod.start: 'x': expected seconds",
        ),
        ("rate: 0b" + "1" * 2000, "t: rate: "),
        ("rate: " + "9" * 5000, "t: "),
        ("[" * 1000, "t: "),
        ("a: " + "x" * 2**18, "t: 262147 characters: expected at most 262144"),
    ],
)
def test_an_error_says_where_what_it_was_and_what_would_be_right(text: str, message: str) -> None:
    """On one line, of bounded length."""
    with pytest.raises(TimingsError, match="^" + re.escape(message)) as raised:
        parse(text, "t")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@given(st.text(max_size=200))
def test_no_text_is_answered_by_anything_but_timings_or_an_error(text: str) -> None:
    """Never by a traceback."""
    with contextlib.suppress(TimingsError):
        assert isinstance(parse(text, "t"), Timings)


keys = st.sampled_from(
    (
        *("application", "pod", "service", "balancer", "rate", "workloads", "formatVersion"),
        *("start", "stop", "add", "remove", "p50", "p99", "max", "deployment/web"),
    )
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, values, max_size=5))
def test_no_mapping_is_answered_by_anything_but_timings_or_an_error(content: object) -> None:
    """Whatever stands at its keys."""
    with contextlib.suppress(TimingsError):
        assert isinstance(parse(yaml.safe_dump(content), "t"), Timings)


def test_the_docs_give_each_default_as_it_is() -> None:
    """The table and the code are one fact."""
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", DOCS.read_text(), re.MULTILINE))
    times = Times()

    def told(seconds: Seconds) -> str:
        if seconds.p50 == seconds.max:
            return f"{seconds.p50:g}"
        return f"{{p50: {seconds.p50:g}, p99: {seconds.p99:g}, max: {seconds.max:g}}}"

    sample = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert sample is not None
    assert len(parse(sample[1], "the sample").workloads) == 2
    assert rows == {
        "application.start": told(times.application.start),
        "application.stop": told(times.application.stop),
        "application.request": told(times.application.request),
        "pod.start": told(times.pod.start),
        "pod.end": told(times.pod.end),
        "pod.imagePull": told(times.pod.image_pull),
        "service.add": told(SERVICE.add),
        "service.remove": told(SERVICE.remove),
        "balancer.add": told(BALANCER.add),
        "balancer.remove": told(BALANCER.remove),
        "rate": f"{times.rate:g}",
    }
