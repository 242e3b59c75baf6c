"""The configuration file: one YAML mapping, whose unknown keys are errors."""

from __future__ import annotations

import hashlib
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
)
from pydantic.alias_generators import to_camel

from webhook import VERSION
from webhook.settings import is_label

SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
DEFAULT_IMAGE: Final = f"ghcr.io/seamless-rollouts/seamless-rollouts:{VERSION}"


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the text says where, what it was and what is right."""


def _as_text(value: Any) -> Any:
    """YAML reads `30` as a number; as a setting it is the text that an annotation would hold."""
    return str(value) if type(value) is int else value


def _namespace_name(value: str) -> str:
    if not is_label(value):
        message = "expected a namespace's name: lower-case letters, digits and '-'"
        raise ValueError(message)
    return value


KindName = Literal["Deployment", "StatefulSet", "DaemonSet", "Rollout"]


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


class Configuration(_Model):
    """Everything that the file may say; each key has the meaning that `docs/settings.md` tells."""

    scope: Literal["opt-in", "cluster"] = "opt-in"
    mode: Literal["patch", "audit"] = "patch"
    invalid_settings: Literal["deny", "warn"] = "deny"
    apply_defaults_to: Literal["serving", "all"] = "serving"
    kinds: tuple[KindName, ...] = ("Deployment", "StatefulSet", "DaemonSet", "Rollout")
    excluded_namespaces: tuple[Annotated[str, AfterValidator(_namespace_name)], ...] = ()
    defaults: dict[str, Annotated[str, BeforeValidator(_as_text)]] = Field(default_factory=dict)
    precheck: Precheck = Precheck()
    aws_readiness_gates: bool = False


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
    except RecursionError:
        message = f"{where}: nested too deeply"
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
        was = "" if first["type"] in ("extra_forbidden", "missing") else f": {first['input']!r}"
        known = ", ".join(to_camel(name) for name in Configuration.model_fields)
        hint = f"unknown key; known are {known}" if len(first["loc"]) == 1 else "unknown key"
        what = hint if first["type"] == "extra_forbidden" else first["msg"]
        message = f"{where}: {key}{was}: {what}"
        raise ConfigurationError(message) from None


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
