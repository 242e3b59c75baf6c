"""Generated workloads: odd, but of the shape that an API server or a file may hold.

Values are drawn so that what a user writes is never by chance what the settings would write: a
recorded value that the user's manifest has come to say counts as ours, by contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from tests.builders import API_VERSIONS, KINDS, NAMESPACE, PREFIX, STRATEGY_KEY, Json
from webhook.decision.mutations import MUTATIONS

NAMES: Final = ("app", "web-1", "db", "a", "x" * 63)
TEXTS: Final = st.one_of(
    st.sampled_from(["", "%s", "%d%%", "{0}", "ü", "🙂", "\u2028", "a\tb", "~0/~1", "$(HOME)"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
ODD_KEYS: Final = st.sampled_from(["newField", "x-odd", "a/b", "c~d", "ü", "0", "-", "~1"])
VALUES: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(-10, 10), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(ODD_KEYS, inner, max_size=2)
    ),
    max_leaves=4,
)
"""Any JSON."""


def optional(fields: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Json]:
    """Draw a mapping of which each key may be missing, and may be null."""
    return st.fixed_dictionaries(
        {}, optional={key: st.one_of(value, st.none()) for key, value in fields.items()}
    )


@st.composite
def with_unknown(draw: st.DrawFn, inner: st.SearchStrategy[Json]) -> Json:
    """Add fields that nobody has ever heard of, sometimes."""
    drawn = draw(inner)
    if draw(st.integers(0, 5)) == 0:
        drawn = {**drawn, **draw(st.dictionaries(ODD_KEYS, VALUES, min_size=1, max_size=2))}
    return drawn


SLEEPS: Final = st.sampled_from(
    [
        ["sleep", "3"],
        ["/bin/sleep", "0.5", "1m"],
        ["sh", "-c", "sleep 17"],
        ["/bin/bash", "-c", " sleep 2h\n"],
        ["sleep", "0"],
        ["sleep", "infinity"],
    ]
)
COMMANDS: Final = st.one_of(
    st.lists(st.one_of(st.sampled_from(["sh", "-c", "sleep 5"]), TEXTS), min_size=1), SLEEPS
)
HOOKS: Final = st.one_of(
    st.fixed_dictionaries({"exec": st.fixed_dictionaries({"command": COMMANDS})}),
    st.just({"httpGet": {"path": "/drain", "port": 8080, "scheme": "HTTP"}}),
    st.just({"httpGet": {"port": "web", "httpHeaders": [{"name": "a", "value": "b"}]}}),
    st.just({"tcpSocket": {"port": 1}}),
    st.fixed_dictionaries(
        {"sleep": st.fixed_dictionaries({"seconds": st.sampled_from([0, 1, 3, 17, 29])})}
    ),
)
LIFECYCLES: Final = with_unknown(
    optional(
        {
            "preStop": HOOKS,
            "postStart": st.just({"exec": {"command": ["true"]}}),
            "stopSignal": st.just("SIGUSR1"),
        }
    )
)
PROBES: Final = st.one_of(
    st.just({"exec": {"command": ["true"]}}),
    st.just({"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 7}),
    st.just({"tcpSocket": {"port": 5432}, "initialDelaySeconds": 0}),
    st.just({"grpc": {"port": 9000, "service": None}}),
)
LIVENESS: Final = st.one_of(
    PROBES, st.just({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 11})
)


def ports() -> st.SearchStrategy[list[Json]]:
    """Draw the ports of a container; some of its node's."""
    port = st.fixed_dictionaries(
        {"containerPort": st.sampled_from([80, 8080, 5432, 9000])},
        optional={
            "name": st.sampled_from(["web", "grpc", "metrics", "app-health", None]),
            "protocol": st.sampled_from(["TCP", "UDP", None]),
            "hostPort": st.sampled_from([None, 0, 8080]),
        },
    )
    return st.lists(port, max_size=2, unique_by=lambda each: each["containerPort"])


SECURITY: Final = st.sampled_from([{}, {}, {"windowsOptions": {"hostProcess": True}}])
QUANTITIES: Final = optional(
    {
        "cpu": st.sampled_from(["0", "1m", "40m", "0.1", "100m", "2", "1e3", "9E", "n/a"]),
        "memory": st.sampled_from(["0", "1", "32Mi", "65536k", "64Mi", "1G", "8Ei"]),
        "hugepages-2Mi": st.just("2Mi"),
    }
)
RESOURCES: Final = optional({"requests": QUANTITIES, "limits": QUANTITIES})


