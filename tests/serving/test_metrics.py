"""The metrics: `docs/metrics.md` and what is exported are the same, and every label is bounded."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests import builders
from tests.cluster.fake_api import CONFIGURATIONS, FakeApi
from tests.servers import JSON, REVIEW, Server
from webhook.decision import aws
from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration
from webhook.decision.mutations import MUTATIONS
from webhook.rollout import state
from webhook.serving import connections, metrics
from webhook.serving.app import State, webhook_app
from webhook.serving.metrics import Metrics, setting_of
from webhook.tls.certificates import self_signed, utc_now

DOCUMENT = Path("docs/metrics.md").read_text(encoding="utf-8")
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: fake
contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]
clusters: [{{name: fake, cluster: {{server: {url}}}}}]
users: [{{name: fake, user: {{}}}}]
"""
FREE = {"version", "python", "hash"}
"""Labels that say what runs: one value each."""


def table(heading: str) -> list[list[str]]:
    """Read the rows of the first table below a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", DOCUMENT, flags=re.MULTILINE)[1]
    lines = itertools.takewhile(
        lambda line: line.startswith("|"),
        itertools.dropwhile(lambda line: not line.startswith("|"), section.splitlines()),
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return rows[2:]


def words(cell: str) -> list[str]:
    """Read what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def documented_values() -> dict[tuple[str, str], set[str]]:
    """Read which values each label of each metric may have."""
    values = {
        (words(m)[0], words(label)[0]): set(words(v)) for m, label, v in table("Values of labels")
    }
    reasons = {words(row[0])[0] for row in table("Reasons")}
    codes = {words(row[0])[0] for row in table("Warnings")}
    applied = values["seamless_settings_applied_total", "setting"]
    values["seamless_reviews_total", "reason"] = {"", *reasons}
    values["seamless_warnings_total", "code"] = codes
    values["seamless_patch_operations_total", "setting"] |= applied
    return values


def families(text: str) -> dict[str, tuple[str, list[Any]]]:
    """Parse the text format: the type and the samples of each metric, counters by whole name."""
    found: dict[str, tuple[str, list[Any]]] = {}
    for each in text_string_to_metric_families(text):
        name = each.name + ("_total" if each.type == "counter" else "")
        kind, samples = found.setdefault(name, (each.type, []))
        assert kind == each.type
        samples += each.samples
    return found


def reviews() -> Iterator[bytes]:
    """Give reviews that touch each metric: something comes of some of them, nothing of others."""
    given = builders.deployment()
    invalid = builders.with_settings(given, min_ready="soon")
    unknown = builders.with_settings(given, min_redy="5s")
    recreate = builders.changed(given, "spec", "strategy", to={"type": "Recreate"})
    for each in (given, invalid, unknown, recreate, builders.deployment(builders.worker())):
        yield orjson.dumps(builders.review(each))
    yield orjson.dumps(builders.review(given)).replace(b'"Deployment"', b'"Pony"')
    yield orjson.dumps(builders.review(given)).replace(b'"CREATE"', b'"CONNECT"')
    yield b"{}"


def with_a_cluster(folder: Path) -> str:
    """Give what is exported with everything switched on that needs a cluster."""
    fake = FakeApi()
    fake.namespace(builders.NAMESPACE, inject="enabled")
    client = {"service": {"name": "webhook", "namespace": "seamless"}}
    fake.put(CONFIGURATIONS, "ours", {"webhooks": [{"name": "a", "clientConfig": client}]})
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(url=fake.url))
    server = Server(
        f"--kubeconfig={kubeconfig}",
        "--ca-secret=ca",
        "--webhook-configuration=ours",
        "--service=webhook",
        "--events",
        "--status-interval=1m",
        "--drain-seconds=0",
        environment={"POD_NAMESPACE": "seamless"},
    )
    try:
        connection = server.connect()
        for body in reviews():
            connection.request("POST", "/mutate", body, JSON)
            connection.getresponse().read()
        connection.close()
        server.until(lambda: "seamless_workloads{" in server.health("/metrics")[1])
        return server.health("/metrics")[1]
    finally:
        server.close()
        fake.close()


