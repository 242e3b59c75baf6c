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
    assert "note: rollout: at least 1m30s: 3 steps of up to 1 pod" in out
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
    assert "at least 20m: 40 steps of up to 1 pod" in out
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
    assert workload["rollout"]["leastSeconds"] == 180
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
