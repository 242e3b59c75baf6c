"""What a mutation is, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from webhook.decision.draft import Draft, Field
from webhook.decision.settings import Policy, Resolved, Setting
from webhook.decision.workload import ROLLOUT, Kind


class ServerVersion(NamedTuple):
    """The version of an API server, or of a kubelet."""

    major: int
    minor: int


class Cluster(NamedTuple):
    """What the cluster can carry; None is what is not known, and forbids nothing.

    Args:
        server: the API server's version.
        oldest_node: the version of the oldest kubelet.
        rollout_sleep: whether the CRD of Argo Rollouts keeps a native sleep.
    """

    server: ServerVersion | None = None
    oldest_node: ServerVersion | None = None
    rollout_sleep: bool | None = None


UNKNOWN_CLUSTER: Final = Cluster()
FIRST_WITH_SLEEP: Final = ServerVersion(1, 30)
"""The first version of API server and kubelet that has the native sleep without a feature gate."""


def no_native_sleep(cluster: Cluster, kind: Kind) -> str | None:
    """Say what forbids the native sleep for workloads of a kind; None where nothing does."""
    for version, what in ((cluster.server, "the API server"), (cluster.oldest_node, "a node")):
        if version is not None and version < FIRST_WITH_SLEEP:
            return f"{what} is Kubernetes {version.major}.{version.minor}, before 1.30"
    if kind is ROLLOUT and cluster.rollout_sleep is False:
        return "the Rollout CRD has no preStop.sleep"
    return None


@dataclass(frozen=True, slots=True)
class PrecheckContainer:
    """What the configuration says of the precheck init container."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    run_as_user: int | None = 65532
    resources: Mapping[str, Any] = field(default_factory=dict)


class Situation:
    """What a mutation decides by, besides the object: nothing else may sway it.

    A plain class, as it is made for each request: a frozen dataclass takes five times as long.
    """

    __slots__ = ("cluster", "inherits", "kind", "namespace", "policy", "precheck", "serving")

    def __init__(
        self,
        *,
        kind: Kind,
        namespace: str | None,
        policy: Policy,
        serving: bool,
        inherits: bool,
        cluster: Cluster,
        precheck: PrecheckContainer,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.policy = policy
        self.serving = serving
        self.inherits = inherits
        self.cluster = cluster
        self.precheck = precheck

    def __getitem__(self, setting: str) -> Resolved:
        return self.policy[setting]


class PreStopSleep(NamedTuple):
    """What the preStop mutation publishes for those after it.

    Args:
        wanted: the seconds asked for, before `max-grace` cuts them; 0 for no hook of ours.
        injected: the longest sleep that was injected or chained; None where none was.
    """

    wanted: int = 0
    injected: int | None = None


NO_SLEEP: Final = PreStopSleep()
_SLEEP: Final = "pre-stop-sleep"


def publish_sleep(draft: Draft, sleep: PreStopSleep) -> None:
    """Tell the mutations that come later of the sleep; no mutation imports another."""
    draft.published[_SLEEP] = sleep


def published_sleep(draft: Draft) -> PreStopSleep:
    """Give what was published of the sleep; nothing where nobody has."""
    sleep: PreStopSleep = draft.published.get(_SLEEP, NO_SLEEP)
    return sleep


@dataclass(frozen=True, slots=True)
class Mutation:
    """A plain function of a draft and a situation, with the settings and fields that are its own.

    Args:
        apply: writes what the settings ask for, by `Draft.inject` alone.
        fields: every place that it may write; a record can name no other.
        settings: the settings that it obeys.
        reads: what it reads of the workload beside its fields and `workload.READS`, as paths from
            the object on, `*` for any list item. Anything else may be undecoded, and then raises.
        settle: puts right, without any setting, what would be invalid after values were put back;
            asked only where any were.
    """

    apply: Callable[[Draft, Situation], None]
    fields: tuple[Field, ...]
    settings: tuple[Setting, ...] = ()
    settle: Callable[[Draft, Kind], None] | None = None
    reads: tuple[tuple[str, ...], ...] = ()

    @property
    def in_template(self) -> bool:
        """Whether it writes the pod template; no mutation writes both sides."""
        return self.fields[0].in_template