def with_files_and_workers(folder: Path) -> str:
    """Give what several workers export that serve a certificate from files."""
    pair = self_signed(["127.0.0.1"], utc_now())
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(pair.key)
    server = Server(
        f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}", "--workers=2"
    )
    try:
        return server.health("/metrics")[1]
    finally:
        server.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give what `seamless serve` exports, one way and another."""
    folder = tmp_path_factory.mktemp("metrics")
    one, other = with_a_cluster(folder), with_files_and_workers(folder)
    return one + other


def test_the_table_lists_what_is_exported_and_nothing_else(exported: str) -> None:
    """Both ways: names, types and labels."""
    found = {
        name: (kind, {label for each in samples for label in each.labels} - {"le"})
        for name, (kind, samples) in families(exported).items()
    }
    listed = {
        words(name)[0]: (kind, set(words(labels)))
        for name, kind, labels, _ in table("What the webhook exports")
    }
    assert found == listed


def test_each_exported_value_of_a_label_is_listed(exported: str) -> None:
    """What a stranger wrote is in none."""
    values = documented_values()
    for name, (_, samples) in families(exported).items():
        for sample in samples:
            for label, value in sample.labels.items():
                if label not in FREE | {"le"}:
                    assert value in values[name, label], (name, label)
    assert "soon" not in exported
    assert "redy" not in exported


def test_every_label_has_a_row_of_values() -> None:
    """A new label needs one."""
    labelled = {
        (words(name)[0], label)
        for name, _, labels, _ in table("What the webhook exports")
        for label in words(labels)
    }
    assert labelled == set(documented_values())


# --- what the code can say -----------------------------------------------------------------------


def source(path: str) -> ast.Module:
    """Parse a module of the webhook."""
    return ast.parse(Path("webhook", path).read_text(encoding="utf-8"))


def texts(node: ast.AST | None) -> set[str]:
    """Give the strings that an expression may come to, f-strings aside."""
    match node:
        case ast.Constant(value=str(value)):
            return {value}
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body) | texts(orelse)
        case ast.Tuple(elts=[_, second]):
            return texts(second)
    return set()


def reasons_in(tree: ast.Module) -> set[str]:
    """Collect the reasons of skipping: what `skipped` is given, and what functions say of it."""
    found: set[str] = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name == "_encode":
            continue
        says = function.returns is not None and ast.unparse(function.returns).endswith(
            ("str | None", "str | None]")
        )
        for node in ast.walk(function):
            match node:
                case ast.keyword(arg="skipped", value=value):
                    found |= texts(value)
                case ast.Assign(targets=[ast.Name(id="skipped")], value=value):
                    found |= texts(value)
                case ast.Return(value=value) if says:
                    found |= texts(value)
    return found


def test_every_reason_that_the_code_can_give_is_listed() -> None:
    """And none that it cannot."""
    found = reasons_in(source("decision/admission.py")) | reasons_in(source("decision/aws.py"))
    assert found == {words(row[0])[0] for row in table("Reasons")}


def test_every_warning_code_that_the_code_can_give_is_listed() -> None:
    """And none that it cannot; `annotations-full` is the one that stands in a variable."""
    found = {"annotations-full"}
    for path in Path("webhook").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name in {"Alert", "alert"}:
                found |= texts(node.args[0])
    assert found == {words(row[0])[0] for row in table("Warnings")}


def test_every_outcome_status_and_setting_is_listed() -> None:
    """They come from the code's own tables."""
    values = documented_values()
    answers = [
        node
        for node in ast.walk(source("decision/admission.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "outcome"
    ]
    outcomes = {
        text
        for answer in answers
        for node in ast.walk(answer)
        if isinstance(node, (ast.Return, ast.Assign))
        for text in texts(node.value)
    }
    # What is no review is counted by its status.
    assert values["seamless_reviews_total", "outcome"] == outcomes - {"invalid"}
    statuses = {
        node.value
        for path in ("serving/app.py", "decision/admission.py")
        for node in ast.walk(source(path))
        if isinstance(node, ast.Constant) and type(node.value) is int and 400 <= node.value < 600
    }
    assert statuses == set(metrics.STATUSES)
    of_fields = {place.setting for each in MUTATIONS for place in each.fields}
    listed: dict[tuple[str, str], set[str]] = {
        ("seamless_requests_refused_total", "status"): set(map(str, metrics.STATUSES)),
        ("seamless_reviews_total", "kind"): {*metrics.REVIEWED_KINDS, metrics.OTHER},
        ("seamless_reviews_total", "operation"): {*metrics.OPERATIONS, metrics.OTHER},
        ("seamless_settings_applied_total", "setting"): {*of_fields, aws.SETTING},
        ("seamless_patch_operations_total", "setting"): {
            *of_fields,
            aws.SETTING,
            metrics.RECORD,
            metrics.OTHER,
        },
        ("seamless_settings_refused_total", "setting"): {*metrics.SETTINGS, metrics.OTHER},
        ("seamless_connections_cut_total", "reason"): set(connections.REASONS),
        ("seamless_workloads", "state"): set(state.STATES),
    }
    assert {key: values[key] for key in listed} == listed


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/spec/minReadySeconds", "min-ready"),
        ("/spec/progressDeadlineSeconds", "min-ready"),
        ("/spec/template/spec/containers/3/lifecycle", "pre-stop-sleep"),
        ("/spec/template/spec/containers/0/lifecycle/preStop/sleep/seconds", "pre-stop-sleep"),
        ("/spec/template/spec/terminationGracePeriodSeconds", "pre-stop-sleep"),
        ("/spec/template/spec/containers/0/readinessProbe", "readiness-probe"),
        ("/spec/template/spec/initContainers", "precheck"),
        ("/spec/template/spec/readinessGates/-", "readiness-gates"),
        ("/spec/strategy", "strategy"),
        ("/spec/updateStrategy/rollingUpdate/maxSurge", "strategy"),
        ("/metadata/annotations", "record"),
        ("/spec/template/metadata/annotations/seamless-rollouts.dev~1injected", "record"),
        ("/metadata/labels/elbv2.k8s.aws~1pod-readiness-gate-inject", "aws-readiness-gates"),
        ("/spec/template", "other"),
        ("/spec/replicas", "other"),
        ("", "other"),
    ],
)
def test_each_operation_counts_for_its_setting(path: str, setting: str) -> None:
    """By the fields that mutations declare, also where what is above a field had to be made."""
    assert setting_of(path) == setting


