"""`seamless status`: what it tells, in which forms, and how it ends."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import Json, admission, after, deployment, namespaces, worker, workload
from tests.cluster.fake_api import CONFIGURATIONS, Fault, once
from tests.cluster.served import SERVED, Served
from webhook import cli
from webhook.cluster.version import CRD_PATH, NODES_PATH
from webhook.cluster.workloads import Workloads
from webhook.decision.workload import ROLLOUT
from webhook.rollout.state import STATES

EVERYTHING = admission({"scope": "cluster"}, namespace=namespaces({}))
OLDER = admission({"scope": "cluster", "defaults": {"min-ready": "10s"}}, namespace=namespaces({}))


def named(given: Json, name: str, namespace: str = "shop", **labels: str) -> Json:
    """Give a workload another name."""
    given["metadata"].update(name=name, namespace=namespace)
    if labels:
        given["metadata"]["labels"] = labels
    return given


@pytest.fixture
def api() -> Iterator[Served]:
    """A cluster with a webhook that patches everything, and a workload in each state."""
    server = Served()
    server.webhook({"scope": "cluster"})
    for name in ("bank", "seamless", "shop"):
        server.namespace(name)
    server.workload(named(after(deployment(), by=EVERYTHING), "done"))
    server.workload(named(after(deployment(), by=OLDER), "older"))
    server.workload(named(deployment(), "new", tier="web"))
    server.workload(named(deployment(says={"inject": "disabled"}), "out"))
    server.workload(named(deployment(worker()), "worker"))
    server.workload(named(deployment(says={"min-ready": "soon"}), "bad"))
    server.workload(named(workload("StatefulSet"), "store", "bank"))
    server.workload(named(deployment(), "webhook", "seamless"))
    yield server
    server.close()


@pytest.fixture
def status(
    api: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Run the command; gives exit status, output and errors."""
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    defaults = Workloads.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "wait", lambda _seconds: None)

    def run(*arguments: str, of_context: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, of_context)))
        code = cli.main(["status", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_every_workload_is_told_with_its_state_and_why(status: Any) -> None:
    """Sorted by namespace, kind and name; then totals by namespace."""
    code, out, err = status("-A")
    assert (code, err) == (0, "")
    rows, totals = out.split("\n\n")
    lines = [re.split(r" {3,}", line) for line in rows.splitlines()]
    assert lines[0] == ["NAMESPACE", "NAME", "STATE", "REASON"]
    assert [line[:3] for line in lines[1:]] == [
        ["bank", "statefulset/store", "unpatched"],
        ["seamless", "deployment/webhook", "out-of-scope"],
        ["shop", "deployment/bad", "refused"],
        ["shop", "deployment/done", "patched"],
        ["shop", "deployment/new", "unpatched"],
        ["shop", "deployment/older", "stale"],
        ["shop", "deployment/out", "opted-out"],
        ["shop", "deployment/worker", "out-of-scope"],
    ]
    assert lines[6][3] == "would change min-ready; no pod would restart"
    assert [line.split() for line in totals.splitlines()] == [
        ["NAMESPACE", *(state.upper() for state in STATES)],
        ["bank", "0", "0", "1", "0", "0", "0"],
        ["seamless", "0", "0", "0", "0", "1", "0"],
        ["shop", "1", "1", "1", "1", "1", "1"],
        ["(all)", "1", "1", "2", "1", "2", "1"],
    ]


def test_columns_are_aligned_and_nothing_trails(status: Any) -> None:
    """As `kubectl get` writes them, so that they can be cut and compared."""
    _, out, _ = status("-A")
    lines = out.split("\n\n")[0].splitlines()
    at = lines[0].index("STATE")
    assert all(line[at - 3 : at] == "   " and line[at] != " " for line in lines)
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "of_context", "names"),
    [
        (["-n", "bank"], "shop", ["statefulset/store"]),
        ([], "bank", ["statefulset/store"]),
        (["-l", "tier=web"], "shop", ["deployment/new"]),
        (["-A", "-l", "tier=web"], None, ["deployment/new"]),
    ],
)
def test_what_is_looked_at_is_chosen_as_with_kubectl(
    status: Any, arguments: list[str], of_context: str | None, names: list[str]
) -> None:
    """By namespace, which is the context's unless told, and by labels."""
    code, out, _ = status("-o", "json", *arguments, of_context=of_context)
    assert code == 0
    found = json.loads(out)["workloads"]
    assert [f"{each['kind'].lower()}/{each['name']}" for each in found] == names


