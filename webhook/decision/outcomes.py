"""Why nothing is injected, and what is warned of: each a word for machines, with its sentence.

The words are labels of metrics, codes of warnings and audit annotations; the sentences are those of
`docs/metrics.md`, which `make docs` writes from here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _Outcome(StrEnum):
    """A word that is a string for all who use it, and the sentence that explains it."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.sentence = sentence
        return member


class SkipReason(_Outcome):
    """Why nothing is injected into an object."""

    ANNOTATIONS_FULL = (
        "annotations-full",
        "the record would push the annotations over the API server's limit",
    )
    DELETING = "deleting", "the object is being deleted"
    DISABLED = "disabled", "the workload, its pod template or its namespace says `inject: disabled`"
    ERROR = "error", "an unexpected error: `seamless_errors_total`"
    EXCLUDED_NAMESPACE = "excluded-namespace", "the namespace is never touched"
    EXCLUDED_WORKLOAD = "excluded-workload", "the configuration's `exclude` takes it"
    KIND = "kind", "a kind that is not patched, or not by this configuration"
    MALFORMED = "malformed", "the object is none that an API server would store"
    NOT_SELECTED = "not-selected", "neither the workload nor its namespace opts in"
    NOT_SERVING = "not-serving", "the workload serves no traffic, and has no settings of its own"
    NOTHING_TO_INJECT = "nothing-to-inject", "no setting asks for anything that is not there"
    OPERATION = "operation", "neither CREATE nor UPDATE"
    SUBRESOURCE = "subresource", "a subresource such as `scale`"
    WORKLOAD_REF = "workload-ref", "a Rollout whose Deployment is patched instead"


class WarningCode(_Outcome):
    """What no patch can mend, and the user is told of."""

    ALL_UNAVAILABLE = "all-unavailable", "`maxUnavailable` lets every replica go at once"
    ANNOTATIONS_FULL = "annotations-full", "no room for the record: nothing is injected"
    CHAIN_NEEDS_SHELL = "chain-needs-shell", "a chained preStop needs `sh` in the image"
    ERROR = "error", "an unexpected error: nothing is patched"
    EDIT_UNDONE = (
        "edit-undone",
        "an edit of what was injected is undone, for it would restart pods: which setting to use instead",  # noqa: E501
    )
    EXEC_ON_WINDOWS = (
        "exec-on-windows",
        "an exec sleep does nothing on Windows: the native one is used",
    )
    EXEC_SLEEP = "exec-sleep", "an exec sleep does nothing in an image without `sleep`"
    HOOK_EXCEEDS_GRACE = "hook-exceeds-grace", "a preStop takes all of the grace period, or more"
    HOOK_KEPT = "hook-kept", "a preStop could not be chained, or made native"
    INVALID_SETTING = "invalid-setting", "a setting makes no sense, and is skipped"
    LONG_ROLLOUT = (
        "long-rollout",
        "a rollout takes longer than the five minutes that `helm --wait` waits",
    )
    MALFORMED = "malformed", "the object is none that an API server would store"
    MAX_GRACE = "max-grace", "the sleep, or the time to shut down, gives way to `max-grace`"
    NO_OVERLAP = "no-overlap", "no pod serves, or none on a node, between the old and the new"
    NO_READINESS_PROBE = "no-readiness-probe", "a workload that serves has no readiness probe"
    NO_SLEEP_ON_WINDOWS = (
        "no-sleep-on-windows",
        "no preStop sleep on Windows: API server or nodes are older than 1.30",
    )
    NO_SUCH_CONTAINER = "no-such-container", "a setting names a container that is not there"
    NO_SUCH_PORT = "no-such-port", "a readiness probe's port is not declared"
    NO_SURGE = "no-surge", "`strategy: surge` does nothing for this workload"
    PARALLEL = (
        "parallel",
        "`podManagementPolicy: Parallel`: a rolling update ignores `minReadySeconds`",
    )
    PRECHECK_HOST_NETWORK = (
        "precheck-host-network",
        "a precheck on the node's network, without the cluster's DNS",
    )
    PRECHECK_NAME_TAKEN = "precheck-name-taken", "a container of the user's has the precheck's name"
    PRECHECK_OF_ITSELF = "precheck-of-itself", "a precheck waits for its own workload"
    PRECHECK_ON_WINDOWS = "precheck-on-windows", "there is no precheck on Windows"
    PROBE_GRACE = "probe-grace", "the sleep uses up a probe's own grace period"
    QUORUM_TOO_LARGE = "quorum-too-large", "more targets are required than there are"
    RECREATE = "recreate", "`strategy: Recreate` stops every pod first"
    SLEEP_TOO_NEW = (
        "sleep-too-new",
        "API server, a node or the Rollout CRD has no native sleep: exec is used",
    )
    SURGE_WITH_ANTI_AFFINITY = (
        "surge-with-anti-affinity",
        "`surge` with a required anti-affinity: an extra pod may find no node",
    )
    SURGE_WITH_VOLUME = (
        "surge-with-volume",
        "`surge` with a volume claim: an extra pod may not get the volume",
    )
    UNKNOWN_GATE = "unknown-gate", "no known controller sets a readiness gate"
    UNREADABLE_RECORD = "unreadable-record", "a record cannot be read: what it named is the user's"
