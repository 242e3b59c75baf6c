"""The protections that docs/security.md names and that no other test holds; and its references."""

from __future__ import annotations

import ast
import gzip
import json
import re
import socket
import ssl
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from scripts import audit
from tests.builders import DEFAULT, Json, answer, deployment, response, review, settings
from tests.chart.rendering import render
from tests.cluster.fake_api import FakeApi
from tests.servers import REVIEW, Server, trusting
from webhook.cli import manifests
from webhook.cli.manifests import ManifestError
from webhook.cluster.client import ApiError
from webhook.cluster.namespaces import NamespaceWatch
from webhook.serving.metrics import Metrics

PAGE = Path("docs/security.md")
REFERENCE = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


# --- the page ------------------------------------------------------------------------------------


@lru_cache
def found_in(path: str) -> frozenset[str]:
    """Name the tests of a file."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))


def test_every_test_that_the_page_names_exists() -> None:
    """A protection whose test was renamed away is held by nobody."""
    references = REFERENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(references) > 40
    assert [each for each in references if each[1] not in found_in(each[0])] == []


def test_every_protection_in_the_page_has_its_test() -> None:
    """Each row of what stops a threat ends with one."""
    text = PAGE.read_text(encoding="utf-8").partition("## Fuzzing")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    protections = [row for row in rows if not row.startswith("| what stops it")]
    assert len(protections) > 50
    for row in protections:
        assert REFERENCE.fullmatch(row.rstrip(" |").rpartition("| ")[2]), row


# --- the port ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One `seamless serve` for all of these."""
    running = Server()
    yield running
    running.close()


def raw(server: Server, sent: bytes) -> bytes:
    """Send bytes over TLS and give everything that comes back until nothing more does."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        trusting().wrap_socket(plain) as connection,
    ):
        connection.sendall(sent)
        found = b""
        connection.settimeout(2)
        try:
            while piece := connection.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError, ssl.SSLError):
            pass
        return found


def request(*headers: str, body: bytes = REVIEW, line: str = "POST /mutate HTTP/1.1") -> bytes:
    """Write a request by hand, that closes its connection."""
    lines = [line, "Host: a", "Content-Type: application/json", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def statuses(found: bytes) -> list[int]:
    """List the status of each answer in what came back."""
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]


HIDDEN = request("Content-Length: 3", body=b"xxx", line="GET /hidden HTTP/1.1")


@pytest.mark.parametrize(
    "sent",
    [
        request("Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
        request("Transfer-Encoding: chunked", "Content-Length: 4", body=b"0\r\n\r\n" + HIDDEN),
        request("Content-Length: 3", "Content-Length: 500", body=b"{}\n" + HIDDEN),
        request("Content-Length: +3", body=b"{}\n" + HIDDEN),
        request("Content-Length: 3,3", body=b"{}\n" + HIDDEN),
        request("Content-Length : 3", body=b"{}\n" + HIDDEN),
        request("Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
        request("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + HIDDEN),
        request("Transfer-Encoding: chunked", body=b"-1\r\n" + HIDDEN),
        request("Transfer-Encoding: chunked", body=b"0x3\r\n{}\n\r\n0\r\n\r\n" + HIDDEN),
        request("X: a\nContent-Length: 3", body=b"{}\n" + HIDDEN),
        b"\x00" * 100,
        b"\x16\x03\x01" * 100,
        b"POST /mutate HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_no_request_hides_in_another(server: Server, sent: bytes) -> None:
    """What two parsers could read in two ways is answered once at most, and the connection ends."""
    found = statuses(raw(server, sent))
    assert len(found) <= 1
    assert 200 not in found
    assert 404 not in found, "the hidden request was answered"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity"])
def test_nothing_is_decompressed(server: Server, encoding: str) -> None:
    """A small body stays a small one."""
    packed = gzip.compress(REVIEW)
    length = f"Content-Length: {len(packed)}"
    found = raw(server, request(length, f"Content-Encoding: {encoding}", body=packed))
    assert statuses(found) == [400]


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/readyz",
        "/mutate/",
        "//mutate",
        "/./mutate",
        "/x/../mutate",
        "/mutate;x",
        "/mutate%00",
        "/mutate%2f",
        "/MUTATE",
        "*",
        "http://elsewhere/",
    ],
)
def test_the_tls_port_has_one_path(server: Server, path: str) -> None:
    """And no page about itself, and leads nobody elsewhere."""
    for method in ("GET", "POST"):
        found = raw(
            server, request("Content-Length: 0", body=b"", line=f"{method} {path} HTTP/1.1")
        )
        assert statuses(found) in ([400], [404], [405])
        assert b"location:" not in found.lower()


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/mutate", "/", "/livez/x"])
def test_the_health_port_has_three_paths(server: Server, path: str) -> None:
    """Reviews are answered over TLS alone."""
    assert server.health(path)[0] == 404


def test_answers_do_not_say_what_software_gives_them(server: Server) -> None:
    """Neither its name nor its version."""
    found = raw(server, request(f"Content-Length: {len(REVIEW)}"))
    head = found.partition(b"\r\n\r\n")[0].lower()
    assert statuses(found) == [200]
    assert sorted(re.findall(rb"\n([a-z-]+):", head)) == [
        b"connection",
        b"content-length",
        b"content-type",
    ]


@pytest.mark.parametrize(
    "ciphers", ["kRSA", "AES128-GCM-SHA256", "3DES:@SECLEVEL=0", "aNULL:@SECLEVEL=0"]
)
def test_a_cipher_without_forward_secrecy_or_of_old_is_refused(
    server: Server, ciphers: str
) -> None:
    """So that what was recorded stays closed when the key is stolen later."""
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        pytest.skip("this OpenSSL no longer has it, so the server has not either")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain)


def test_tls_1_1_is_refused_by_the_command_as_it_runs(server: Server) -> None:
    """On a real socket."""
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain)


def test_plain_http_on_the_tls_port_gets_no_answer(server: Server) -> None:
    """A review is never taken without TLS."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(request(f"Content-Length: {len(REVIEW)}"))
        found = b""
        try:
            while piece := plain.recv(65536):
                found += piece
        except ConnectionResetError:
            pass
    assert b"HTTP/" not in found