def affinities() -> st.SearchStrategy[Json]:
    """Draw what holds pods to some nodes, and apart from each other."""
    expression = st.fixed_dictionaries(
        {
            "key": st.sampled_from(["kubernetes.io/os", "beta.kubernetes.io/os", "zone"]),
            "operator": st.sampled_from(["In", "NotIn", "Exists"]),
        },
        optional={"values": st.sampled_from([["windows"], ["linux"], ["linux", "windows"], None])},
    )
    term = optional({"matchExpressions": st.lists(expression, max_size=2)})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    apart = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    return optional(
        {
            "nodeAffinity": optional(
                {required: optional({"nodeSelectorTerms": st.lists(term, max_size=2)})}
            ),
            "podAntiAffinity": optional({required: st.just([apart])}),
        }
    )


def containers(name: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    """Draw a regular container."""
    required = st.fixed_dictionaries({"name": name, "image": st.just("registry.example/app:1")})
    rest = optional(
        {
            "lifecycle": LIFECYCLES,
            "ports": ports(),
            "readinessProbe": PROBES,
            "livenessProbe": LIVENESS,
            "startupProbe": LIVENESS,
            "env": st.just([{"name": "A", "value": "b%s"}]),
            "resources": st.just({"requests": {"cpu": "0.01"}}),
            "restartPolicy": st.just("Always"),
            "securityContext": SECURITY,
        }
    )
    return with_unknown(st.builds(lambda first, second: {**second, **first}, required, rest))


def init_containers(name: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    """Draw an init container or a native sidecar."""
    base = st.fixed_dictionaries({"name": name, "image": st.just("registry.example/init:1")})
    sidecar = st.builds(
        lambda first, second: {**second, **first, "restartPolicy": "Always"},
        base,
        optional(
            {
                "lifecycle": LIFECYCLES,
                "ports": ports(),
                "readinessProbe": PROBES,
                "resources": RESOURCES,
            }
        ),
    )
    ordinary = st.builds(
        lambda first, second: {**first, **second},
        base,
        optional({"restartPolicy": st.just(None), "command": st.just(["true"])}),
    )
    return st.one_of(sidecar, ordinary)


_INT32: Final = 2**31
_INT64: Final = 2**63
GRACE_PERIODS: Final = (0, 1, 29, 30, 41, 100, -1, -(2**31), -_INT64, _INT32, _INT64 - 1)


@st.composite
def pods(draw: st.DrawFn, *, duplicates: bool = False) -> Json:
    """Draw a pod spec; with `duplicates` names may come twice, as no API server takes them."""
    unique = draw(st.permutations(NAMES))
    names = iter(unique)
    count = draw(st.integers(1, 3))
    each_name = st.sampled_from(NAMES[:2]) if duplicates else st.deferred(lambda: st.just("?"))
    regular = [draw(containers(each_name)) for _ in range(count)]
    initial = [draw(init_containers(each_name)) for _ in range(draw(st.integers(0, 2)))]
    if not duplicates:
        for each in [*regular, *initial]:
            each["name"] = next(names)
    pod: Json = {"containers": regular}
    if initial or draw(st.booleans()):
        pod["initContainers"] = initial or draw(st.sampled_from([None, []]))
    pod |= draw(
        optional(
            {
                "terminationGracePeriodSeconds": st.sampled_from(GRACE_PERIODS),
                "readinessGates": st.lists(
                    st.sampled_from(
                        [{"conditionType": "example.com/own"}, {"conditionType": "Own"}]
                    ),
                    max_size=3,
                ),
                "os": st.sampled_from([{"name": "windows"}, {"name": "linux"}]),
                "nodeSelector": st.sampled_from(
                    [{"kubernetes.io/os": "windows"}, {"beta.kubernetes.io/os": "windows"}, {}]
                ),
                "affinity": affinities(),
                "resources": RESOURCES,
                "hostNetwork": st.booleans(),
                "dnsPolicy": st.sampled_from(["ClusterFirst", "ClusterFirstWithHostNet"]),
                "volumes": st.just(
                    [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
                ),
                "securityContext": SECURITY,
            }
        )
    )
    return draw(with_unknown(st.just(pod)))


# --- settings ------------------------------------------------------------------------------------

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    setting.name: (*setting.examples, "none")
    for mutation in MUTATIONS
    for setting in mutation.settings
}


def said() -> st.SearchStrategy[dict[str, str]]:
    """Draw a few settings, without the prefix."""
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in SETTINGS.items()}
    )