def test_one_namespace_needs_no_column_of_its_own(status: Any) -> None:
    """It goes without saying."""
    _, out, _ = status("-n", "shop")
    assert out.startswith("NAME   ")
    assert "\nshop " in out.split("\n\n")[1]
    assert "(all)" not in out


def test_an_empty_namespace_is_told_on_stderr(status: Any) -> None:
    """As `kubectl get` does; the default namespace is the last resort."""
    assert status() == (0, "", "seamless status: no workloads found in namespace default\n")
    code, out, _ = status("-o", "json")
    assert (code, json.loads(out)["workloads"]) == (0, [])
    code, out, _ = status("-o", "yaml")
    assert (code, yaml.safe_load(out)["workloads"]) == (0, [])


def test_json_holds_everything_and_a_workload_a_line(status: Any) -> None:
    """For machines: these names are fixed."""
    code, out, _ = status("-A", "-o", "json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["mode", "workloads", "namespaces", "totals"]
    assert found["mode"] == "patch"
    (older,) = (each for each in found["workloads"] if each["name"] == "older")
    assert older == {
        "namespace": "shop",
        "kind": "Deployment",
        "name": "older",
        "state": "stale",
        "reason": "would change min-ready; no pod would restart",
        "injected": True,
        "applied": ["pre-stop-sleep", "min-ready"],
        "changes": ["min-ready"],
        "restarts": False,
    }
    assert found["namespaces"]["shop"] == dict.fromkeys(STATES, 1)
    assert sum(found["totals"].values()) == len(found["workloads"]) == 8
    assert sum(line.startswith('{"namespace":') for line in out.splitlines()) == 8


def test_yaml_says_the_same_as_json(status: Any) -> None:
    """In another form."""
    _, as_json, _ = status("-A", "-o", "json")
    _, as_yaml, _ = status("-A", "-o", "yaml")
    assert yaml.safe_load(as_yaml) == json.loads(as_json)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ("unpatched,stale", 1),
        ("refused", 1),
        ("stale", 1),
        ("", 0),
    ],
)
def test_fail_on_makes_a_check_of_it(status: Any, states: str, code: int) -> None:
    """Everything is told all the same."""
    found, out, err = status("-A", "--fail-on", states)
    assert (found, err) == (code, "")
    assert "deployment/older" in out


