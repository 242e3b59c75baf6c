"""`seamless plan`: outputs, inputs, exit statuses and errors."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from webhook import cli
from webhook.cli.plan import _parser

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 80}]
"""
CONFIG_MAP = "# kept\napiVersion: v1\nkind: ConfigMap\nmetadata: {name:   odd }  # style\n"


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command over texts; gives exit status, output and errors."""

    def run(*texts: str, arguments: tuple[str, ...] = ()) -> tuple[int, str, str]:
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text)
            paths.append(str(path))
        status = cli.main(["plan", *arguments, *paths])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def with_annotation(name: str, value: str) -> str:
    """Write the Deployment with a setting on it."""
    setting = f"seamless-rollouts.dev/{name}: {value}"
    return DEPLOYMENT.replace("{name: web}", f"{{name: web, annotations: {{{setting}}}}}")


def test_the_text_tells_the_diff_the_notes_and_the_rollout(plan: Any) -> None:
    """What a person wants to know before an apply."""
    status, out, err = plan(DEPLOYMENT)
    assert status == 0
    assert not err
    assert "deployment/web in namespace default: patched" in out
    assert "+  minReadySeconds: 30" in out
    assert "note: namespace default is not known here: taken as selected" in out
    assert "note: pre-stop-sleep: 30s, built in" in out
    assert "rollout as written: rolled out after 3s, old pods gone after 5s; at least 3 of 3" in out
    assert "rollout as admitted: rolled out after 1m32s" in out
    assert "88 of 92 s is minReadySeconds: three steps" in out
    assert "warning: seamless-rollouts: no readiness probe" in out
    assert out.endswith("1 workload in 1 document: 1 changed, 0 refused\n")


def test_a_rollout_that_outlives_helm_is_told(plan: Any) -> None:
    """`helm --wait` would call it failed."""
    _, out, _ = plan(
        DEPLOYMENT.replace(
            "replicas: 3",
            "replicas: 40\n  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
        )
    )
    assert "1180 of 1225 s is minReadySeconds: 40 steps" in out
    assert "helm --wait gives up after 5m" in out


def test_yaml_leaves_other_documents_as_they_are(plan: Any) -> None:
    """Comments, order and style of what is not patched stay."""
    status, out, _ = plan(
        f"{CONFIG_MAP}---\n{DEPLOYMENT}---\n# only a comment\n", arguments=("-oyaml",)
    )
    assert status == 0
    first, second, third = out.split("---\n")
    assert first == CONFIG_MAP
    assert yaml.safe_load(second)["spec"]["minReadySeconds"] == 30
    assert third == "# only a comment\n"


def test_yaml_of_what_is_already_admitted_is_the_input(plan: Any) -> None:
    """Byte for byte, so that it can be piped any number of times."""
    _, once, _ = plan(f"{CONFIG_MAP}---\n{DEPLOYMENT}", arguments=("-oyaml",))
    _, twice, _ = plan(once, arguments=("-oyaml",))
    assert twice == once


def test_the_patch_turns_one_into_the_other(plan: Any) -> None:
    """One JSON Patch a line and workload, which applies to what was given."""
    _, out, _ = plan(DEPLOYMENT, CONFIG_MAP, DEPLOYMENT, arguments=("-opatch",))
    lines = out.splitlines()
    assert len(lines) == 2
    patched = jsonpatch.apply_patch(yaml.safe_load(DEPLOYMENT), json.loads(lines[0]))
    assert patched["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 60


def test_lists_are_patched_item_by_item(plan: Any) -> None:
    """Of a List, and of a list of one kind whose items do not say theirs."""
    item = yaml.safe_load(DEPLOYMENT)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    of_all = {"apiVersion": "v1", "kind": "List", "items": [service, item]}
    bare = {key: value for key, value in item.items() if key not in {"apiVersion", "kind"}}
    of_one = {"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [bare]}
    for each, place in ((of_all, 1), (of_one, 0)):
        status, out, _ = plan(json.dumps(each), arguments=("-oyaml",))
        assert status == 0
        items = yaml.safe_load(out)["items"]
        assert items[place]["spec"]["minReadySeconds"] == 30
        assert items[:place] == each["items"][:place]


def test_json_is_for_machines(plan: Any) -> None:
    """Every fact that the text tells."""
    _, out, _ = plan(with_annotation("min-ready", "1m"), arguments=("-ojson",))
    found = json.loads(out)
    assert found["documents"] == 1
    (workload,) = found["workloads"]
    assert workload["kind"] == "Deployment"
    assert workload["namespace"] == "default"
    assert workload["namespaceKnown"] is False
    assert workload["allowed"] is True
    assert workload["applied"] == {"pre-stop-sleep": "built in", "min-ready": "workload"}
    assert [each["code"] for each in workload["warnings"]] == ["no-readiness-probe"]
    assert found["formatVersion"] == 1
    rollout = workload["rollout"]
    assert rollout["written"]["rolledOutSeconds"] < 60 < rollout["admitted"]["rolledOutSeconds"]
    assert rollout["admitted"]["criticalPath"][0]["what"] == "minReadySeconds"
    assert rollout["outlivesHelmWait"] is False
    assert {
        "rolledOutSeconds", "oldPodsGoneSeconds", "leastServing", "mostPods", "requestsAtRisk",
        "criticalPath", "pods",
    } <= set(rollout["written"])  # fmt: skip
    assert set(rollout["written"]["pods"][0]) == {
        "name", "old", "created", "ready", "available", "terminating", "stopped", "gone",
    }  # fmt: skip
    assert {"op": "add", "path": "/spec/minReadySeconds", "value": 60} in workload["patch"]


def test_standard_input_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`helm template … | seamless plan -`."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(DEPLOYMENT.encode())))
    assert cli.main(["plan", "-"]) == 0
    assert "from standard input, document 1" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["text", "json", "yaml", "patch"])
def test_a_manifest_that_would_be_refused_is_status_1(plan: Any, output: str) -> None:
    """Whatever the output: which setting, what it was, and what is expected."""
    status, out, err = plan(with_annotation("min-ready", "soon"), arguments=("-o", output))
    assert status == 1
    for part in ("seamless-rollouts.dev/min-ready", "soon", "30s"):
        assert part in out + err


def test_exit_code_tells_a_change(plan: Any) -> None:
    """As `diff` and `kubectl diff` do; 0 where nothing would change."""
    assert plan(DEPLOYMENT, arguments=("--exit-code",))[0] == 1
    assert plan(CONFIG_MAP, arguments=("--exit-code",))[0] == 0


def test_a_namespace_file_says_what_holds(plan: Any, tmp_path: Path) -> None:
    """Its labels opt in and out, its annotations are inherited."""
    path = tmp_path / "namespaces.yaml"
    text = """\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {seamless-rollouts.dev/inject: enabled}
  annotations: {seamless-rollouts.dev/min-ready: 45s}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet}