def annotations(inject: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw an object's annotations: settings, others', nulls, or none at all."""
    ours = st.builds(
        lambda settings, word: {
            PREFIX + key: value
            for key, value in {**settings, "inject": word}.items()
            if value is not ...
        },
        said(),
        inject,
    )
    others = st.dictionaries(st.sampled_from(["note", "a/b", "ü"]), TEXTS, max_size=1)
    filled = st.builds(lambda one, other: {**one, **other}, ours, others)
    return st.one_of(st.just(...), st.none(), st.just({}), filled, filled)


INJECT: Final = st.sampled_from([..., ..., "enabled"])
CONFIGURATIONS: Final = st.fixed_dictionaries(
    {},
    optional={
        "defaults": said(),
        "applyDefaultsTo": st.sampled_from(["serving", "all"]),
        "precheck": st.just({"runAsUser": None, "resources": {"requests": {"cpu": "0.01"}}}),
    },
)


# --- workloads -----------------------------------------------------------------------------------

_VALUE: Final = st.sampled_from(
    [0, 1, 5, _INT32 - 1, "0%", "10%", "25%", "100%", "00%", "025%", None]
)


def update_strategies(kind: str) -> st.SearchStrategy[Any]:
    """Draw an update strategy of a kind."""
    if kind == "Rollout":
        return st.sampled_from(
            [
                {"canary": {"maxUnavailable": 1}},
                {"canary": {"maxUnavailable": 1, "maxSurge": 0}},
                {"blueGreen": None},
                {},
                None,
            ]
        )
    other = {"Deployment": "Recreate"}.get(kind, "OnDelete")
    rolling = optional({"maxUnavailable": _VALUE, "maxSurge": _VALUE})
    if kind == "StatefulSet":
        rolling = optional(
            {"maxUnavailable": _VALUE, "partition": st.sampled_from([0, 1, _INT32 - 1])}
        )
    return st.one_of(
        optional({"type": st.just("RollingUpdate"), "rollingUpdate": rolling}),
        st.just({"type": other}),
        st.none(),
    )


@st.composite
def workloads(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, *, duplicates: bool = False) -> Json:
    """Draw a workload."""
    kind = draw(st.sampled_from(kinds))
    head: Json = {
        "name": "web",
        "namespace": NAMESPACE,
        "labels": draw(st.sampled_from([None, {}])),
    }
    inner: Json = {"labels": {"app": "web"}}
    for metadata in (head, inner):
        drawn = draw(annotations(INJECT))
        if drawn is not ...:
            metadata["annotations"] = drawn
    spec: Json = {"selector": {"matchLabels": {"app": "web"}}}
    spec |= draw(
        optional(
            {
                "minReadySeconds": st.sampled_from([0, 1, 11, 31, 700, _INT32 - 1]),
                "replicas": st.sampled_from([0, 1, 3, _INT32 - 1]),
                "revisionHistoryLimit": st.just(3),
            }
        )
    )
    if kind == "DaemonSet":
        spec.pop("replicas", None)
    if kind == "StatefulSet":
        spec["serviceName"] = "web"
        spec |= draw(optional({"podManagementPolicy": st.just("Parallel")}))
    if kind in {"Deployment", "Rollout"}:
        seconds = st.sampled_from([1, 12, 40, 600, 701, 2**31 - 1])
        spec |= draw(optional({"progressDeadlineSeconds": seconds}))
    if draw(st.booleans()):
        spec[STRATEGY_KEY[kind]] = draw(update_strategies(kind))
    spec["template"] = {"metadata": inner, "spec": draw(pods(duplicates=duplicates))}
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": head,
        "spec": draw(with_unknown(st.just(spec))),
        **draw(optional({"status": st.just({"replicas": 3})})),
    }
