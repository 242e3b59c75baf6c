"""Why a request failed, by what was known of the pods at that moment.

A client sees little: a connection was refused, an answer never came. The API server sees the rest:
which pod was ready, which was going, when its containers ended. Joined, they give the cause:

    what the client saw                        what was true of the pods       cause
    502, 503 or 504                            no matter what                  a proxy answered
    no connection, or reset before an answer   none was ready                  nobody ready
    no connection, or reset at once on a new   one had stopped                 stale endpoint
    one                                        one had just become ready,      new pod too early
                                               and no readiness probe had
                                               asked it
    an open connection, cut before the answer  one was killed at the end of    killed
                                               its grace period just then
    a kept connection, reset as it was used    one had gone                    kept connection
    a connection that took the request, then   one was stopping                cut off in flight
    closed

Everything else is `unexplained`, and said to be. What decides between a connection whose other end
had gone and one that was cut in flight is how TCP ends: a process that has read a request and
exits closes (FIN); a request that reaches nobody is answered by a reset (RST).

Nothing here asks a clock: all times are seconds since the load began.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


class Kind(enum.StrEnum):
    """What the client saw of a request that failed."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    CLOSED = "closed"
    TIMEOUT = "timeout"
    STATUS = "status"
    TLS = "tls"
    PROTOCOL = "protocol"
    OWN = "own"
    """Not the server's fault: no port, no descriptor, no address for the name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed.

    Args:
        at: when it was due.
        took: seconds until it failed.
        kind: what the client saw.
        kept: whether it belonged to the half that keeps its connections.
        reused: whether it went over a connection that had carried one before.
        connected: whether there was a connection.
        status: that of the answer, if there was one.
        pod: who answered, if the answer tells.
        text: what else there is to say, such as the error's own words.
    """

    at: float
    took: float
    kind: Kind
    kept: bool = False
    reused: bool = False
    connected: bool = False
    status: int | None = None
    pod: str | None = None
    text: str = ""

    @property
    def ended(self) -> float:
        """When it failed."""
        return self.at + self.took


@dataclass(slots=True)
class Pod:
    """What became of a pod, and when; a time is none where it has not come, or was not seen.

    Args:
        name: its name.
        old: whether it was there before the rollout.
        created: when it was created.
        ready: when it became ready; at the very beginning where it was.
        unready: when it stopped being ready without being on its way out.
        available: when it had been ready for `minReadySeconds`.
        terminating: when it was told to go.
        grace: its grace period then, in seconds.
        stopped: when its containers had ended.
        exit_code: that of the first container that failed, else 0.
        gone: when it was deleted.
        probed: whether it has a readiness probe.
        restarts: how often its containers were started anew.
    """

    name: str
    old: bool = False
    created: float | None = None
    ready: float | None = None
    unready: float | None = None
    available: float | None = None
    terminating: float | None = None
    grace: float | None = None
    stopped: float | None = None
    exit_code: int | None = None
    gone: float | None = None
    probed: bool = True
    restarts: int = 0

    def serving(self, at: float) -> bool:
        """Tell whether it was ready then, and not on its way out."""
        if self.ready is None or at < self.ready:
            return False
        ends = (self.unready, self.terminating, self.stopped, self.gone)
        return all(end is None or at < end for end in ends)

    def over(self) -> float | None:
        """Tell when nothing ran in it any more."""
        return self.stopped if self.stopped is not None else self.gone


@dataclass(frozen=True, slots=True)
class Scene:
    """What was known of the pods while the load ran.

    Args:
        pods: all that were seen.
        answered: when each pod answered first and last, where answers tell their pod.
        usual: how long an answer usually takes, in seconds.
        direct: whether requests reach pods without a proxy that reads HTTP.
        slack: by how many seconds what is known of pods may be late or early.
        linger: how long after its end somebody may still send to a pod, in seconds.
        young: how long after it became ready a pod may fail to be reached, in seconds.
        answers: when requests were due that were answered, in order.
    """

    pods: Sequence[Pod]
    answered: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    usual: float = 0.1
    direct: bool = True
    slack: float = 1.5
    linger: float = 120.0
    young: float = 60.0
    answers: Sequence[float] = ()


class Cause(enum.StrEnum):
    """Why a request failed."""

    NEW_POD_TOO_EARLY = "new-pod-too-early"
    STALE_ENDPOINT = "stale-endpoint"
    CUT_OFF_IN_FLIGHT = "cut-off-in-flight"
    KILLED = "killed-at-grace-end"
    KEPT_CONNECTION = "kept-connection-reused"
    NOBODY_READY = "nobody-ready"
    PROXY = "answered-by-proxy"
    UNEXPLAINED = "unexplained"

    @property
    def what(self) -> str:
        """The cause in a few words."""
        return _TOLD[self][0]

    @property
    def remedy(self) -> str:
        """The setting, or the change in the application, that mends it."""
        return _TOLD[self][1]


