"""Renders the chart with real Helm, as a library; no helm binary and no cluster are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml
from helm_python import Chart, HelmError, _native

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "seamless-rollouts"
VALUES_FILES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES_VERSIONS: Final = ("1.28", "1.30", "1.33", "1.37")
NEWEST: Final = KUBERNETES_VERSIONS[-1]
NAME: Final = "seamless-rollouts"
NAMESPACE: Final = "seamless-system"

Manifest = dict[str, Any]


def read_values(path: Path) -> Manifest:
    """Read a values file."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def render_files(
    values: Manifest | None = None,
    *,
    kubernetes: str = NEWEST,
    name: str = NAME,
    namespace: str = NAMESPACE,
    strict: bool = True,
) -> dict[str, str]:
    """Render the chart: text by template.

    The library knows `kube_version` and `strict` (a key that is missing is an error, which it is
    not in an installation), while its Python wrapper hands on neither: hence the call below it.
    """
    options = {
        "name": name,
        "namespace": namespace,
        "kube_version": f"v{kubernetes}.0",
        "strict": strict,
    }
    with Chart.load(CHART) as chart:
        text = _native.call_string(
            "helm_render", chart._raw(), json.dumps(values or {}), json.dumps(options)
        )
    files: dict[str, str] = json.loads(text)
    return files


def render(values: Manifest | None = None, **options: Any) -> list[Manifest]:
    """Render the chart: its objects, those of `helm test` among them."""
    files = render_files(values, **options)
    return [
        document
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for document in yaml.load_all(text, _StrictLoader)
        if document
    ]


def refusal(values: Manifest) -> str:
    """Give Helm's message where it refuses values, empty where it takes them."""
    try:
        render_files(values, strict=False)
    except HelmError as error:
        return str(error)
    return ""


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Give the one object of a kind (and name)."""
    (found,) = of_kind(manifests, kind, name)
    return found


def of_kind(manifests: list[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    """Give all objects of a kind (and name)."""
    return [
        each
        for each in manifests
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]


def pod_specs(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Give the pod specs of all objects that have one, each with the object's name."""
    found = []
    for each in manifests:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            found.append((name, each["spec"]))
        elif each["kind"] == "CronJob":
            found.append((name, each["spec"]["jobTemplate"]["spec"]["template"]["spec"]))
        elif "template" in each.get("spec", {}):
            found.append((name, each["spec"]["template"]["spec"]))
    return found


class _StrictLoader(yaml.SafeLoader):
    """YAML in which no key may come twice: Helm lets that pass, Flux and kubectl do not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Refuse what PyYAML would silently overwrite."""
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"comes twice: {', '.join(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)