WORKER = """\
import sys
from prometheus_client import values
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.serving.metrics import Metrics
assert "Mmaped" in values.ValueClass.__qualname__
found, admission = Metrics(sys.argv[1]), Admission(Configuration())
for body in sys.stdin.buffer:
    found.count(admission.answer(body), 0.0002)
found.refuse(503)
sys.stdout.buffer.write(found.text())
"""


def test_several_workers_count_the_same_as_one(tmp_path: Path) -> None:
    """They count through files that the library adds up; one process in numbers of its own."""
    bodies = list(reviews())
    several = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        check=True,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        input=b"\n".join(bodies),
        capture_output=True,
    ).stdout.decode()
    one, admission = Metrics(), Admission(Configuration())
    for body in bodies:
        one.count(admission.answer(body), 0.0002)
    one.refuse(503)

    def samples(text: str) -> dict[Any, float]:
        return {
            (each.name, *sorted(each.labels.items())): each.value
            for _, found in families(text).values()
            for each in found
            if not each.name.startswith("process_")
        }

    assert samples(several) == samples(one.text().decode())


def test_a_container_for_every_path_does_not_fill_the_memory() -> None:
    """What is remembered of paths is bounded: their indices and keys are a stranger's."""
    found = Metrics()
    for index in range(5000):
        assert found._setting_of[f"/spec/template/spec/containers/{index}/lifecycle"]
        assert found._setting_of[f"/spec/template/spec/containers/0/lifecycle/{'x' * index}"]
    assert len(found._setting_of) <= 1000
    assert max(map(len, found._setting_of)) <= 300


def test_answers_that_all_differ_are_counted_within_bounds() -> None:
    """What is counted together is bounded, in number and in size, and none of it is lost."""
    found = Metrics()
    answer = Admission(Configuration()).answer(REVIEW)
    assert answer.decision is not None
    for index in range(1000):
        path = f"/spec/template/spec/containers/{index}/lifecycle"
        path += "" if index % 7 else "/preStop/" + "x" * 10_000
        operations = [{"op": "add", "path": path, "value": {}}] * (1 if index % 10 else 100)
        decision = answer.decision._replace(operations=operations)
        found.count(answer._replace(decision=decision), 0.001)
        assert len(found._alike) <= 200
        assert all(len(paths) <= 30 for *_, paths, _codes, _refused in found._alike)
        assert all(sum(map(len, paths)) <= 3000 for *_, paths, _codes, _refused in found._alike)
    text = found.text().decode()
    assert 'operation="CREATE",outcome="patched",reason=""} 1000.0' in text
    assert 'seamless_patch_operations_total{setting="pre-stop-sleep"} 10900.0' in text
    assert found.text().decode().count("} 10900.0") == 1


def test_a_duration_falls_into_the_bucket_whose_bound_it_reaches() -> None:
    """As the library's own histogram has it: `le` is less than or equal."""
    found = Metrics()
    answer = Admission(Configuration()).answer(REVIEW)
    for seconds in (0.0001, 0.00011, 0.5, 99.0):
        found.count(answer, seconds)
    buckets = {
        each.labels["le"]: each.value
        for each in families(found.text().decode())["seamless_review_duration_seconds"][1]
        if "le" in each.labels
    }
    assert (buckets["0.0001"], buckets["0.00025"]) == (1, 2)
    assert (buckets["0.1"], buckets["0.5"], buckets["3.0"], buckets["+Inf"]) == (2, 3, 3, 4)


def test_an_unexpected_error_outside_of_a_decision_is_counted_by_its_status() -> None:
    """It is a 500, which `failurePolicy: Ignore` turns into "unpatched"."""

    def fail(_body: bytes) -> Answer:
        raise RuntimeError

    found = Metrics()
    app = TestClient(webhook_app(fail, found, State()), raise_server_exceptions=False)
    assert app.post("/mutate", content=REVIEW, headers=JSON).status_code == 500
    assert 'seamless_requests_refused_total{status="500"} 1.0' in found.text().decode()


def test_in_audit_mode_no_operation_is_counted() -> None:
    """None was answered."""
    found = Metrics()
    found.count(Admission(Configuration(mode="audit")).answer(REVIEW), 0.001)
    text = found.text().decode()
    assert 'outcome="audited"' in text
    assert "seamless_patch_operations_total{" not in text