_TOLD: Final[Mapping[Cause, tuple[str, str]]] = {
    Cause.NEW_POD_TOO_EARLY: (
        "a new pod got requests before it could answer",
        (
            "a readiness probe that asks what requests need: readiness-probe: http://:PORT/PATH; "
            "where load balancers learn late of new pods, min-ready as well"
        ),
    ),
    Cause.STALE_ENDPOINT: (
        "a pod on its way out was still sent requests",
        "pre-stop-sleep: longer than the slowest proxy or load balancer takes to forget a pod",
    ),
    Cause.CUT_OFF_IN_FLIGHT: (
        "a request was cut off when the application exited",
        (
            "have the application finish what it has begun on SIGTERM, and give it time by "
            "shutdown-time; pre-stop-sleep covers requests shorter than itself"
        ),
    ),
    Cause.KILLED: (
        "a request was cut off when the grace period ended, by SIGKILL",
        "shutdown-time: as long as the application takes to finish after SIGTERM",
    ),
    Cause.KEPT_CONNECTION: (
        "a kept connection was used again after its pod's end",
        (
            "have the application close kept connections on SIGTERM (`Connection: close` in its "
            "answers, GOAWAY), or the client keep them for less time than pre-stop-sleep"
        ),
    ),
    Cause.NOBODY_READY: (
        "no pod was ready",
        "strategy: surge, so that no pod goes before its successor is there; more than one replica",
    ),
    Cause.PROXY: (
        "a proxy answered 502, 503 or 504 in place of a pod",
        (
            "pre-stop-sleep: longer than the proxy takes to forget a pod; min-ready: longer than "
            "it takes to learn of one; have it try another pod where a connection fails"
        ),
    ),
    Cause.UNEXPLAINED: (
        "nothing that the API server says of the pods explains it",
        "look into the application's own logs at that moment",
    ),
}

_PROXY_STATUSES: Final = frozenset({502, 503, 504})
_AT_ONCE_SECONDS: Final = 0.02
_SIGKILLED: Final = 137
_JUST_BEFORE: Final = 0.001


@dataclass(frozen=True, slots=True)
class Explained:
    """A failure, its cause, and the pod that it was most probably sent to."""

    failure: Failure
    cause: Cause
    pod: str | None = None


def explain(failure: Failure, scene: Scene) -> Explained:
    """Name the cause of a failure."""
    if failure.kind is Kind.STATUS:
        return _by_status(failure, scene)
    if failure.kind in (Kind.OWN, Kind.TLS, Kind.PROTOCOL):
        return Explained(failure, Cause.UNEXPLAINED)
    if _nobody_ready(failure, scene) and _never_taken(failure):
        return Explained(failure, Cause.NOBODY_READY)
    if _never_taken(failure):
        return _not_reached(failure, scene)
    return _cut(failure, scene)


def _by_status(failure: Failure, scene: Scene) -> Explained:
    """A 502, 503 or 504 is a proxy's, unless nothing between could read HTTP."""
    if failure.status not in _PROXY_STATUSES:
        return Explained(failure, Cause.UNEXPLAINED, failure.pod)
    if scene.direct or failure.pod is not None:
        young = _young(failure, scene)
        if young is not None and failure.pod in (None, young.name):
            return Explained(failure, Cause.NEW_POD_TOO_EARLY, young.name)
        if failure.pod is not None:
            return Explained(failure, Cause.UNEXPLAINED, failure.pod)
    return Explained(failure, Cause.PROXY, _name(_leaving(failure, scene)))


def _never_taken(failure: Failure) -> bool:
    """Tell whether no process of the application can have read the request.

    A balancer below HTTP accepts first and looks for a pod then: its reset comes at once.
    """
    if not failure.connected:
        return True
    return failure.kind is Kind.RESET and not failure.reused


def _nobody_ready(failure: Failure, scene: Scene) -> bool:
    """Tell whether no pod was ready, or none had been and nobody knew yet of the first that was."""
    serving = [
        pod
        for pod in scene.pods
        if any(pod.serving(moment) for moment in (failure.at, failure.ended))
    ]
    if not serving or not scene.answers:
        return bool(scene.pods) and not serving
    back = min(pod.ready for pod in serving if pod.ready is not None)
    if any(pod.serving(back - _JUST_BEFORE) for pod in scene.pods):
        return False
    due = bisect_left(scene.answers, back)
    return due == len(scene.answers) or scene.answers[due] > failure.at


def _not_reached(failure: Failure, scene: Scene) -> Explained:
    leaving = _stopped(failure, scene)
    young = _young(failure, scene)
    # Where both are there, what was never asked whether it listens is the likelier: of pods with a
    # probe, it is the one that has ended. Addresses of pods that are gone answer nothing at all.
    if young is not None and failure.kind in (Kind.REFUSED, Kind.RESET):
        proven = _silent(young, failure, scene)
        if proven or leaving is None or (not young.probed and proven is None):
            return Explained(failure, Cause.NEW_POD_TOO_EARLY, young.name)
    if leaving is not None:
        return Explained(failure, Cause.STALE_ENDPOINT, leaving.name)
    if young is not None:
        return Explained(failure, Cause.NEW_POD_TOO_EARLY, young.name)
    return Explained(failure, Cause.UNEXPLAINED)


