"""`seamless prove`, as far as it goes without a node: what it refuses, asks, and never touches."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import deployment
from webhook.cli import prove
from webhook.cli.prove import main
from webhook.cluster.client import ApiError
from webhook.cluster.proof import Made, clean

Json = dict[str, Any]

_SERVICES = "/api/v1/namespaces/shop/services"
_WEB = "/apis/apps/v1/namespaces/shop/deployments/web"


class Api:
    """An API server that serves what is stored, and notes what is written."""

    def __init__(self, stored: dict[str, Json]) -> None:
        self.stored = stored
        self.written: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()

    def request(self, method: str, path: str, **_: Any) -> Json:
        """Answer, or refuse."""
        if method in self.forbidden:
            text = f'{method} {path}: 403: User "x" cannot {method.lower()} resource'
            raise ApiError(text, 403)
        if method != "GET":
            self.written.append((method, path))
        if path not in self.stored:
            message = f"{method} {path}: 404: not found"
            raise ApiError(message, 404)
        return copy.deepcopy(self.stored[path])

    def now(self) -> None:
        """Tell no time."""


def rolled_out() -> Json:
    """A Deployment whose rollout is over."""
    found = deployment(metadata={"name": "web", "namespace": "shop", "generation": 1})
    found["spec"] |= {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}
    found["status"] = {
        "observedGeneration": 1,
        "replicas": 2,
        "updatedReplicas": 2,
        "availableReplicas": 2,
    }
    return found


def service(*ports: Json, address: str = "10.0.0.7") -> Json:
    """A Service."""
    return {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": address, "selector": {"app": "web"}, "ports": list(ports)},
    }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A cluster with a Deployment and its Service."""
    found = Api({_WEB: rolled_out(), f"{_SERVICES}/web": service({"port": 80})})
    monkeypatch.setattr(prove, "reach", lambda _: found)
    yield found
    assert not [each for each in found.written if each[0] != "DELETE"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr."""
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "KIND/NAME is missing"),
        (["web"], "expected KIND/NAME"),
        (["pod/web"], "expected KIND/NAME"),
        (["deployment/"], "expected KIND/NAME"),
        (["deployment/web"], "expected --url or --service"),
        (["deployment/web", "--url", "http://x/", "--service", "web"], "not allowed with"),
        (["deployment/web", "--url", "ftp://x/"], "expected http:// or https://"),
        (["deployment/web", "--url", "http:///x"], "expected http:// or https://"),
        (["deployment/web", "--url", "http://me:pass@x/"], "no user"),
        (["deployment/web", "--url", "http://x/", "--rate", "0"], "expected above 0"),
        (["deployment/web", "--url", "http://x/", "--rate", "99999"], "at most 2000"),
        (["deployment/web", "--url", "http://x/", "--rate", "nan"], "expected above 0"),
        (["deployment/web", "--url", "http://x/", "--timeout", "0"], "at least a second"),
        (["deployment/web", "--url", "http://x/", "--warm", "soon"], "--warm: 'soon'"),
        (["deployment/web", "--url", "http://x/", "--header", "token"], "expected NAME: VALUE"),
        (["deployment/web", "--url", "http://x/", "--header", "a: b\nc: d"], "of one line"),
        (["deployment/web", "--url", "http://x/", "--compare"], "--compare needs --service"),
        (["deployment/web", "--url", "http://x/", "-A"], "-A goes with --clean"),
        (["deployment/web", "--url", "http://x/", "-n", "../x"], "expected a namespace's name"),
        (["deployment/web", "--url", "http://x/", "--body", "@/nowhere"], "/nowhere"),
        (["deployment/web", "--clean"], "--clean takes no workload"),
        (["deployment/web", "--speed", "1"], "unrecognized arguments"),
    ],
)
def test_wrong_use_is_a_line_and_status_two(
    api: Api, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    """And nothing is written, nor even read where that can be told before."""
    assert main(["-n", "shop", *arguments] if "-n" not in arguments else arguments) == 2
    assert text in said(capsys)
    assert not api.written


def test_what_stands_in_a_header_is_never_repeated(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a secret."""
    for header in ("secret-token", "secret token: x", "X: secret\nY: z"):
        arguments = ["deployment/web", "-n", "shop", "--url", "http://x/", "--header", header]
        assert main(arguments) == 2
        assert "secret" not in said(capsys)
    assert not api.written


def test_nothing_is_done_where_nobody_agrees(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it would do, and asks; without a terminal it does not ask."""
    arguments = ["deployment/web", "-n", "shop", "--service", "web"]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "restart every pod of Deployment shop/web (2 pods)" in told
    assert "make a pod that sends them" in told
    assert "nothing is done without --yes" in told
    for answer in ("\n", "n\n", "", "yess\n"):
        stdin = type("Stdin", (), {"isatty": lambda _: True, "readline": lambda _, a=answer: a})
        monkeypatch.setattr("sys.stdin", stdin())
        assert main(arguments) == 2
        assert "nothing was done" in capsys.readouterr().err
    assert not api.written


def test_compare_says_what_a_copy_does(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """It works as the workload does."""
    api.stored[_SERVICES] = {"items": [service({"port": 80})]}
    assert main(["deployment/web", "-n", "shop", "--service", "web", "--compare"]) == 2
    told = capsys.readouterr().err
    assert "make a copy, web-prove-copy" in told
    assert "taking jobs from a queue" in " ".join(told.split())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"spec": {"paused": True}}, "it is paused"),
        ({"status": {"updatedReplicas": 1}}, "rolling, or unhealthy"),
    ],
)
def test_a_workload_that_is_not_at_rest_is_not_rolled(
    api: Api, capsys: pytest.CaptureFixture[str], change: Json, text: str
) -> None:
    """What it lost would not be this rollout's."""
    for part, values in change.items():
        api.stored[_WEB][part] |= values
    assert main(["deployment/web", "-n", "shop", "--url", "http://x/", "--yes"]) == 2
    assert text in said(capsys)


def test_a_workload_that_is_not_there_is_wrong_use(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what the API server said."""
    del api.stored[_WEB]
    assert main(["deploy/web", "-n", "shop", "--url", "http://x/", "--yes"]) == 2
    assert "404" in said(capsys)


@pytest.mark.parametrize(
    ("given", "ports", "text"),
    [
        ("web", [{"port": 80}, {"port": 81}], "expected NAME:PORT with one of its ports: 80, 81"),
        ("web", [], "with one of its ports: none"),
        ("web:82", [{"port": 80}], "with one of its ports: 80"),
        ("web:", [{"port": 80}], "expected NAME or NAME:PORT"),
        ("We/b", [{"port": 80}], "expected NAME or NAME:PORT"),
    ],
)
def test_a_service_that_is_not_clear_is_refused(
    api: Api, capsys: pytest.CaptureFixture[str], given: str, ports: list[Json], text: str
) -> None:
    """Naming what there is."""
    api.stored[f"{_SERVICES}/web"] = service(*ports)
    assert main(["deployment/web", "-n", "shop", "--service", given, "--yes"]) == 2
    assert text in said(capsys)


@pytest.mark.parametrize(
    ("port", "address", "url", "headers"),
    [
        ({"port": 80}, "10.0.0.7", "http://10.0.0.7:80/x", {"Host": "web.shop.svc"}),
        ({"port": 80}, "fd00::7", "http://[fd00::7]:80/x", {"Host": "web.shop.svc"}),
        ({"port": 80}, "None", "http://web.shop.svc:80/x", {}),
        ({"port": 443}, "10.0.0.7", "https://web.shop.svc:443/x", {}),
        ({"port": 8443, "name": "https"}, "10.0.0.7", "https://web.shop.svc:8443/x", {}),
    ],
)
def test_a_service_is_reached_by_its_address_where_that_does(
    port: Json, address: str, url: str, headers: dict[str, str]
) -> None:
    """A name is asked for only where it must be: for certificates, and without an address."""
    options = prove._parser().parse_args(["deployment/web", "--service", "web", "--path", "/x"])
    found = prove._reached(options, {**service(port, address=address), "chosen": port})
    assert found == (url, headers)


def test_clean_removes_what_bears_the_label_and_no_more() -> None:
    """What has an owner goes with it."""
    label = {"app.kubernetes.io/managed-by": "seamless-prove"}

    def thing(name: str, **metadata: Any) -> Json:
        return {"metadata": {"name": name, "namespace": "shop", "labels": label, **metadata}}

    pods = "/api/v1/namespaces/shop/pods"
    api = Api(
        {
            pods: {"items": [thing("load"), thing("owned", ownerReferences=[{}])]},
            f"{pods}/load": {},
            "/apis/apps/v1/namespaces/shop/deployments": {"items": [thing("copy")]},
            "/apis/apps/v1/namespaces/shop/deployments/copy": {},
        }
    )
    removed = clean(api, "shop")  # type: ignore[arg-type]
    assert removed == ["deployments/copy in namespace shop", "pods/load in namespace shop"]
    assert [each[0] for each in api.written] == ["DELETE", "DELETE"]


def test_what_was_made_is_removed_the_last_first_and_failures_are_told() -> None:
    """An object whose creation was never answered is removed, too."""
    api = Api({"/a/one": {}, "/a": {}})
    made = Made(api, [])  # type: ignore[arg-type]
    for name in ("one", "two"):
        made.create("/a", {"metadata": {"name": name}})
    assert made.paths == ["/a/one", "/a/two"]
    assert made.remove() == []
    assert api.written[-2:] == [("DELETE", "/a/two"), ("DELETE", "/a/one")]
    made.paths.append("/a/one")
    api.forbidden = {"DELETE"}
    (failed,) = made.remove()
    assert "needs: delete" in failed


def test_a_report_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the report on the screen."""
    from tests.proof.test_report import verdict

    arguments = ["deployment/web", "--url", "http://x/", "-o", "json", "--report"]
    options = prove._parser().parse_args([*arguments, str(tmp_path / "report.html")])
    assert prove._report(options, [verdict()]) == 0
    assert json.loads(capsys.readouterr().out)["formatVersion"] == 1
    assert "<h1>" in (tmp_path / "report.html").read_text()
    options.report = str(tmp_path / "nowhere" / "report.html")
    with pytest.raises(prove.UsageError, match="No such file"):
        prove._report(options, [verdict()])