"""
    path.write_text(text)
    arguments = (f"--namespace-file={path}", "-ojson")
    for namespace, applied, skipped in (
        ("shop", {"pre-stop-sleep": "built in", "min-ready": "namespace"}, None),
        ("quiet", {}, "not-selected"),
        ("unheard-of", {"pre-stop-sleep": "built in", "min-ready": "built in"}, None),
    ):
        _, out, _ = plan(DEPLOYMENT, arguments=(*arguments, "-n", namespace))
        (workload,) = json.loads(out)["workloads"]
        assert (workload["applied"], workload["skipped"]) == (applied, skipped)


def test_the_version_of_the_api_server_decides_the_handler(plan: Any) -> None:
    """Native from 1.30, and where the version is not known."""
    for version, native in (
        ("1.29", False),
        ("v1.29.4-eks-1", False),
        ("1.30", True),
        (None, True),
    ):
        arguments = ("-opatch", *(() if version is None else (f"--kube-version={version}",)))
        assert ('{"sleep":{"seconds":30}}' in plan(DEPLOYMENT, arguments=arguments)[1]) is native


@pytest.mark.parametrize(
    ("option", "native"),
    [
        ("--oldest-node=1.29", False),
        ("--oldest-node=v1.30.1-eks-1", True),
        ("--rollout-sleep=no", True),
    ],
)
def test_what_the_cluster_can_carry_decides_the_handler(
    plan: Any, option: str, *, native: bool
) -> None:
    """A Deployment depends on the nodes, and not on the CRD of Argo Rollouts."""
    out = plan(DEPLOYMENT, arguments=(option, "-oyaml"))[1]
    assert ("sleep:" in out) is native
    rollout = DEPLOYMENT.replace("apps/v1", "argoproj.io/v1alpha1").replace("Deployment", "Rollout")
    out = plan(rollout, arguments=(option, "-oyaml"))[1]
    assert ("sleep:" in out) is (option == "--oldest-node=v1.30.1-eks-1")


@pytest.mark.parametrize("first", [True, False])
def test_namespaces_of_the_same_input_are_known(plan: Any, tmp_path: Path, *, first: bool) -> None:
    """Wherever they stand, unless the namespace file says otherwise."""
    label = "labels: {seamless-rollouts.dev/inject: disabled}"
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, {label}}}\n"
    both = f"{namespace}---\n{DEPLOYMENT}" if first else f"{DEPLOYMENT}---\n{namespace}"
    both = both.replace("namespace: shop", "namespace: default")
    status, out, _ = plan(both, arguments=("-ojson",))
    (workload,) = json.loads(out)["workloads"]
    assert status == 0
    assert (workload["skipped"], workload["namespaceKnown"]) == ("disabled", True)
    path = tmp_path / "namespaces.yaml"
    path.write_text(namespace.replace("disabled", "enabled"))
    out = plan(both, arguments=("-ojson", f"--namespace-file={path}"))[1]
    assert json.loads(out)["workloads"][0]["skipped"] is None


def test_audit_mode_patches_nothing_and_tells_what_it_would(plan: Any, tmp_path: Path) -> None:
    """As the webhook does in that mode."""
    path = tmp_path / "config.yaml"
    path.write_text("mode: audit")
    status, out, _ = plan(DEPLOYMENT, arguments=(f"--config={path}", "--exit-code"))
    assert status == 0
    assert "patch mode would apply pre-stop-sleep, min-ready" in out
    assert "+  minReadySeconds" not in out


_NAMED = "{apiVersion: apps/v1, kind: Deployment, metadata: {%s}, spec: {template: {}}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "document 1: line 2"),
        ("a: 1\n---\nb: {", "document 2: line"),
        ("- a\n- b", "expected an object with apiVersion and kind"),
        ("a: 1\na: 2", 'the key "a" comes twice'),
        ('{"a": 1, "a": 2}', 'the key "a" comes twice'),
        ('{"a": NaN}', "NaN"),
        ("a: .nan", "no number that JSON has"),
        ("a: &a [*a]", "an alias holds itself"),
        ("a: !!python/object:os.system x", "means nothing here"),
        ("{kind: List, items: [1]}", "items[0] is not an object"),
        (_NAMED % "name: [a]", "document 1: metadata.name is not a string"),
        (_NAMED % "name: a, namespace: {b: c}", "document 1: metadata.namespace is not a string"),
        ("? [a]\n: b", "a key is no string"),
        ("\t- a", "line 1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(plan: Any, text: str, said: str) -> None:
    """Which file, which document, and why."""
    status, out, err = plan(text)
    assert status == 2
    assert not out
    assert said in err
    assert err.startswith("seamless plan: ")
    assert err.count("\n") == 1


def test_aliases_that_would_blow_up_are_refused(plan: Any) -> None:
    """A billion laughs, told from a sensible number of aliases."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        repeated = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{repeated}]")
    status, _, err = plan("\n".join(lines))
    assert status == 2
    assert "its aliases stand for more than" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "FILE"),
        (["/none.yaml"], "/none.yaml: No such file or directory"),
        (["."], ".: Is a directory"),
        (["--kube-version=new", "x"], "expected a version such as 1.30"),
        (["-o", "xml", "x"], "xml"),
        (["--pony", "x"], "--pony"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never shows a traceback."""
    assert cli.main(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_utf_8_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the byte that is wrong."""
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: \xe9")
    assert cli.main(["plan", str(path)]) == 2
    assert "not UTF-8: byte 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [([], 2), (["pony"], 2), (["--help"], 0), (["--version"], 0), (["plan", "--help"], 0)],
)
def test_the_command_itself(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help and version go to stdout; what is wrong is one line on stderr."""
    try:
        ended = cli.main(arguments)
    except SystemExit as end:  # argparse's own way to end a --help
        ended = int(end.code or 0)
    assert ended == status
    captured = capsys.readouterr()
    assert re.match(r"(usage: )?seamless", captured.out if status == 0 else captured.err)


def test_namespaces_that_lack_the_label_of_the_load_balancer_controller_are_named(
    plan: Any, tmp_path: Path
) -> None:
    """`kubectl get namespaces -o yaml | seamless plan --config FILE -`."""
    path = tmp_path / "config.yaml"
    path.write_text("awsReadinessGates: true\nexcludedNamespaces: [left-out]")
    enabled = {"seamless-rollouts.dev/inject": "enabled"}
    labels = {
        "shop": enabled,
        "left-out": enabled,
        "elsewhere": {},
        "has-it": {**enabled, "elbv2.k8s.aws/pod-readiness-gate-inject": "disabled"},
    }
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": each}}
        for name, each in labels.items()
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    status, out, _ = plan(text, arguments=(f"--config={path}", "--exit-code"))
    assert status == 1
    assert "namespace/shop: patched" in out
    assert "+    elbv2.k8s.aws/pod-readiness-gate-inject: enabled" in out
    assert "namespace/left-out: unchanged (excluded-namespace)" in out
    assert "namespace/elsewhere: unchanged (not-selected)" in out
    assert "namespace/has-it: unchanged (nothing-to-inject)" in out
    assert plan(text)[1].endswith("0 workloads in 1 document: 0 changed, 0 refused\n")


def test_an_output_that_is_cut_short_is_no_error_to_tell() -> None:
    """`seamless plan … | head -1` ends as other programs do: by the signal's number, in silence."""
    command = [sys.executable, "-m", "webhook", "plan", *["examples/nginx/given.yaml"] * 200]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# --- the rollout, and what is told of it ---------------------------------------------------------


def rollouts(plan: Any, *arguments: str, text: str = DEPLOYMENT) -> dict[str, Any]:
    """Give what `-o json` says of the rollout of the only workload."""
    status, out, err = plan(text, arguments=("-ojson", *arguments))
    assert status == 0, err
    (workload,) = json.loads(out)["workloads"]
    found: dict[str, Any] = workload["rollout"]
    return found


def test_what_if_shows_a_setting_beside_what_is_set(plan: Any) -> None:
    """Several at once; what is written and admitted stays what it is."""
    arguments = ("--what-if", "min-ready=5s", "--what-if", "pre-stop-sleep=none")
    without, beside = rollouts(plan), rollouts(plan, *arguments)
    assert without["whatIf"] is None
    assert (beside["written"], beside["admitted"]) == (without["written"], without["admitted"])
    assert beside["whatIf"]["rolledOutSeconds"] < without["admitted"]["rolledOutSeconds"]
    found = json.loads(plan(DEPLOYMENT, arguments=("-ojson", *arguments))[1])
    assert found["whatIf"] == {"min-ready": "5s", "pre-stop-sleep": "none"}
    assert list(found["workloads"][0]["whatIf"]["applied"]) == ["min-ready"]
    out = plan(DEPLOYMENT, arguments=arguments)[1]
    assert "  what if min-ready=5s pre-stop-sleep=none: patched\n    min-ready: 5s" in out
    assert "  rollout with min-ready=5s pre-stop-sleep=none: rolled out after 17s" in out


def test_what_if_opts_in_and_out(plan: Any) -> None:
    """Whatever a label on the workload says."""
    disabled = DEPLOYMENT.replace(
        "{name: web}", "{name: web, labels: {seamless-rollouts.dev/inject: disabled}}"
    )
    found = json.loads(plan(disabled, arguments=("-ojson", "--what-if=inject=enabled"))[1])
    (workload,) = found["workloads"]
    assert not workload["changed"]
    assert workload["whatIf"]["changed"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pre-stop-sleep", "expected SETTING=VALUE, such as pre-stop-sleep=5s"),
        ("=5s", "expected SETTING=VALUE"),
        ("pre-stop-sleep=soon", "--what-if pre-stop-sleep=soon: duration 'soon' is not"),
        ("pre-stop-slep=5s", "did you mean pre-stop-sleep?"),
        ("inject=perhaps", "expected enabled or disabled"),
    ],
)
def test_a_what_if_that_says_nothing_is_wrong_use(plan: Any, option: str, said: str) -> None:
    """One line, with what would be right."""
    status, out, err = plan(DEPLOYMENT, arguments=("--what-if", option))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_helm_waits_for_no_rollout_that_is_paused(plan: Any) -> None:
    """It never ends by itself, and is told so."""
    paused = DEPLOYMENT.replace("replicas: 3", "replicas: 3\n  paused: true")
    assert rollouts(plan, text=paused)["outlivesHelmWait"] is False
    out = plan(paused)[1]
    assert "as admitted: not rolled out: " in out
    assert "helm --wait" not in out


