"""Whatever strangers wrote, no command shows it raw, and none ends in a traceback."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import Json, deployment
from tests.cluster.rolling import Rolling
from tests.cluster.served import Served
from tests.decision.test_printable import HARMFUL, assert_safe, storable, texts
from webhook import cli
from webhook.cli import backfill, changing, common, plan, revert, serve, status
from webhook.cli.manifests import dump, read
from webhook.cluster.client import ClusterError

OUTPUTS = ("text", "json", "yaml", "patch")


def ran(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; gives exit status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def program(*arguments: str | bytes, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "webhook", *arguments]
    return subprocess.run(command, **{"capture_output": True, "timeout": 120, **more}, check=False)


# --- what is shown -------------------------------------------------------------------------------


@st.composite
def manifests(draw: st.DrawFn) -> Json:
    """Write a Deployment with a stranger's text in every place that takes one."""

    def text() -> str:
        return draw(storable)

    given = deployment(says={"min-ready": draw(st.sampled_from(["45s", text()]))})
    given["metadata"].update(
        name=draw(st.sampled_from(["web", text()])),
        namespace=text(),
        labels={text(): text()},
    )
    given["metadata"]["annotations"][text()] = text()
    given["metadata"]["annotations"][f"seamless-rollouts.dev/{text()}"] = text()
    template = given["spec"]["template"]
    template["metadata"]["labels"][text()] = text()
    container = template["spec"]["containers"][0]
    container.update(image=text(), args=[text()], env=[{"name": text(), "value": text()}])
    container[text()] = text()
    given[text()] = {text(): [text()]}
    return given


@settings(deadline=None, max_examples=60)
@given(
    given=manifests(),
    other=storable,
    name=texts,
    output=st.sampled_from(OUTPUTS),
    form=st.sampled_from(["json", "yaml"]),
)
def test_plan_shows_no_strangers_text_raw(
    given: Json, other: str, name: str, output: str, form: str
) -> None:
    """In no output, from no place of a manifest, and of no file's name."""
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "data": {other: other}}
    if form == "json":
        text = "\n".join(json.dumps(each, ensure_ascii=False) for each in (given, config_map))
    else:
        text = f"{dump(given)}---\n{dump(config_map)}"
    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), name)
        path.write_text(text, encoding="utf-8")
        code, out, err = ran("plan", "-o", output, str(path))
        assert code in {0, 1}, err
        assert_safe(out)
        assert_safe(err)
        if output == "json":
            found = json.loads(out)["workloads"][0]
            assert found["name"] == given["metadata"]["name"]
            assert found["source"] == str(path)
        if output == "yaml":
            after, same = (each.content for each in read(out, "again"))
            assert same == config_map
            assert after["metadata"]["labels"] == given["metadata"]["labels"]


def _file(folder: Path, name: str) -> Path:
    """Give a path with a stranger's text in it, as far as a file's name can hold it."""
    raw = (
        os.fsencode(name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))[
            :100
        ]
        if name.isascii()
        else name.encode("utf-8", "replace")[:100]
    )
    return folder / ("x" + os.fsdecode(raw.replace(b"/", b"").replace(b"\0", b"")))


@pytest.mark.parametrize("comment", [each for each in HARMFUL if "\n" not in each])
def test_yaml_that_would_do_harm_is_written_anew_and_is_the_same(
    comment: str, tmp_path: Path
) -> None:
    """A document that is not patched stays byte for byte, unless a CI system would obey it."""
    harmless = "# a comment\na:  1\n"
    harmful = f"# {comment.strip()}\nkind: ConfigMap\ntext: |\n  x\n  ::error::y\n"
    path = tmp_path / "manifests.yaml"
    path.write_bytes(f"{harmless}---\n{harmful}---\n# {comment.strip()}\n".encode())
    code, out, err = ran("plan", "-o", "yaml", str(path))
    if code == 2:  # libyaml reads no control characters
        assert "control characters" in err or "not allowed" in err
    else:
        assert out.startswith(harmless)
        assert [each.content for each in read(out, "x")][:2] == [
            {"a": 1},
            {"kind": "ConfigMap", "text": "x\n::error::y\n"},
        ]
        assert "document 2: written anew" in err
    assert_safe(out)
    assert_safe(err)


