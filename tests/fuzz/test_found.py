"""What fuzzing has found, in the least form that shows it; each holds from its mending on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.builders import (
    DEFAULT,
    Json,
    after,
    decide,
    deployment,
    review,
    rolling,
    with_settings,
    workload,
)
from tests.fuzz.oracles import check_line
from webhook import cli
from webhook.cli.manifests import ManifestError, read
from webhook.cluster.version import parse_version
from webhook.decision.configuration import ConfigurationError, parse


@pytest.mark.parametrize(
    "given",
    [
        deployment(minReadySeconds=-30),
        deployment(minReadySeconds=-7, progressDeadlineSeconds=44),
        *(
            deployment(says={"strategy": "surge"}, **rolling(maxUnavailable=value))
            for value in ("abc", -1, "-5%", "101%")
        ),
    ],
)
def test_what_is_invalid_stays_so_for_the_api_server_to_refuse(given: Json) -> None:
    """Else it would be stored with a record that nobody believes, and could not be given back."""
    result = after(given)
    assert not decide(result).operations
    assert not decide(result, result).operations
    left: Any = after(with_settings(result, inject="disabled"), result)
    assert left["spec"] == given["spec"]


def test_a_400_is_a_short_line() -> None:
    """However much of a stranger's text it would have to quote."""
    for kind in ("x" * 100_000, "\x1b[2J\n"):
        body = orjson.dumps({**review(deployment()), "kind": kind})
        found = DEFAULT.answer(body)
        assert found.status == 400
        check_line(found.body.decode(), 1000)


def test_a_configuration_that_is_nested_too_deeply_is_an_error_of_one_line() -> None:
    """Not a stack."""
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        parse("scope: " + "[" * 3000, "config.yaml")


@pytest.mark.parametrize("text", ['{"a": 1e999}', "a: 1e999", "a: -1e999"])
def test_a_number_that_json_cannot_hold_is_no_manifest(text: str) -> None:
    """It would be sent as null, and another object decided about than is printed."""
    with pytest.raises(ManifestError):
        read(text, "file")


def test_half_a_character_is_no_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON can write one; what cannot be written again must not be read."""
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "HALF"}}
    items = {"apiVersion": "v1", "kind": "List", "items": [deployment(), config_map]}
    path = tmp_path / "list.json"
    path.write_bytes(orjson.dumps(items).replace(b"HALF", b"\\ud800"))
    assert cli.main(["plan", "-o", "yaml", str(path)]) in {0, 2}
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_version_of_thousands_of_digits_is_none() -> None:
    """Whoever says so is no API server."""
    parse_version({"major": "1", "minor": "9" * 5000})


@pytest.mark.parametrize("name", ["precheck", "pre-stop-containers", "readiness-gates"])
@pytest.mark.parametrize("text", ["none\n", " none", "none,"])
def test_none_is_none_whatever_white_space_stands_beside_it(name: str, text: str) -> None:
    """As a block of YAML ends in a new line."""
    assert DEFAULT.table.parse(name, text) == DEFAULT.table[name].off


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, '{"a":' * 100_000, "a:\n" + " [" * 9999]
)
def test_a_manifest_that_is_nested_too_deeply_is_an_error_and_no_crash(text: str) -> None:
    """Libyaml's binding recurses in C, without a bound."""
    with pytest.raises(ManifestError, match="nested"):
        read(text, "file")


@pytest.mark.parametrize("key", ["maxSurge", "maxUnavailable"])
def test_a_bound_that_is_no_percentage_is_left_for_the_api_server_to_refuse(key: str) -> None:
    """It was taken for zero and replaced, by an injection that the next decision did not know."""
    bounds = {"maxUnavailable": 1, "maxSurge": 1, key: "0"}
    built = deployment(says={"strategy": "surge"}, **rolling(**bounds))
    result = after(built)
    assert result["spec"]["strategy"]["rollingUpdate"][key] == "0"
    assert after(result, result) == result


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
@pytest.mark.parametrize("key", ["maxSurge", "maxUnavailable"])
def test_a_bound_that_is_no_whole_number_is_left_for_the_api_server_to_refuse(
    kind: str, key: str
) -> None:
    """`0.0` was taken for zero, and recorded as what no record can have been."""
    bounds = {"maxUnavailable": 1, "maxSurge": 0, key: 0.0}
    built = workload(kind, says={"strategy": "surge"}, **rolling(kind, **bounds))
    result = after(built)
    assert not decide(result).operations
    assert not decide(result, result).operations
