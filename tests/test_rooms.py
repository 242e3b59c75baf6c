"""Walls are packages: each module lies in a room, and no new one is outside of the import rules."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path("webhook")
OUTSIDE = {"__init__", "__main__", "background"}
LINTER = Path(sys.executable).parent / "lint-imports"
CONTRACTS = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]

# What breaks each rule: where a module is added, and what it imports.
BREACHES = {
    "Only webhook.cluster talks to the Kubernetes API": [
        ("cli/made_up.py", "import kubernetes.client"),
        ("tls/made_up.py", "from kubernetes import config"),
        ("serving/made_up.py", "import kubernetes"),
    ],
    "What decides and what rolls is pure: no clock, environment, randomness, network or thread": [
        *(
            (f"decision/mutations/made_up_{name}.py", f"import {name}")
            for name in ("time", "os", "random", "socket", "ssl", "threading", "asyncio")
        ),
        *(
            (f"rollout/made_up_{name}.py", f"import {name}")
            for name in ("time", "fastapi", "starlette", "uvicorn", "kubernetes")
        ),
        ("rollout/made_up.py", "from webhook.background import Background"),
    ],
    "Layers: commands over cluster over serving over rollouts over decision over precheck": [
        ("tls/made_up_layer.py", "from webhook.cluster import client"),
    ],
    "Layers of the decision": [
        ("decision/mutations/made_up.py", "from webhook.decision import record"),
    ],
    "No mutation knows another: what one tells those after it is declared in the model": [
        (
            "decision/mutations/made_up_sibling.py",
            "from webhook.decision.mutations import min_ready",
        ),
    ],
    "The precheck needs nothing but the standard library": [
        ("precheck/made_up.py", "import orjson"),
    ],
    "What judges a proof is pure: it knows neither a clock, nor a network, nor a cluster": [
        ("proof/judging/made_up.py", "import aiohttp"),
        ("proof/judging/made_up_clock.py", "import time"),
    ],
    "What serves knows nothing of proofs and demonstrations, which start programs": [
        ("serving/made_up_proof.py", "from webhook.proof import load"),
    ],
}


def layers() -> set[str]:
    """Name the rooms that the layers order."""
    found = next(each for each in CONTRACTS if each["name"].startswith("Layers: "))
    return {name.strip() for layer in found["layers"] for name in layer.split("|")}


def modules() -> Iterator[Path]:
    """List the modules, by their path in the package."""
    return (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_each_module_lies_in_a_room_that_the_layers_know() -> None:
    """A module beside the rooms would be outside of every rule that names them."""
    rooms = {name.removeprefix("webhook.") for name in layers()}
    for path in modules():
        if len(path.parts) == 1:
            assert path.stem in OUTSIDE, f"{path}: expected it in one of {sorted(rooms)}"
        else:
            assert path.parts[0] in rooms, f"{path}: its room is in no layer"


def test_each_room_is_a_package() -> None:
    """The linter passes over a folder without `__init__.py`."""
    for path in modules():
        for folder in list(path.parents)[:-1]:
            assert (PACKAGE / folder / "__init__.py").is_file(), folder


def test_the_precheck_imports_the_standard_library_and_itself_alone() -> None:
    """Its image holds nothing else; the linter knows only the packages that it is told of."""
    for path in (PACKAGE / "precheck").rglob("*.py"):
        for name in imported(path):
            known = name.partition(".")[0] in sys.stdlib_module_names
            assert known or name.startswith("webhook.precheck"), f"{path}: {name}"


def test_the_demo_application_imports_the_standard_library_and_the_package_alone() -> None:
    """It runs in images that hold nothing else."""
    for name in imported(PACKAGE / "demo" / "app.py"):
        assert name == "webhook" or name.partition(".")[0] in sys.stdlib_module_names, name


def imported(path: Path) -> Iterator[str]:
    """Name the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give what the linter says of the project with all of `BREACHES` in it."""
    folder = tmp_path_factory.mktemp("breaches")
    shutil.copytree(PACKAGE, folder / "webhook", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pyproject.toml", folder)
    for breaches in BREACHES.values():
        for path, line in breaches:
            made_up = folder / "webhook" / path
            assert not made_up.exists(), path
            made_up.write_text(f"{line}\n", encoding="utf-8")
    ran = subprocess.run(
        [LINTER, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("rule", [each["name"] for each in CONTRACTS])
def test_a_new_module_is_inside_of_each_rule_the_day_it_is_made(rule: str, broken: str) -> None:
    """Rules name packages: a made-up module that breaks one is found, whatever its name."""
    assert f"{rule} BROKEN" in broken
    said = broken.partition("Broken contracts")[2].partition(f"\n{rule}\n")[2]
    said = re.split(r"\n\S[^\n]*\n-{3,}\n", said.partition("\n")[2])[0]
    for path, _ in BREACHES[rule]:
        module = "webhook." + path.removesuffix(".py").replace("/", ".")
        assert f"{module} " in said, f"{module} may break the rule: {said}"
