"""A pod without a readiness probe takes requests before it can answer them.

The probe goes to the container that declares its port, by number or by name, else to the first
one; a container that has a readiness probe keeps it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from webhook.decision.draft import KEEP, NOTHING, Draft, Field, Injection, identical
from webhook.decision.mutations.model import Mutation, Situation
from webhook.decision.outcomes import WarningCode
from webhook.decision.settings import InvalidSettingError, Setting
from webhook.decision.workload import containers, mapping, ports

_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc", "exec")
# What the API server fills in where the probe says nothing (pkg/apis/core/v1/defaults.go).
_FILLED_IN: Final = {
    "path": "/",
    "scheme": "HTTP",
    "service": "",
    "timeoutSeconds": 1,
    "periodSeconds": 10,
    "successThreshold": 1,
    "failureThreshold": 3,
    "initialDelaySeconds": 0,
}
# Only a person writes these; a field that we have never heard of may be a newer server's.
_WRITTEN: Final = {*_FILLED_IN, "terminationGracePeriodSeconds", "httpHeaders", "host"}


def _only_filled_in(current: dict[str, Any], ours: dict[str, Any]) -> bool:
    return all(
        (key in current and identical(current[key], value))
        or (isinstance(value, dict) and _same_handler(current.get(key), value))
        for key, value in ours.items()
    ) and all(
        key in ours or key not in _WRITTEN or identical(_FILLED_IN.get(key), value)
        for key, value in current.items()
    )


def _same_handler(current: Any, ours: dict[str, Any]) -> bool:
    return isinstance(current, dict) and _only_filled_in(current, ours)


def _release(current: Any, injection: Injection) -> Any:
    """Take our probe out with what the server filled in; a handler beside ours is the user's."""
    ours = injection.value
    if not isinstance(current, dict):
        return KEEP
    handler = next((key for key in ours if key in _HANDLERS), "")
    if any(key in current for key in _HANDLERS if key != handler):
        if _same_handler(current.get(handler), mapping(ours.get(handler))):
            return {key: value for key, value in current.items() if key != handler}
        return KEEP
    return injection.was if _only_filled_in(current, ours) else KEEP


def _plausible(value: Any, was: Any) -> bool:
    """A probe is only injected where there was none."""
    return isinstance(value, dict) and was in NOTHING


READINESS_PROBE: Final = Field(
    ("spec", "containers", "*", "readinessProbe"),
    "readiness-probe",
    release=_release,
    plausible=_plausible,
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A parsed probe: `http`, `tcp` or `grpc`, the port's number or name, and the path."""

    scheme: str
    port: int | str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://:{self.port}{self.path if self.scheme == 'http' else ''}"


_PROBE = re.compile(r"(http|tcp|grpc)://:([a-z0-9-]+)(/[\x21-\x7e]*)?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
_HIGHEST_PORT: Final = 65535


def parse_probe(text: str) -> Probe:
    """Parse `http://:8080/path`, `tcp://:5432` or `grpc://:9000`; the port may be a name."""
    found = _PROBE.fullmatch(text)
    if not found or (found[3] and found[1] != "http"):
        message = "expected http://:8080/path, tcp://:5432 or grpc://:9000"
        raise InvalidSettingError(message)
    scheme, port, path = found.groups()
    if port.isdecimal():
        if len(port) > len(str(_HIGHEST_PORT)) or not 1 <= int(port) <= _HIGHEST_PORT:
            message = f"expected a port from 1 to {_HIGHEST_PORT}"
            raise InvalidSettingError(message)
        return Probe(scheme, int(port), path or "/")
    if not _PORT_NAME.fullmatch(port):
        message = "expected a port's number or name (at most 15 of a-z, 0-9 and '-')"
        raise InvalidSettingError(message)
    return Probe(scheme, port, path or "/")


def apply(draft: Draft, situation: Situation) -> None:
    """Inject the probe."""
    probe = situation["readiness-probe"].value
    regular = containers(draft.root)
    if probe is None or not regular:
        return
    declared = [
        (container, port)
        for container in regular
        for port in ports(container)
        if probe.port in (port.get("containerPort"), port.get("name"))
    ]
    container, port = declared[0] if declared else (regular[0], {})
    if not declared:
        draft.alert(
            WarningCode.NO_SUCH_PORT, f"readiness-probe: no container declares port {probe.port}"
        )
        if isinstance(probe.port, str):
            return  # a probe of a port that is nowhere would never succeed
    if container.get("readinessProbe") is None:
        draft.inject(READINESS_PROBE, _probe(probe, port), name=container["name"])


def _probe(probe: Probe, declared: dict[str, Any]) -> dict[str, Any]:
    if probe.scheme == "http":
        return {"httpGet": {"path": probe.path, "port": probe.port}}
    if probe.scheme == "tcp":
        return {"tcpSocket": {"port": probe.port}}
    # The API takes a number alone for gRPC.
    number = declared.get("containerPort") if isinstance(probe.port, str) else probe.port
    return {"grpc": {"port": number}}


MUTATION: Final[Mutation] = Mutation(
    apply=apply,
    fields=(READINESS_PROBE,),
    settings=(
        Setting(
            "readiness-probe",
            parse_probe,
            off=None,
            default="none",
            takes="`http://:8080/path` `tcp://:5432` `grpc://:9000`",
            help="adds a readiness probe where the container has none",
            examples=("http://:web/health", "tcp://:5432", "grpc://:9000"),
            refused=("http://host:80", "tcp://:0"),
        ),
    ),
)