@pytest.fixture
def api() -> Iterator[Served]:
    """A cluster whose API serves what no API server would: a proxy between may."""
    server = Served()
    server.webhook({"scope": "cluster"})
    server.namespace("shop")
    for number, text in enumerate(HARMFUL):
        given = deployment(says={"min-ready": text})
        given["metadata"].update(name=f"{text}{number}", namespace="shop")
        server.workload(given)
    yield server
    server.close()


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_status_shows_no_strangers_text_raw(
    api: Served, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no output."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "shop")))
    code, out, err = ran("status", "-o", output)
    assert (code, err) == (0, "")
    assert_safe(out)
    assert all(f"deployment/{number}"[-1] in out for number in range(len(HARMFUL)))
    if output == "json":
        names = {each["name"] for each in json.loads(out)["workloads"]}
        assert names == {f"{text}{number}" for number, text in enumerate(HARMFUL)}


@pytest.fixture
def rolling_api() -> Iterator[Rolling]:
    """A cluster with a webhook that patches everything."""
    server = Rolling()
    server.namespace("shop")
    server.install({"scope": "cluster"})
    yield server
    server.close()


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("command", ["backfill", "revert"])
def test_a_preview_shows_no_strangers_text_raw(
    rolling_api: Rolling,
    command: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of names that only a hostile API would serve."""
    for text in HARMFUL:
        rolling_api.place(deployment(), text)
    monkeypatch.setenv("KUBECONFIG", str(rolling_api.kubeconfig(tmp_path, "shop")))
    _, out, err = ran(command, "-o", output)
    assert_safe(out)
    assert_safe(err)
    if command == "backfill":
        assert len(out.splitlines()) >= len(HARMFUL)


# --- wrong use -----------------------------------------------------------------------------------

NUMBERS = (
    "9" * 5000,
    "0" * 5000 + "1",
    "00000001999999",
    "1" + "0" * 400,
    "-1",
    "-" + "9" * 5000,
    "0x" + "f" * 400,
    "1e999",
    "nan",
    "inf",
    "1_000",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "\N{SUPERSCRIPT TWO}",
    "9" * 5000 + "s",
    "1h" * 3000,
    "",
    " 1",
)
ODD = (*NUMBERS, *HARMFUL, "\udcff\udc80", "/", ".", "a/b/c", "//", "%s%n", "{0.__class__}")
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "plan": plan._parser,
    "status": status._parser,
    "backfill": lambda: changing.parser(backfill.PROGRAM, ""),
    "revert": lambda: changing.parser(revert.PROGRAM, ""),
    "serve": serve._parser,
}
OPTIONS = sorted(
    (command, action.option_strings[-1])
    for command, parser in PARSERS.items()
    for action in parser()._actions
    if action.option_strings and action.nargs != 0
)


def _no_cluster(*_: object) -> Any:
    message = "there is no cluster in reach"
    raise ClusterError(message)


@pytest.fixture
def nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no command reach for a cluster, or listen."""
    monkeypatch.setattr(status, "reach", _no_cluster)
    monkeypatch.setitem(changing.run.__kwdefaults__, "connect", _no_cluster)

    def listen(*_: object) -> Any:
        message = "it would listen"
        raise common.UsageError(message)

    monkeypatch.setattr(serve, "_listen", listen)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_no_value_of_an_option_ends_in_a_traceback(command: str, option: str) -> None:
    """Every option of every command: one line on stderr that is short and safe, and status 2."""
    for value in ODD:
        more = ["/none.yaml"] if command == "plan" else []
        code, out, err = ran(command, f"{option}={value}", *more)
        assert (code, out) == (2, ""), (value, out)
        assert err.count("\n") == 1, (value, err)
        assert "unexpected" not in err, (value, err)
        assert len(err) < 3000
        assert_safe(err)


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.parametrize("value", ["00000001999999", "101", "0", "0" * 5000 + "101", "1.0", "+1"])
def test_a_number_of_rollouts_beyond_the_bound_is_refused(value: str) -> None:
    """However it is written."""
    for command in ("backfill", "revert"):
        code, _, err = ran(command, f"--max-concurrent={value}")
        assert code == 2
        assert "--max-concurrent: expected a whole number from 1 to 100" in err


@pytest.mark.parametrize("text", ["1", "100", "007", "0" * 5000 + "100"])
def test_a_number_may_be_written_with_zeros_before_it(text: str) -> None:
    """As long as it is within its bounds."""
    assert common.whole_number(text, 1, 100) == int(text[-3:])


@pytest.mark.parametrize("text", [each for each in ODD if "\0" not in each])
def test_no_argument_ends_in_a_traceback(text: str) -> None:
    """As a command, as an option, as a file."""
    for arguments in ((text,), ("plan", text), ("plan", f"--{text}"), ("status", text)):
        if text and not text.startswith(("/", ".")):
            code, out, err = ran(*arguments)
            assert (code, out) == (2, "")
            assert err.count("\n") == 1
            assert_safe(err)


def test_bytes_that_are_no_utf_8_are_told_escaped() -> None:
    """A file's name, a command, an option: by the real command line."""
    for arguments in ((b"plan", b"\xff\x1b[2J"), (b"\xff",), (b"plan", b"--\xff=\xfe", b"x")):
        ended = program(*arguments)
        assert ended.returncode == 2
        assert ended.stderr.count(b"\n") == 1
        assert ended.stderr.isascii()
        assert b"\\udcff" in ended.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("COLUMNS", ("plan", "--help")),
        ("TERM", ("plan", "--help")),
        ("LANG", ("plan", "/none")),
        ("LC_ALL", ("plan", "/none")),
        ("TZ", ("backfill", "--window=22:00-06:00")),
        ("KUBECONFIG", ("status",)),
        ("KUBERNETES_SERVICE_HOST", ("status",)),
        ("POD_NAMESPACE", ("status",)),
    ],
)
@pytest.mark.parametrize("value", ["9" * 5000, "\x1b[2J\u202e::error::"])
def test_no_environment_ends_in_a_traceback(
    name: str, value: str, arguments: tuple[str, ...]
) -> None:
    """Whatever is broken in it."""
    ended = program(*arguments, env={**os.environ, name: value})
    assert ended.returncode == (0 if "--help" in arguments else 2)
    assert ended.stderr.count(b"\n") == int("--help" not in arguments)
    assert b"unexpected" not in ended.stderr
    assert_safe(ended.stderr.decode())