def test_timings_are_those_of_the_file(plan: Any, tmp_path: Path) -> None:
    """A workload's own hold, by the namespace that it is taken to be in, too."""
    path = tmp_path / "timings.yaml"
    path.write_text("workloads: {shop/deployment/web: {application: {start: 50}}}")
    option = f"--timings={path}"
    probed = DEPLOYMENT + "        readinessProbe: {tcpSocket: {port: 80}}\n"
    slow = rollouts(plan, option, "-nshop", text=probed)["written"]["rolledOutSeconds"]
    assert slow > 150 > rollouts(plan, option, text=probed)["written"]["rolledOutSeconds"]
    path.write_text("aplication: {start: 50}")
    status, out, err = plan(DEPLOYMENT, arguments=(option,))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "aplication: unknown key" in err


def test_nodes_are_those_of_a_daemon_set(plan: Any) -> None:
    """One where nobody says, which is told."""
    given = DEPLOYMENT.replace("Deployment", "DaemonSet").replace("  replicas: 3\n", "")
    assert len(rollouts(plan, "--nodes=7", text=given)["written"]["pods"]) == 14
    assert "assumed: it is not known on how many nodes it runs" in plan(given)[1]
    for nodes in ("-1", "many", "10001"):
        assert plan(given, arguments=(f"--nodes={nodes}",))[0] == 2