# --- what strangers choose -----------------------------------------------------------------------


def test_strangers_make_no_label_of_a_metric() -> None:
    """However many names they think of, there are no more time series than before."""
    metrics = Metrics()

    def count(number: int) -> None:
        name = f"x{number}"
        for given, more in (
            (deployment(says={name: "1", "min-ready": name}), {}),
            (deployment(template_says={"precheck": f"{name}:1"}), {"operation": name}),
            (deployment(), {"kind": {"group": name, "version": name, "kind": name}}),
            (deployment(), {"namespace": name, "name": name, "subResource": name}),
        ):
            metrics.count(answer(given, **more), 0.001)
        metrics.count(DEFAULT.answer(name.encode()), 0.001)

    def series() -> int:
        lines = metrics.text().splitlines()
        assert b"x7" not in metrics.text()
        return sum(not line.startswith((b"#", b"process_")) for line in lines)

    count(7)
    before = series()
    for number in range(100):
        count(number)
    assert series() == before


def test_a_target_is_never_looked_up_by_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes a target makes their own pod ask for it, from where that pod is."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the decision reached for the network")

    for name in ("getaddrinfo", "create_connection", "gethostbyname", "socket"):
        monkeypatch.setattr(socket, name, refuse)
    given = deployment(says={"precheck": "169.254.169.254:80 http://metadata.internal/ db"})
    assert "precheck" in response(given)["auditAnnotations"]["applied"]