def _cut(failure: Failure, scene: Scene) -> Explained:
    """Name the cause where there was a connection, and no answer on it."""
    killed = _killed(failure, scene)
    if killed is not None and not (failure.reused and failure.kind is Kind.RESET):
        return Explained(failure, Cause.KILLED, killed.name)
    leaving = _leaving(failure, scene)
    if failure.reused and _reached_nobody(failure, scene):
        return Explained(failure, Cause.KEPT_CONNECTION, _name(leaving))
    ending = _ending(failure, scene)
    if ending is not None:
        return Explained(failure, Cause.CUT_OFF_IN_FLIGHT, ending.name)
    if failure.kind is Kind.TIMEOUT or leaving is None:
        return Explained(failure, Cause.UNEXPLAINED)
    return Explained(failure, Cause.CUT_OFF_IN_FLIGHT, leaving.name)


def _reached_nobody(failure: Failure, scene: Scene) -> bool:
    """Tell whether a request on a kept connection met nobody at its other end.

    A reset says so; so does a connection that was closed the moment it was used; so does silence,
    where a pod went whose address answers no more.
    """
    if failure.kind is Kind.RESET:
        return True
    if failure.kind is Kind.CLOSED:
        return failure.took < min(_AT_ONCE_SECONDS, scene.usual / 4)
    over = [pod.over() for pod in scene.pods if pod.terminating is not None]
    return any(each is not None and each - scene.slack <= failure.ended for each in over)


def _leaving(failure: Failure, scene: Scene) -> Pod | None:
    """Find the pod that was on its way out, or had gone a while ago: the last that began to."""
    found = [
        pod
        for pod in scene.pods
        if pod.terminating is not None
        and pod.terminating - scene.slack <= failure.ended
        and ((over := pod.over()) is None or failure.at <= over + scene.linger)
    ]
    return max(found, key=lambda pod: pod.terminating or 0.0, default=None)


def _stopped(failure: Failure, scene: Scene) -> Pod | None:
    """Find the pod that had ended by then: one that sleeps before its SIGTERM refuses none."""
    found = [
        pod
        for pod in scene.pods
        if pod.terminating is not None
        and pod.terminating - scene.slack <= failure.ended
        and (over := pod.over()) is not None
        and over - scene.slack <= failure.ended
        and failure.at <= over + scene.linger
    ]
    return max(found, key=lambda pod: pod.over() or 0.0, default=None)


def _ending(failure: Failure, scene: Scene) -> Pod | None:
    """Find the pod that ended while the request was under way, or just about then."""
    found = [
        pod
        for pod in scene.pods
        if (over := pod.over()) is not None
        and pod.terminating is not None
        and failure.at - scene.slack <= over <= failure.ended + scene.slack
    ]
    return min(found, key=lambda pod: abs((pod.over() or 0.0) - failure.ended), default=None)


def _killed(failure: Failure, scene: Scene) -> Pod | None:
    """Find the pod that SIGKILL ended just then: at the end of its grace period, not by itself."""
    for pod in scene.pods:
        over = pod.over()
        if pod.terminating is None or pod.grace is None or over is None:
            continue
        end = pod.terminating + pod.grace
        by_signal = pod.exit_code in (None, _SIGKILLED)
        at_its_end = over >= end - scene.slack
        if by_signal and at_its_end and abs(failure.ended - over) <= max(scene.slack, 0.1):
            return pod
    return None


def _young(failure: Failure, scene: Scene) -> Pod | None:
    """Find the new pod that had become ready lately, and was not known to answer yet."""
    found = [
        pod
        for pod in scene.pods
        if not pod.old
        and pod.ready is not None
        and pod.ready - scene.slack <= failure.ended
        and failure.at <= pod.ready + scene.young
        and (pod.terminating is None or failure.at < pod.terminating)
        and _silent(pod, failure, scene) is not False
    ]
    # One without a probe first: the others were asked whether they listen.
    return max(found, key=lambda pod: (not pod.probed, pod.ready or 0.0), default=None)


def _silent(pod: Pod, failure: Failure, scene: Scene) -> bool | None:
    """Tell whether a pod had not answered yet; none where answers do not tell their pod."""
    if not scene.answered:
        return None
    first = scene.answered.get(pod.name)
    if first is None or failure.at < first[0]:
        # A pod with a probe that answers its first request a moment later has merely had none.
        return not pod.probed or None
    return False


def _name(pod: Pod | None) -> str | None:
    return None if pod is None else pod.name
