"""The cluster of the end-to-end tests, and the release in it.

An API server is started from `KUBEBUILDER_ASSETS`; with `SEAMLESS_E2E_KUBECONFIG` another is used,
which must be one to throw away, and must reach this machine at `SEAMLESS_E2E_HOST` (127.0.0.1).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Shop
from tests.e2e.release import Release
from tests.realapi import RealApi, find_programs

_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{{level: Metadata, resources: [{{group: apps}}]}}]
"""
# A kubeconfig of this kind says which certificate the API server presents to which webhook.
_ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: MutatingAdmissionWebhook
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: WebhookAdmissionConfiguration
      kubeConfigFile: {folder}/callers.yaml
"""
_CALLERS = """
apiVersion: v1
kind: Config
users:
  - name: "*"
    user: {{client-certificate: {folder}/admin.crt, client-key: {folder}/admin.key}}
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server; skips where there is none, or nothing to talk to it with."""
    if shutil.which("kubectl") is None:
        pytest.skip("no end-to-end tests: there is no kubectl in the PATH")
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("no end-to-end tests: helm-python-sdk, which renders the chart, is missing")
    folder = tmp_path_factory.mktemp("e2e")
    given = os.environ.get("SEAMLESS_E2E_KUBECONFIG")
    if given:
        host = os.environ.get("SEAMLESS_E2E_HOST", "127.0.0.1")
        found = Cluster(Path(given), host, folder, None)
        yield found
        found.clean_up()
        return
    programs = find_programs()
    if programs is None:
        pytest.skip(
            "no end-to-end tests: no etcd and kube-apiserver in KUBEBUILDER_ASSETS, and no cluster "
            "in SEAMLESS_E2E_KUBECONFIG"
        )
    for name, text in (("policy", _POLICY), ("admission", _ADMISSION), ("callers", _CALLERS)):
        (folder / f"{name}.yaml").write_text(text.format(folder=folder), encoding="utf-8")
    server = RealApi(
        folder,
        programs,
        [
            f"--audit-policy-file={folder}/policy.yaml",
            f"--audit-log-path={folder}/audit.log",
            f"--admission-control-config-file={folder}/admission.yaml",
        ],
    )
    try:
        yield Cluster(server.kubeconfig, "127.0.0.1", folder, server)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Release]:
    """The one release, in whatever state the last test has left it."""
    release = Release(cluster)
    try:
        yield release
        release.stop()
        if cluster.server is None:
            release.uninstall()
    finally:
        release.kill()


@pytest.fixture
def release(installed: Release) -> Release:
    """The release with the default values and one pod, serving."""
    installed.ensure()
    return installed


@pytest.fixture
def fresh(installed: Release) -> Iterator[Release]:
    """The release for a test that spoils what upgrades would meet: afterwards it is uninstalled."""
    yield installed
    installed.stop()
    installed.uninstall()


@pytest.fixture
def shop(release: Release) -> Shop:
    """A new namespace in scope."""
    return release.cluster.shop()


@pytest.fixture(scope="session")
def rollouts(cluster: Cluster) -> None:
    """The kind that Argo Rollouts adds, as far as an API server needs to know it."""
    kind = {"kind": "Rollout", "plural": "rollouts", "singular": "rollout"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": anything},
        "subresources": {"status": {}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "rollouts.argoproj.io"},
        "spec": {
            "group": "argoproj.io",
            "names": kind,
            "scope": "Namespaced",
            "versions": [version],
        },
    }
    cluster.kubectl("apply", "--server-side", "-f", "-", given=definition)
    cluster.kubectl("wait", "--for=condition=Established", "crd/rollouts.argoproj.io")