@pytest.mark.parametrize(
    "arguments",
    [("plan", "MANIFEST"), ("plan", "-ojson", "MANIFEST"), ("plan", "--help"), ("--help",)],
)
def test_a_full_disk_is_one_line_and_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """And so is a standard output that is closed."""
    path = tmp_path / "a.yaml"
    path.write_text("kind: ConfigMap\n")
    given = [str(path) if each == "MANIFEST" else each for each in arguments]
    for unbuffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        with Path("/dev/full").open("wb") as full:
            ended = program(*given, env=environment, capture_output=False, stdout=full, stderr=-1)
        assert ended.returncode == 2
        assert ended.stderr.endswith(b"standard output: No space left on device\n")
        assert ended.stderr.count(b"\n") == 1
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "webhook", *given]
    closed = subprocess.run(shell, stderr=-1, timeout=120, check=False)
    assert closed.returncode == 2
    assert closed.stderr.endswith(b"standard output is closed\n")
    assert closed.stderr.count(b"\n") == 1


def test_nobody_who_reads_the_errors_changes_no_status() -> None:
    """A full disk behind stderr, or none at all."""
    with Path("/dev/full").open("wb") as full:
        assert program("plan", "/none", capture_output=False, stderr=full).returncode == 2
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "webhook", "plan", "/none"]
    assert subprocess.run(shell, timeout=120, check=False).returncode == 2


def test_a_fault_of_ours_is_one_line_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong inside."""

    def fail(*_: object) -> None:
        message = "a\n::error::b"
        raise KeyError(message)

    monkeypatch.setattr(plan, "_plan", fail)
    code, out, err = ran("plan", "x")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "unexpected KeyError" in err
    assert "test_hostile.py:" in err
    assert_safe(err)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "larger than 64 MiB"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8: byte 0"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """As a manifest, as the configuration, as the namespaces."""
    path = tmp_path / "file"
    make(path)
    for arguments in (
        (str(path),),
        (f"--config={path}", "examples/nginx/given.yaml"),
        (f"--namespace-file={path}", "examples/nginx/given.yaml"),
    ):
        code, out, err = ran("plan", *arguments)
        assert (code, out) == (2, "")
        assert f"{path}: {said}" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        f"scope: {'9' * 5000}",
        f"precheck: {{runAsUser: 0x{'f' * 5000}}}",
        f"defaults: {{min-ready: 0x{'f' * 5000}}}",
        f"defaults: {{min-ready: {'9' * 3000}}}",
        f"{'9' * 5000}: x",
        "mode: 2026-13-45",
        "mode: !!python/object:os.system x",
        "mode: &a [*a]",
        "kinds: [{? [a] : b}]",
        'mode: "\\e[2J##vso[x]\\n::error::"',
        "[" * 3000,
        "\x1b",
    ],
)
def test_no_configuration_ends_in_a_traceback(text: str, tmp_path: Path) -> None:
    """It is one line that says where, what it was and what is right."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    code, out, err = ran("plan", f"--config={path}", "x")
    assert (code, out) == (2, "")
    assert err.startswith("seamless plan: ")
    assert err.count("\n") == 1
    assert "unexpected" not in err
    assert len(err) < 1000
    assert_safe(err)