def test_what_has_no_rollout_says_why(plan: Any) -> None:
    """More pods than are simulated, a malformed one, one without containers."""
    for given, said in (
        (DEPLOYMENT.replace("replicas: 3", "replicas: 200000"), "at most 10000 are simulated"),
        (DEPLOYMENT.replace("replicas: 3", "replicas: three"), "malformed: spec.replicas"),
        (DEPLOYMENT.partition("      containers")[0] + "      x: 1\n", "it has no containers"),
    ):
        found = rollouts(plan, text=given)
        assert found["written"] is found["admitted"] is None
        assert said in found["notSimulated"]
        assert f"  rollout: not simulated: {found['notSimulated']}\n" in plan(given)[1]


def test_what_would_be_refused_has_no_rollout_as_admitted(plan: Any) -> None:
    """But the one that is written."""
    out = plan(with_annotation("min-ready", "soon"), arguments=("-ojson",))[1]
    (workload,) = json.loads(out)["workloads"]
    assert workload["rollout"]["written"] is not None
    assert workload["rollout"]["admitted"] is None


def test_notes_that_are_the_same_for_all_come_once(plan: Any) -> None:
    """Above everything; what holds for some alone stays with them."""
    other = with_annotation("min-ready", "45s").replace("name: web,", "name: other,")
    out = plan(DEPLOYMENT, other)[1]
    head, _, rest = out.partition("\n\n")
    assert "note for all workloads: namespace default is not known here" in head
    assert "note for all workloads: pre-stop-sleep: 30s, built in" in head
    assert "pre-stop-sleep: 30s, built in" not in rest
    assert "  note: min-ready: 30s, built in\n" in rest
    assert "  note: min-ready: 45s, from the workload\n" in rest
    assert out.count("░ starting") == 1