def test_a_precheck_container_mounts_nothing_and_asks_for_nothing() -> None:
    """It has what any pod of that author has, and less."""
    decided = answer(deployment(says={"precheck": "db:5432"})).decision
    assert decided is not None
    assert decided.result is not None
    (injected,) = decided.result["spec"]["template"]["spec"]["initContainers"]
    assert not {"volumeMounts", "env", "envFrom", "ports", "volumeDevices", "tty"} & set(injected)
    security = injected["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["runAsNonRoot"] is True
    assert "privileged" not in security


@pytest.mark.parametrize(
    "says",
    [
        {"precheck": "http://user:s3cret@db/?token=s3cret 5"},
        {"precheck": "http://user:s3cret@web.shop/?token=s3cret"},
        {"precheck-require": "http://user:s3cret@db"},
    ],
)
def test_a_password_in_a_target_is_in_no_message(says: dict[str, str]) -> None:
    """Neither in a refusal nor in a warning: those go to terminals and to audit logs."""
    found = response(deployment(says=says))
    found.pop("patch", None)
    assert b"s3cret" not in orjson.dumps(found)


def test_environment_and_secrets_of_a_workload_are_in_no_answer_but_its_patch() -> None:
    """A message names fields and settings, not what else the object holds."""
    given = deployment(
        metadata={"annotations": {"note": "s3cret", **settings({"min-ready": "x"})}},
        pod={"nodeSelector": {"s3cret": "s3cret"}},
    )
    found = answer(given, kind={"group": "apps", "version": "v1", "kind": "Deployment"})
    assert b"s3cret" not in found.body


def test_who_asks_does_not_sway_the_decision() -> None:
    """So nobody gains by pretending to be somebody, but for the two managers of §4."""
    users: tuple[Json, ...] = (
        {"username": "system:admin", "groups": ["system:masters"]},
        {"username": ""},
        {},
    )
    bodies = [
        DEFAULT.answer(orjson.dumps(review(deployment(), userInfo=each))).body for each in users
    ]
    assert len(set(bodies)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
        "a: &a [*a]\n",
        "a: &a {b: {c: *a}}\n",
    ],
)
def test_aliases_that_stand_for_millions_are_refused(text: str) -> None:
    """A few lines must not become gigabytes, nor something without an end."""
    with pytest.raises(ManifestError, match="alias"):
        manifests.read(text, "file")


@pytest.mark.parametrize(
    "name", [".", "..", "../pods", "a/b", "a?watch=1", "a%2f..", "A", "a" * 64, "a\nb", "\xfc", " "]
)
def test_a_name_that_no_namespace_has_is_never_asked_for(name: str) -> None:
    """In a path it could lead elsewhere, and an error holds up the next question."""
    fake = FakeApi()
    try:
        watch = NamespaceWatch(fake.api(), DEFAULT.table.namespace)
        assert watch.fetch(name, 1.0) is None
        assert not fake.requests
        fake.namespace("shop")
        assert watch.fetch("shop", 5.0) is not None
    finally:
        fake.close()


@pytest.mark.parametrize("name", [".", ".."])
def test_no_request_to_the_api_server_is_led_elsewhere(name: str) -> None:
    """Names come from reviews, and dots are not escaped in a URL."""
    fake = FakeApi()
    try:
        with pytest.raises(ApiError, match="nothing of such a name"):
            fake.api().request("GET", f"/apis/apps/v1/namespaces/{name}/deployments/web")
        assert not fake.requests
    finally:
        fake.close()


# --- the cluster ---------------------------------------------------------------------------------


def test_the_network_policy_opens_two_ports_and_lets_out_to_the_api_server_and_dns() -> None:
    """A pod that was taken over can scan little."""
    (policy,) = (each for each in render() if each["kind"] == "NetworkPolicy")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
    assert ports == ["https", "health"]
    out = {(port["port"], port["protocol"]) for rule in spec["egress"] for port in rule["ports"]}
    assert out == {*((port, "TCP") for port in (443, 6443, 8443, 16443, 53)), (53, "UDP")}


def test_by_default_no_role_reads_a_workload_or_a_pod() -> None:
    """A pod that was taken over reads namespaces, its own configuration and its own CA."""
    rules = [rule for each in render() for rule in each.get("rules", ()) if "Role" in each["kind"]]
    read = {resource for rule in rules for resource in rule["resources"]}
    hooks = {each["metadata"].get("annotations", {}).get("helm.sh/hook") for each in render()}
    assert hooks <= {None, "test"}
    served = [
        rule
        for each in render()
        if "Role" in each["kind"] and not each["metadata"].get("annotations")
        for rule in each.get("rules", ())
    ]
    assert read >= {"namespaces"}
    assert {resource for rule in served for resource in rule["resources"]} == {
        "namespaces",
        "nodes",
        "customresourcedefinitions",
        "configmaps",  # its own configuration, by name
        "mutatingwebhookconfigurations",
        "secrets",
    }


