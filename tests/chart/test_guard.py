"""What a pod that was taken over may not do, where policies of the API server can say so."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml

from tests.chart.rendering import NAME, NAMESPACE, Manifest, of_kind, only, render
from tests.realapi import RealApi, find_programs
from webhook.cluster.client import Api, ApiError, connect

STATIC = Path("docs/webhook-configuration-policy.yaml")
POLICY = "ValidatingAdmissionPolicy"
ADMISSIONS = "/apis/admissionregistration.k8s.io/v1"
CONFIGURATIONS = f"{ADMISSIONS}/mutatingwebhookconfigurations"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
Change = Callable[[Manifest], object]


def allows(policy: Manifest, **given: Any) -> bool:
    """Tell whether a policy lets a request pass."""
    judge = lambda each: cel.compile(each["expression"]).execute(given)  # noqa: E731 - one line
    spec = policy["spec"]
    if not all(judge(each) for each in spec["matchConditions"]):
        return True
    return all(judge(each) for each in spec["validations"])


# --- the CA's Secret -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kubernetes", "there"),
    [
        ({}, "1.30", True),
        ({}, "1.29", False),
        ({"certificates": {"guard": False}}, "1.33", False),
        ({"certificates": {"mode": "cert-manager"}}, "1.33", False),
    ],
)
def test_the_guard_is_there_where_there_is_something_to_guard(
    values: Manifest, kubernetes: str, *, there: bool
) -> None:
    """From Kubernetes 1.30 on, while the pods may write a Secret."""
    manifests = render(values, kubernetes=kubernetes)
    assert len(of_kind(manifests, POLICY)) == there
    assert len(of_kind(manifests, f"{POLICY}Binding")) == there


@pytest.mark.parametrize(
    ("name", "type_", "user", "allowed"),
    [
        (f"{NAME}-ca", "kubernetes.io/tls", ACCOUNT, True),
        (f"{NAME}-ca", "Opaque", ACCOUNT, True),
        (f"{NAME}-ca", "kubernetes.io/service-account-token", ACCOUNT, False),
        (f"{NAME}-ca", "bootstrap.kubernetes.io/token", ACCOUNT, False),
        ("sh.helm.release.v1.seamless-rollouts.v9", "helm.sh/release.v1", ACCOUNT, False),
        ("other", "Opaque", ACCOUNT, False),
        ("other", "kubernetes.io/service-account-token", "admin", True),
    ],
)
def test_the_pods_write_the_secret_of_the_ca_and_no_other(
    name: str, type_: str, user: str, *, allowed: bool
) -> None:
    """Under its name, and of a type that Kubernetes puts nothing into."""
    policy = only(render(), POLICY)
    made = {"metadata": {"name": name}, "type": type_}
    given = {"object": made, "request": {"userInfo": {"username": user}, "operation": "CREATE"}}
    assert allows(policy, **given) == allowed


# --- the webhook's configuration -----------------------------------------------------------------


def static() -> Manifest:
    """Read the policy for the control plane's disk, for the release that the tests render."""
    text = STATIC.read_text(encoding="utf-8")
    text = text.replace("serviceaccount:seamless-rollouts:", f"serviceaccount:{NAMESPACE}:")
    found: Manifest = next(iter(yaml.safe_load_all(text)))
    return found


def configuration() -> Manifest:
    """Give the webhook's configuration, as it is stored."""
    made = only(render({"webhook": {"failurePolicy": "Fail"}}), "MutatingWebhookConfiguration")
    for each in made["webhooks"]:
        each["clientConfig"]["caBundle"] = "eA=="
    return made