def test_the_record_is_folded_unless_it_is_asked_for(plan: Any) -> None:
    """In the diff alone; the one that was there and the new one differ."""
    folded, full = plan(DEPLOYMENT)[1], plan(DEPLOYMENT, arguments=("--show-record",))[1]
    assert '"v":1' in full.replace(" ", "")
    assert '"v":1' not in folded.replace(" ", "")
    assert folded.count("see --show-record") == 2
    once = plan(DEPLOYMENT, arguments=("-oyaml",))[1]
    assert "--show-record" not in once
    changed = once.replace("name: web\n", "name: web\n  x: y\n", 1)
    changed = changed.replace(
        "annotations:\n", "annotations:\n    seamless-rollouts.dev/min-ready: 45s\n", 1
    )
    out = plan(changed)[1]
    assert "-    seamless-rollouts.dev/injected: '(folded, as it was: " in out
    assert "+    seamless-rollouts.dev/injected: '(folded: " in out


def test_colour_is_for_terminals_and_never_with_no_color(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text stays the same."""
    plain = plan(DEPLOYMENT)[1]
    assert "\x1b" not in plain
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = plan(DEPLOYMENT)[1]
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert plan(DEPLOYMENT)[1] == plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert plan(DEPLOYMENT)[1] == plain


@pytest.mark.parametrize("columns", [60, 200])
def test_the_timeline_is_as_wide_as_the_terminal(
    plan: Any, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the terminal, or COLUMNS, says."""
    monkeypatch.setenv("COLUMNS", str(columns))
    bars = [each for each in plan(DEPLOYMENT)[1].splitlines() if each.startswith("  new ")]
    assert {len(each) for each in bars} == {columns}


def test_a_workload_that_stays_as_it_is_has_one_picture(plan: Any) -> None:
    """There is nothing to compare."""
    out = plan(with_annotation("inject", "disabled"))[1]
    assert out.count("  rollout as written and as admitted: ") == 1
    assert out.count("rollout as ") == 1
    assert "left alone: seamless-rollouts.dev/inject: disabled is set on it" in out


def test_each_workload_is_simulated_at_most_twice(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand are planned in seconds: once as written, and once where it would be patched."""
    from webhook.cli import planner

    calls = []
    simulate = planner.simulate
    monkeypatch.setattr(planner, "simulate", lambda *given: calls.append(1) or simulate(*given))
    skipped = with_annotation("inject", "disabled")
    assert plan(DEPLOYMENT, skipped, skipped)[0] == 0
    assert len(calls) == 4


def test_the_docs_name_every_option_and_every_key(plan: Any) -> None:
    """And no option that there is not."""
    page = Path("docs/plan.md").read_text(encoding="utf-8")
    table = page.partition("## Options")[2].partition("## For machines")[0]
    options = {each for action in _parser()._actions for each in action.option_strings}
    named = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", table))
    assert named <= options
    assert {each for each in options if each.startswith("--")} - named <= {
        "--help", "--output", "--namespace",
    }  # fmt: skip
    found = json.loads(plan(DEPLOYMENT, arguments=("-ojson",))[1])
    (workload,) = found["workloads"]
    for key in (*found, *workload, *workload["rollout"]):
        assert f"`{key}`" in page, key
    simulation = Path("docs/simulation.md").read_text(encoding="utf-8")
    for key in workload["rollout"]["written"]:
        assert f"`{key}`" in simulation, key