def test_fail_on_looks_at_what_was_asked_for_only(status: Any) -> None:
    """The namespace of the release has no unpatched workloads: it is excluded."""
    assert status("-n", "seamless", "--fail-on", "unpatched,stale")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-on", "unpatched,old"], "--fail-on: 'old': expected some of patched, stale"),
        (["-n", "a", "-A"], "not allowed with argument"),
        (["-n", "A_b"], "--namespace: 'A_b': expected a namespace's name"),
        (["-o", "wide"], "invalid choice: 'wide'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--kubeconfig", "nowhere"], "nowhere"),
        (["-A", "--metrics-file", "/nowhere/metrics.prom"], "--metrics-file: /nowhere"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    status: Any, arguments: list[str], message: str
) -> None:
    """Never a traceback."""
    code, _, err = status(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("seamless status: ")
    assert err.count("\n") == 1


def test_a_configuration_from_a_file_is_used_instead_of_the_installed_one(
    status: Any, tmp_path: Path
) -> None:
    """To see what another one would change, before it is installed."""
    path = tmp_path / "config.yaml"
    path.write_text("scope: cluster\ndefaults: {min-ready: 10s}\n")
    _, out, _ = status("-n", "shop", "-o", "json", "--config", str(path))
    found = {each["name"]: each["state"] for each in json.loads(out)["workloads"]}
    assert (found["older"], found["done"]) == ("patched", "stale")
    path.write_text("defaults: {min-ready: soon}\n")
    code, _, err = status("--config", str(path))
    assert code == 2
    assert "defaults.min-ready" in err


def test_without_a_webhook_it_says_what_it_decided_by(api: Served, status: Any) -> None:
    """The built-in configuration: nothing is in scope unless it says so."""
    api.objects = {path: things for path, things in api.objects.items() if "admission" not in path}
    code, out, err = status("-n", "shop", "-o", "json")
    assert code == 0
    assert "no webhook is installed here" in err
    assert "the built-in configuration" in err
    assert json.loads(out)["totals"]["out-of-scope"] == 5


def test_in_a_pod_of_the_chart_nothing_but_workloads_and_namespaces_is_read(
    api: Served, status: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ServiceAccount may read nothing else."""
    path = tmp_path / "config.yaml"
    path.write_text("scope: cluster\n")
    run = status
    monkeypatch.setenv("POD_NAMESPACE", "seamless")
    api.requests.clear()
    code, out, err = run("-A", "-o", "json", "--config", str(path))
    assert (code, err) == (0, "")
    assert json.loads(out)["namespaces"]["seamless"]["out-of-scope"] == 1
    assert {request.path for request in api.requests} == {
        "/version",
        NODES_PATH,
        CRD_PATH,
        "/api/v1/namespaces",
        *(f"/apis/apps/v1/{resource}" for resource in SERVED),
        "/apis/argoproj.io/v1alpha1/rollouts",
    }


def test_a_namespace_that_may_not_be_read_counts_as_selected_and_this_is_told(
    api: Served, status: Any
) -> None:
    """Many may read the workloads of a namespace, and not the namespace itself."""
    api.faults.append(
        lambda request: Fault(403) if request.path == "/api/v1/namespaces/shop" else None
    )
    code, out, err = status("-n", "shop", "-o", "json")
    assert code == 0
    assert "namespace shop may not be read: it counts as selected" in err
    assert json.loads(out)["totals"]["unpatched"] == 1


def test_a_missing_right_is_named_with_the_rule_that_grants_it(api: Served, status: Any) -> None:
    """One line, and no half of a table."""
    api.forbidden.add("daemonsets")
    code, out, err = status("-A")
    assert (code, out) == (1, "")
    assert 'needs: apiGroups ["apps"], resources [daemonsets], verbs [list]' in err
    assert err.count("\n") == 1


def test_without_a_right_to_find_the_webhook_its_configuration_can_be_given(
    api: Served, status: Any, tmp_path: Path
) -> None:
    """Owners of a namespace may seldom read what is the cluster's."""
    api.faults.append(
        lambda request: Fault(403) if request.path.startswith(CONFIGURATIONS) else None
    )
    code, out, err = status("-n", "shop")
    assert (code, out) == (1, "")
    assert "resources [mutatingwebhookconfigurations], verbs [list]" in err
    assert "by --config" in err
    path = tmp_path / "config.yaml"
    path.write_text("scope: cluster\n")
    code, out, err = status("-n", "shop", "--config", str(path))
    assert code == 0
    assert "deployment/older" in out
    assert "as far as can be read: decided by --config" in err


def test_a_right_to_read_what_is_not_installed_is_not_missed(api: Served, status: Any) -> None:
    """Whoever lacks it is told so even where there are no Argo Rollouts."""
    api.forbidden.add("rollouts")
    assert status("-A")[0] == 0
    api.served.add(ROLLOUT)
    code, _, err = status("-A")
    assert code == 1
    assert "resources [rollouts]" in err


def test_pages_that_expire_lose_and_double_nothing(api: Served, status: Any) -> None:
    """The API server forgets a list's version after some minutes."""
    for number in range(600):
        api.workload(named(deployment(), f"many-{number:03}", "bank"))
    pages = 0

    def expires(request: Any) -> Fault | None:
        nonlocal pages
        pages += "continue" in request.query
        return Fault(410) if pages == 2 and "continue" in request.query else None

    api.faults.append(expires)
    code, out, _ = status("-n", "bank", "-o", "json")
    assert code == 0
    names = [each["name"] for each in json.loads(out)["workloads"]]
    assert len(names) == len(set(names)) == 601
    assert names == [*sorted(names[:-1]), "store"]


@pytest.mark.parametrize("fault", [Fault(429, {"Retry-After": "1"}), Fault(503), Fault(0)])
def test_what_passes_by_itself_is_waited_for(api: Served, status: Any, fault: Fault) -> None:
    """Throttled, overloaded, or gone for a moment."""
    api.faults.append(once(fault, times=3))
    assert status("-A")[0] == 0


def test_an_api_server_that_stays_away_is_one_line_and_status_1(api: Served, status: Any) -> None:
    """Nothing is told, as nothing is known."""
    api.faults.append(lambda _request: Fault(503))
    code, out, err = status("-A")
    assert (code, out) == (1, "")
    assert "503" in err
    assert err.count("\n") == 1


def test_somebody_at_a_terminal_is_told_what_is_waited_for(
    api: Served, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes up to a minute; the error is one line all the same."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    api.faults.append(lambda _request: Fault(503))
    _, _, err = status("-A")
    told, error = err.splitlines()
    assert "trying again" in told
    assert "503" in error


def test_a_selector_that_is_none_is_wrong_use(api: Served, status: Any) -> None:
    """The API server says so."""
    api.faults.append(lambda request: Fault(400) if "labelSelector" in request.query else None)
    assert status("-A", "-l", "=")[0] == 2


# --- gauges --------------------------------------------------------------------------------------

GAUGES = [
    'seamless_workloads{state="patched"} 1.0',
    'seamless_workloads{state="stale"} 1.0',
    'seamless_workloads{state="unpatched"} 2.0',
    'seamless_workloads{state="opted-out"} 1.0',
    'seamless_workloads{state="out-of-scope"} 2.0',
    'seamless_workloads{state="refused"} 1.0',
]


def numbers(text: str) -> list[str]:
    """Leave out the comments, and what depends on the time."""
    return [
        line
        for line in text.splitlines()
        if not line.startswith(("#", "seamless_status_timestamp", "seamless_status_duration"))
    ]


def test_gauges_are_written_to_a_file_beside_the_table(status: Any, tmp_path: Path) -> None:
    """Every state is there; for the textfile collector, whole at any moment."""
    path = tmp_path / "seamless.prom"
    code, out, _ = status("-A", "--metrics-file", str(path))
    assert code == 0
    assert "deployment/older" in out
    text = path.read_text()
    assert numbers(text) == GAUGES
    assert "# HELP seamless_status_timestamp_seconds" in text
    assert "# TYPE seamless_status_duration_seconds gauge" in text
    assert [each.name for each in tmp_path.glob("seamless.prom*")] == ["seamless.prom"]


def test_gauges_can_be_printed_instead(status: Any) -> None:
    """And told by namespace, without the states that nothing is in."""
    code, out, _ = status("-A", "--metrics-file", "-", "--metrics-by-namespace")
    assert code == 0
    shop = [
        f'seamless_namespace_workloads{{namespace="shop",state="{each}"}} 1.0' for each in STATES
    ]
    assert numbers(out) == [
        *GAUGES,
        'seamless_namespace_workloads{namespace="bank",state="unpatched"} 1.0',
        'seamless_namespace_workloads{namespace="seamless",state="out-of-scope"} 1.0',
        *shop,
    ]


def test_gauges_are_pushed_to_a_gateway(status: Any) -> None:
    """In the way of the Pushgateway: a PUT replaces what the job has pushed before."""
    pushed: list[tuple[str, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            pushed.append((self.path, body.decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    server.timeout = 10
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    code, out, _ = status("-A", "--push-gateway", url)
    thread.join()
    server.server_close()
    assert code == 0
    assert "deployment/older" in out
    ((path, body),) = pushed
    assert path == "/metrics/job/seamless-status"
    assert numbers(body) == GAUGES


def test_a_gateway_that_does_not_answer_is_told(status: Any) -> None:
    """The Job has failed, then."""
    code, _, err = status("-A", "--push-gateway", "http://127.0.0.1:1")
    assert code == 1
    assert "--push-gateway: http://127.0.0.1:1: " in err
    assert err.count("\n") == 1