# --- what it is made of --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(Path("requirements").glob("*.txt")), ids=lambda path: path.name
)
def test_every_requirement_is_pinned_to_its_hashes(path: Path) -> None:
    """A registry cannot give another package under the same name and version."""
    entries = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_base_images_are_pinned_and_only_wheels_are_installed() -> None:
    """By digest and by hash; no build script of a library ever runs."""
    text = Path("Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    names = {name for _, name in stages}
    bases = [base for base, _ in stages if base not in names]
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)
    installs = re.findall(r"pip install.*", text)
    assert installs
    for install in installs:
        for option in ("--require-hashes", "--no-deps", "--only-binary=:all:"):
            assert option in install
    last = text[text.rindex("FROM ") :]
    assert re.search(r"^USER 65532:65532$", last, re.MULTILINE)
    assert not re.search(r"^(RUN|ADD)\b", last, re.MULTILINE)
    assert "distroless" in bases[-1]


def test_actions_are_pinned_and_may_only_read() -> None:
    """A tag can be moved; a token that may write can be abused."""
    paths = sorted(Path(".github/workflows").glob("*.yml"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for used in re.findall(r"uses: *(\S+)", text):
            assert re.search(r"@[0-9a-f]{40}$", used), used
        content: Json = yaml.safe_load(text)
        assert content["permissions"] == {"contents": "read"}


FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle",
    "marshal",
    "shelve",
    "subprocess",
    "unsafe_load",
    "full_load",
}


# They start this very program, by an argument list, on the machine of whoever calls them.
STARTS_ITSELF = {"webhook/proof/sender.py", "webhook/demo/stage.py"}
STARTERS = {"system", "Popen", "create_subprocess_exec", "create_subprocess_shell", "popen"}


def test_nothing_that_is_sent_can_become_code() -> None:
    """No evaluation, no pickles, no unsafe YAML, no programs started by what serves."""
    for path in sorted(Path("webhook").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id]
            elif isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr in {"unsafe_load", "full_load"} | STARTERS else []
            elif isinstance(node, ast.Import):
                names = [each.name.partition(".")[0] for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            forbidden = FORBIDDEN | STARTERS
            if path.as_posix() in STARTS_ITSELF:
                forbidden -= {"subprocess", "Popen", "create_subprocess_exec"}
            assert not forbidden & set(names), f"{path}: {names}"


KNOWN = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
GOOD = {"name": "b", "version": "1", "vulns": []}
PASSED_OVER = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "status", "strictly", "said"),
    [
        ([GOOD], 0, 0, "1 of 1 packages audited: no vulnerability is known"),
        ([KNOWN, GOOD], 1, 1, "a 1: CVE-1, mended in 2"),
        ([GOOD, PASSED_OVER], 0, 1, "not answered for: c"),
        ([PASSED_OVER], 0, 1, "not audited: the service knows none of the 1 packages"),
        (None, 0, 1, "not audited: no vulnerability service in reach"),
    ],
)
def test_an_audit_that_nobody_answered_is_no_audit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dependencies: list[Json] | None,
    status: int,
    strictly: int,
    said: str,
) -> None:
    """What pip-audit passes over in silence is told, and fails where an answer is a must."""
    program = tmp_path / "pip-audit"
    answered = "Traceback" if dependencies is None else json.dumps({"dependencies": dependencies})
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answered}\nEND\n", encoding="utf-8")
    program.chmod(0o700)
    assert audit.main([str(program)]) == status
    assert said in capsys.readouterr().out
    assert audit.main([str(program), "--must-answer"]) == strictly


def test_an_audit_asks_about_every_lock_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is added tomorrow, too; and a folder without any is no success."""
    program = tmp_path / "pip-audit"
    content = json.dumps({"dependencies": [KNOWN]})
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{content}\nEND\n", encoding="utf-8")
    program.chmod(0o700)
    assert audit.main([str(program)]) == 1
    told = capsys.readouterr().out
    locks = sorted(Path("requirements").glob("*.txt"))
    assert len(locks) > 5
    assert all(f"{path.resolve()}: a 1: CVE-1" in told for path in locks)
    monkeypatch.setattr(audit, "LOCKS", tmp_path)
    assert audit.main([str(program)]) == 2
    (tmp_path / "new.txt").touch()
    assert audit.main([str(program)]) == 1
    assert audit.main([str(tmp_path / "none"), "--must-answer"]) == 1
    assert "No such file" in capsys.readouterr().err