def _everything(given: Manifest) -> None:
    given["webhooks"][0]["rules"] = [
        {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
    ]


def _set(key: str, value: Any) -> Change:
    return lambda given: given["webhooks"][0].update({key: value})


CHANGES: list[tuple[str, Change, bool]] = [
    ("bundle", lambda g: g["webhooks"][0]["clientConfig"].update(caBundle="eQ=="), True),
    ("no bundle", lambda g: g["webhooks"][1]["clientConfig"].pop("caBundle"), True),
    ("nothing", lambda _g: None, True),
    ("rules", _everything, False),
    ("namespaces", _set("namespaceSelector", {}), False),
    ("objects", _set("objectSelector", {"matchLabels": {"a": "b"}}), False),
    ("conditions", lambda g: g["webhooks"][0].pop("matchConditions"), False),
    ("policy", _set("failurePolicy", "Ignore"), False),
    ("effects", _set("sideEffects", "NoneOnDryRun"), False),
    ("patience", _set("timeoutSeconds", 30), False),
    ("again", _set("reinvocationPolicy", "Always"), False),
    ("match", _set("matchPolicy", "Exact"), False),
    ("name", _set("name", "other.seamless-rollouts.dev"), False),
    ("url", lambda g: g["webhooks"][0].update(clientConfig={"url": "https://x"}), False),
    (
        "service",
        lambda g: g["webhooks"][0]["clientConfig"]["service"].update(namespace="other"),
        False,
    ),
    ("one more", lambda g: g["webhooks"].append({**g["webhooks"][0], "name": "a.b.c"}), False),
    ("one less", lambda g: g["webhooks"].pop(), False),
    ("label", lambda g: g["metadata"]["labels"].update(a="b"), False),
    ("annotation", lambda g: g["metadata"].setdefault("annotations", {}).update(a="b"), False),
    ("finalizer", lambda g: g["metadata"].update(finalizers=["a.example/b"]), False),
]


def _review(change: Change, user: str = ACCOUNT, operation: str = "UPDATE") -> Manifest:
    old = configuration()
    new = copy.deepcopy(old)
    change(new)
    return {
        "object": new,
        "oldObject": old,
        "request": {"userInfo": {"username": user}, "operation": operation},
    }


@pytest.mark.parametrize(
    ("change", "allowed"), [each[1:] for each in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_the_static_policy_lets_the_pods_change_the_bundle_alone(
    change: Change, *, allowed: bool
) -> None:
    """Whatever else they would have, and whoever else is free to."""
    assert allows(static(), **_review(change)) == allowed
    assert allows(static(), **_review(change, user="admin"))


@pytest.mark.parametrize("operation", ["CREATE", "DELETE"])
def test_the_static_policy_lets_the_pods_make_and_delete_none(operation: str) -> None:
    """Their rights do not, either."""
    assert not allows(static(), **_review(lambda _g: None, operation=operation))


# --- a real API server ---------------------------------------------------------------------------

ADMISSION = """\
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: ValidatingAdmissionPolicy
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ValidatingAdmissionPolicyConfiguration
      staticManifestsDir: {folder}/static
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealApi]:
    """An API server that reads policies from its disk."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no API server to test with: no etcd and kube-apiserver in KUBEBUILDER_ASSETS")
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "static").mkdir()
    text = STATIC.read_text(encoding="utf-8")
    text = text.replace("serviceaccount:seamless-rollouts:", f"serviceaccount:{NAMESPACE}:")
    (folder / "static" / "policy.yaml").write_text(text, encoding="utf-8")
    (folder / "admission.yaml").write_text(ADMISSION.format(folder=folder), encoding="utf-8")
    gate = "--feature-gates=ManifestBasedAdmissionControlConfig=true"
    try:
        server = RealApi(
            folder, programs, [f"--admission-control-config-file={folder}/admission.yaml", gate]
        )
    except Exception as error:
        log = (folder / "kube-apiserver.log").read_text(encoding="utf-8", errors="replace")
        if "unrecognized feature gate" in log:
            pytest.skip("this API server is older than 1.36: it reads no policies from its disk")
        raise AssertionError(log[-2000:]) from error
    yield server
    server.stop()


def _as_pods(server: RealApi) -> Api:
    """Give a client that is the pods' service account."""
    found = connect(server.kubeconfig)
    assert found is not None
    found.set_default_header("Impersonate-User", ACCOUNT)
    return Api(found)


@pytest.mark.skipif(os.name != "posix", reason="the API server runs on Linux")
def test_a_real_api_server_lets_the_pods_do_no_more(guarded: RealApi) -> None:
    """With the chart's rights: the bundle and the Secret, and nothing beyond."""
    admin = Api(connect(guarded.kubeconfig))
    admin.request("POST", "/api/v1/namespaces", body={"metadata": {"name": NAMESPACE}})
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    paths = {
        "ClusterRole": f"{rbac}/clusterroles",
        "ClusterRoleBinding": f"{rbac}/clusterrolebindings",
        "Role": f"{rbac}/namespaces/{NAMESPACE}/roles",
        "RoleBinding": f"{rbac}/namespaces/{NAMESPACE}/rolebindings",
        "MutatingWebhookConfiguration": CONFIGURATIONS,
        POLICY: f"{ADMISSIONS}/validatingadmissionpolicies",
        f"{POLICY}Binding": f"{ADMISSIONS}/validatingadmissionpolicybindings",
    }
    for each in render():
        if each["kind"] in paths and "helm.sh/hook" not in each["metadata"].get("annotations", {}):
            admin.request("POST", paths[each["kind"]], body=each)
    pods = _as_pods(guarded)

    def patch(path: str, value: Any) -> None:
        body = [{"op": "add", "path": path, "value": value}]
        pods.request(
            "PATCH",
            f"{CONFIGURATIONS}/{NAME}",
            body=body,
            content_type="application/json-patch+json",
        )

    with pytest.raises(ApiError, match="may change the caBundle alone"):
        patch("/webhooks/0/timeoutSeconds", 7)
    with pytest.raises(ApiError, match="may not change its metadata"):
        patch("/metadata/annotations", {"a": "b"})
    patch("/webhooks/0/clientConfig/caBundle", "")

    def create(name: str, type_: str) -> None:
        note = {"kubernetes.io/service-account.name": "default"}
        metadata = {"name": name, "annotations": note}
        pods.request("POST", SECRETS, body={"metadata": metadata, "type": type_})

    _until_refused(lambda: create(f"{NAME}-ca", "kubernetes.io/service-account-token"))
    with pytest.raises(ApiError, match="and no other"):
        create("other", "Opaque")
    with contextlib.suppress(ApiError):  # from before the policy was in force
        admin.request("DELETE", f"{SECRETS}/{NAME}-ca")
    create(f"{NAME}-ca", "Opaque")


def _until_refused(step: Callable[[], None]) -> None:
    """A policy is in force a moment after it was made."""
    end = time.monotonic() + 30
    while True:
        try:
            step()
        except ApiError as error:
            if "expected a Secret of type" in str(error):
                return
            if error.status != 409:
                raise
        assert time.monotonic() < end
        time.sleep(0.2)