# --- what takes too much -------------------------------------------------------------------------


def _laughs() -> str:
    levels = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 99))
    return f"a0: &a0 [x]\n{levels}"


BOMBS = {
    "bytes": lambda: f"a: &a {'x' * 10**6}\nb: [{','.join(['*a'] * 2000)}]\n",
    "keys": lambda: f"a: &a {{{'x' * 10**6}: 1}}\nb: [{','.join(['*a'] * 2000)}]\n",
    "laughs": _laughs,
    "depth": lambda: (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000))
    ),
    "merges": lambda: (
        f"a: &a {{{','.join(f'k{n}: 1' for n in range(20000))}}}\n"
        + "".join(f"m{n}: {{<<: *a}}\n" for n in range(5000))
    ),
    "documents": lambda: "---\n" * 250_000,
    "JSON documents": lambda: "{}" * 250_000,
    "duplicate key": lambda: f'{{{",".join(f""""k{n}":1""" for n in range(45000))},"k44999":1}}',
    "deep JSON": lambda: '{"a":' * 100_000,
    "JSON as deep as its decoder goes": lambda: '{"a":' * 900 + "1" + "}" * 900,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_blow_up_is_refused_within_bounds(name: str, tmp_path: Path) -> None:
    """A megabyte takes neither gigabytes nor half a minute: told by what the process was given."""
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name]())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    ended = program("plan", str(path), preexec_fn=limit)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith(b"seamless plan: " + os.fsencode(path))
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda n: f'{{{",".join(f""""k{i}":1""" for i in range(n))},"k{n - 1}":1}}',
        lambda n: "".join(f"k{i}: 1\n" for i in range(n // 4)) + f"k{n // 4 - 1}: 1\n",
        lambda n: "".join(f"a{i}: &a{i} x\nb{i}: *a{i}\n" for i in range(n // 8)),
        lambda n: "--- a\n" * (n // 2),
        lambda n: '{"a": 1}\n' * (n // 2),
        lambda n: "a: 0" + "7" * (n * 10),
    ],
)
def test_twice_the_text_takes_about_twice_the_time(make: Callable[[int], str]) -> None:
    """Of what could be compared pairwise."""

    def seconds(number: int) -> float:
        text = make(number)
        began = time.process_time()
        with contextlib.suppress(ValueError):
            read(text, "x")
        return time.process_time() - began

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(2)) < 10 * small + 0.05


def test_a_manifest_that_no_api_server_takes_is_not_decided(tmp_path: Path) -> None:
    """Its body limit is 3 MiB."""
    given = deployment()
    given["metadata"]["annotations"] = {"x": "y" * (3 * 1024 * 1024)}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(given))
    code, _, err = ran("plan", str(path))
    assert code == 2
    assert "the API server takes 3 MiB" in err


def test_a_manifest_of_very_many_lines_is_not_compared_line_by_line(tmp_path: Path) -> None:
    """Lines that repeat would take for ever: its patch is shown."""
    given = deployment()
    given["spec"]["template"]["spec"]["containers"][0]["args"] = ["a", "b"] * 50_000
    path = tmp_path / "long.json"
    path.write_text(json.dumps(given))
    code, out, _ = ran("plan", str(path))
    assert code == 0
    assert "are not compared" in out
    assert '"path": "/spec/minReadySeconds"' in out


# --- aliases -------------------------------------------------------------------------------------


def test_what_an_alias_shares_is_patched_in_its_own_place(tmp_path: Path) -> None:
    """Two containers that share a mapping in YAML are two in the cluster."""
    path = tmp_path / "shared.yaml"
    path.write_text(
        """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {seamless-rollouts.dev/pre-stop-containers: a}}
spec:
  template:
    spec:
      containers:
      - name: a
        ports: [{containerPort: 80}]
        lifecycle: &hooks {postStart: {sleep: {seconds: 1}}}
      - {name: b, lifecycle: *hooks}
"""
    )
    _, out, _ = ran("plan", "-o", "yaml", str(path))
    (document,) = read(out, "x")
    first, second = document.content["spec"]["template"]["spec"]["containers"]
    assert "preStop" in first["lifecycle"]
    assert "preStop" not in second["lifecycle"]
