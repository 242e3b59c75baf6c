"""The configuration file: one YAML mapping, whose unknown keys are errors."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import orjson
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from webhook import VERSION
from webhook.decision.exclusions import WorkloadPattern, matches
from webhook.decision.workload import KINDS

SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
_MOST_SHOWN: Final = 200  # characters of a value
DEFAULT_IMAGE: Final = f"ghcr.io/seamless-rollouts/seamless-rollouts:{VERSION}"


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the text says where, what it was and what is right."""


def _as_text(value: Any) -> Any:
    """YAML reads `30` as a number; as a setting it is the text that an annotation would hold."""
    return str(value) if type(value) is int else value


def _namespace_name(value: str) -> str:
    if not _NAMESPACE.fullmatch(value):
        message = "expected a namespace's name: lower-case letters, digits and '-'; or '*' for any"
        raise ValueError(message)
    return value


_NAMESPACE: Final = re.compile(r"[a-z0-9*]([-a-z0-9*]{0,61}[a-z0-9*])?")
_NAME: Final = re.compile(r"[-a-z0-9.*]{1,253}")
_GROUP: Final = re.compile(r"[-a-z0-9.*]{0,253}")
_KIND: Final = re.compile(r"[A-Za-z0-9*]{1,63}")
_LABEL: Final = r"[A-Za-z0-9*]([-A-Za-z0-9_.*]{0,61}[A-Za-z0-9*])?"
_LABEL_KEY: Final = re.compile(r"([a-z0-9*]([-a-z0-9.*]{0,251}[a-z0-9*])?/)?" + _LABEL)
_LABEL_VALUE: Final = re.compile(f"({_LABEL})?")


def _pattern(allowed: re.Pattern[str], expected: str) -> AfterValidator:
    """Make a check of a pattern, which has the characters of what it is to take, and `*`."""

    def check(value: str) -> str:
        if not allowed.fullmatch(value):
            message = f"expected {expected}; '*' stands for any characters"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _workload_kind(value: str) -> str:
    if not (_KIND.fullmatch(value) and any(matches(value, kind) for kind in KINDS)):
        message = f"expected one of {', '.join(KINDS)}, or a pattern that takes one"
        raise ValueError(message)
    return value


def _owner(value: str) -> str:
    group, slash, kind = value.partition("/")
    if not (slash and _GROUP.fullmatch(group) and _KIND.fullmatch(kind)):
        message = (
            "expected GROUP/KIND, such as postgresql.cnpg.io/Cluster; or '*' for any characters"
        )
        raise ValueError(message)
    return value


_Name = Annotated[str, _pattern(_NAME, "a name: lower-case letters, digits, '-' and '.'")]
_LabelKey = Annotated[str, _pattern(_LABEL_KEY, "a label's key, such as app.kubernetes.io/name")]
_LabelValue = Annotated[
    str,
    BeforeValidator(_as_text),
    _pattern(_LABEL_VALUE, "a label's value: letters, digits, '-', '_' and '.'"),
]


KindName = Literal["Deployment", "StatefulSet", "DaemonSet", "Rollout"]
Settings = dict[str, Annotated[str, BeforeValidator(_as_text)]]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class ResourceRequirements(_Model):
    """The requests and limits of the precheck container; the built-in ones where empty."""

    requests: dict[str, Annotated[str, BeforeValidator(_as_text)]] | None = None
    limits: dict[str, Annotated[str, BeforeValidator(_as_text)]] | None = None


class Precheck(_Model):
    """What the precheck init container runs as."""

    image: str = Field(default=DEFAULT_IMAGE, min_length=1, pattern=r"^\S+$")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    run_as_user: int | None = Field(default=65532, gt=0, lt=2**31)
    resources: ResourceRequirements = ResourceRequirements()


class Exclusion(_Model):
    """Workloads that are never touched: each key is a pattern, and all that are there must hold."""

    namespace: Annotated[str, AfterValidator(_namespace_name)] | None = None
    kind: Annotated[str, AfterValidator(_workload_kind)] | None = None
    name: _Name | None = None
    owner: Annotated[str, AfterValidator(_owner)] | None = None
    labels: dict[_LabelKey, _LabelValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> Exclusion:
        if self.pattern == WorkloadPattern():
            message = f"an empty item would exclude everything: expected {_keys(Exclusion)}"
            raise ValueError(message)
        return self

    @property
    def pattern(self) -> WorkloadPattern:
        """What it takes."""
        group, _, kind = (self.owner or "").partition("/")
        return WorkloadPattern(
            self.namespace,
            self.kind,
            self.name,
            None if self.owner is None else (group, kind),
            tuple(self.labels.items()),
        )


class Configuration(_Model):
    """Everything that the file may say; each key has the meaning that `docs/settings.md` tells."""

    scope: Literal["opt-in", "cluster"] = "opt-in"
    mode: Literal["patch", "audit"] = "patch"
    invalid_settings: Literal["deny", "warn"] = "deny"
    apply_defaults_to: Literal["serving", "all"] = "serving"
    kinds: tuple[KindName, ...] = ("Deployment", "StatefulSet", "DaemonSet", "Rollout")
    excluded_namespaces: tuple[Annotated[str, AfterValidator(_namespace_name)], ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    defaults: Settings = Field(default_factory=dict)
    kind_defaults: dict[KindName, Settings] = Field(default_factory=dict)
    precheck: Precheck = Precheck()
    aws_readiness_gates: bool = False


def _keys(model: type[_Model]) -> str:
    return ", ".join(to_camel(name) for name in model.model_fields)


def parse(text: str, where: str) -> Configuration:
    """Read a configuration from YAML.

    Raises:
        ConfigurationError: naming `where`, the key, what it was and what is expected.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"{where}: not YAML: {' '.join(str(error).split())}"
        raise ConfigurationError(message) from None
    except (RecursionError, ValueError) as error:  # a number of too many digits, no such day
        why = "nested too deeply" if isinstance(error, RecursionError) else f"not YAML: {error}"
        message = f"{where}: {why}"
        raise ConfigurationError(message) from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        message = f"{where}: expected a mapping of keys such as scope and defaults"
        raise ConfigurationError(message)
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        was = (
            "" if first["type"] in ("extra_forbidden", "missing") else f": {_shown(first['input'])}"
        )
        hint = "unknown key"
        if len(first["loc"]) == 1 or first["loc"][0] == "exclude":
            model = Configuration if len(first["loc"]) == 1 else Exclusion
            hint += f"; known are {_keys(model)}"
        what = hint if first["type"] == "extra_forbidden" else first["msg"]
        message = f"{where}: {key}{was}: {what}"
        raise ConfigurationError(message) from None


def _shown(value: Any) -> str:
    """Show a value in a message, as far as it helps to see it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def load(path: Path) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigurationError: it cannot be read, or used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"{path}: {reason}"
        raise ConfigurationError(message) from None
    return parse(text, str(path))


def digest(configuration: Configuration) -> str:
    """Name a configuration by 16 hexadecimal digits: the same for all that mean the same."""
    content = configuration.model_dump(mode="json", by_alias=True)
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


DECIDED_BY: Final = "decided by configuration "


def decided_by(name: str) -> str:
    """Say by which configuration (its `digest`), and which version, something is decided.

    The webhook answers it to a dry run of `seamless backfill`, which compares it with its own.
    """
    return f"{DECIDED_BY}{name} of version {VERSION}"
