"""The life of one pod: how it starts, when it is ready, how it ends.

Times are in seconds. What is told of a start or an end follows from the pod template, the timings
and the moment at which it begins, and from nothing else.

    created ─ pod.start, image ─ init containers ─ running ─ application.start ─ answers
                                                                 probes, gates ─ ready
    terminating ─ preStop ─ SIGTERM ─ application.stop, or SIGKILL ─ stopped ─ gone

The kubelet looks at a pod whose phase has changed once a second, on a tick of its own
(`pkg/kubelet/kubelet.go`, syncTicker); where that tick falls nobody knows, so the simulation takes
the middle: half past each second. What follows from it:

- A readiness probe runs when the kubelet sees its container running and not ready, and each such
  run sets its period anew (`pkg/kubelet/prober/prober_manager.go`, UpdatePodStatus; `worker.go`,
  manualTriggerCh): so it runs at the first tick after the container runs, then once a period.
- A startup probe runs once a period from when its worker began, which is when the volumes are
  mounted. When it succeeds, the readiness probe runs at once.
- A pod whose processes have ended is gone at the next tick, at most `pod.end` after.

Times of day in a pod's status are whole seconds, rounded down: on average half a second of
`initialDelaySeconds` and of `minReadySeconds` has passed when it begins.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, NamedTuple

from webhook.decision.workload import (
    Json,
    containers,
    grace_seconds,
    init_containers,
    is_sidecar,
    mapping,
    pod_spec,
    pre_stop,
    serves,
)
from webhook.rollout.shape import whole
from webhook.rollout.timings import Times

TICK: Final = 1.0
TICK_AT: Final = 0.5
ROUNDED: Final = 0.5
"""How much of a wait has passed when it is counted from a whole second, on average."""

SEEN: Final = 0.05
"""How long the kubelet takes to notice that a container that it started is running."""
NEXT_CONTAINER: Final = 0.1
"""How long it takes to start a container in a pod that runs already."""
MOUNTED: Final = 0.3
"""When a pod's volumes are mounted: the kubelet asks every 0.3 s (`volume_manager.go`)."""
REPORTED: Final = 0.2
"""How long the kubelet takes to report that a pod's containers have ended."""
DELETED: Final = 0.05
"""How long the kubelet takes to clean a pod up and to have the API server delete it."""
LEAST_GRACE_SECONDS: Final = 2
"""What is left to a container in any case (`kuberuntime`, minimumGracePeriodInSeconds)."""

_A_BIT: Final = 1e-9  # what floats may be off by


def next_tick(at: float) -> float:
    """Give the kubelet's first tick after a moment."""
    return math.floor((at - TICK_AT) / TICK + _A_BIT) * TICK + TICK + TICK_AT


class Started(NamedTuple):
    """When a pod reaches what: seconds on the clock of the simulation.

    Args:
        pulled: its image is there, and its first container about to run.
        initialized: its init containers are done.
        running: its containers run.
        answers: its application answers.
        probed: its probes have succeeded.
        ready: it is ready; infinite where it never is.
    """

    pulled: float
    initialized: float
    running: float
    answers: float
    probed: float
    ready: float


class Stopped(NamedTuple):
    """When a pod that is deleted reaches what.

    Args:
        signalled: the preStop of what serves is over, and SIGTERM is sent.
        stopped: its last process has ended.
        reported: its phase says so.
        gone: it is gone.
        killed: whether a process had to be killed.
    """

    signalled: float
    stopped: float
    reported: float
    gone: float
    killed: bool


class PodLifecycle:
    """How the pods of one template live.

    Args:
        workload: the workload; it is not malformed.
        times: what things take.
    """

    __slots__ = (
        "_gates",
        "_init",
        "_killed",
        "_pull",
        "_regular",
        "_signalled",
        "_stopped",
        "_times",
        "forced",
        "never",
        "serving",
    )

    def __init__(self, workload: Json, times: Times) -> None:
        pod = pod_spec(workload)
        self._times = times
        self._pull = times.pod.start.p50 + times.pod.image_pull.p50
        self._init = tuple(_init(each) for each in init_containers(workload))
        starts = times.application.start.p50
        self._regular = tuple(_probes(each, starts) for each in containers(workload))
        gates = [each for each in pod.get("readinessGates") or () if isinstance(each, dict)]
        self._gates = (times.balancer.add.p50 if times.balancer else 0.0) if gates else 0.0
        self.never = ""
        self.serving = serves(workload)
        grace = grace_seconds(workload)
        self.forced = grace == 0
        self._signalled, self._stopped, self._killed = _ends(
            workload, 1 if grace < 0 else grace, times.application.stop.p50
        )

    def start(self, created: float) -> Started:
        """Tell when a pod that is created at a moment reaches what."""
        pulled = created + self._pull
        at = pulled
        probing = created + min(MOUNTED, self._times.pod.start.p50)
        ready = 0.0
        for init in self._init:
            if init.probes is None:
                at = next_tick(at + init.seconds) + NEXT_CONTAINER
                continue
            done = init.probes.ready(at, at, probing)
            ready = max(ready, done.ready)
            at = max(at, done.started) + NEXT_CONTAINER
        running, answers, probed = at, at, at
        for regular in self._regular:
            answering = at + regular.starts
            done = regular.ready(at, answering, probing)
            answers = max(answers, answering)
            probed = max(probed, done.ready)
            if done.reason:
                self.never = f"container {regular.name}: {done.reason}"
        probed = max(probed, ready)
        return Started(pulled, at, running, answers, probed, probed + self._gates)

    def stop(self, at: float) -> Stopped:
        """Tell when a pod that is deleted at a moment reaches what."""
        if self.forced:
            return Stopped(at, at, at, at, killed=True)
        stopped = at + self._stopped
        end = self._times.pod.end.p50
        gone = min(next_tick(stopped + max(0.0, end - TICK)) + DELETED, stopped + end)
        return Stopped(
            at + self._signalled, stopped, min(gone, stopped + REPORTED), gone, self._killed
        )


# --- start ---------------------------------------------------------------------------------------


class _Ready(NamedTuple):
    started: float
    ready: float
    reason: str = ""


class _Probe(NamedTuple):
    delay: float
    period: int
    failures: int
    successes: int

    @classmethod
    def of(cls, given: Any) -> _Probe | None:
        """Read a probe; none where there is none that does anything."""
        if not isinstance(given, dict) or not given:
            return None
        delay = whole(given.get("initialDelaySeconds"), 0)
        return cls(
            max(0.0, delay - ROUNDED),
            max(1, whole(given.get("periodSeconds"), 10) or 10),
            whole(given.get("failureThreshold"), 3) or 3,
            whole(given.get("successThreshold"), 1) or 1,
        )

    def first(self, begun: float, earliest: float) -> float:
        """Give its first run that counts, where it runs once a period from a moment on."""
        late = math.ceil((earliest - begun) / self.period - _A_BIT)
        return begun + max(0, late) * self.period

    def gives_up(self, begun: float, running: float, answers: float) -> float:
        """Give when it has failed too often; infinite where the application answers before."""
        first = self.first(begun, running + self.delay)
        last = first + (self.failures - 1) * self.period
        return last if last < answers - _A_BIT else math.inf

    def succeeds(self, begun: float, running: float, answers: float) -> float:
        """Give when it has succeeded often enough."""
        first = self.first(begun, max(running + self.delay, answers))
        return first + (self.successes - 1) * self.period


class _Probes(NamedTuple):
    name: str
    starts: float
    startup: _Probe | None
    readiness: _Probe | None
    liveness: _Probe | None

    def ready(self, running: float, answers: float, probing: float) -> _Ready:
        """Tell when a container has started and is ready, as the kubelet sees it.

        Args:
            running: when it runs.
            answers: when it answers.
            probing: when the kubelet began to probe the pod.
        """
        seen = running + SEEN
        if self.startup is not None:
            if self.startup.gives_up(probing, running, answers) < math.inf:
                return _Ready(math.inf, math.inf, "its startup probe gives up before it answers")
            started = self.startup.succeeds(probing, running, answers)
            if self.readiness is None:
                return _Ready(started, started)
            return _Ready(started, self.readiness.succeeds(started, running, started))
        if self.liveness and self.liveness.gives_up(probing, running, answers) < math.inf:
            return _Ready(math.inf, math.inf, "its liveness probe restarts it before it answers")
        if self.readiness is None:
            return _Ready(seen, seen)
        if answers <= seen and not self.readiness.delay and self.readiness.successes == 1:
            return _Ready(seen, seen)
        return _Ready(seen, self.readiness.succeeds(next_tick(running), running, answers))


class _Init(NamedTuple):
    seconds: float
    probes: _Probes | None  # of a native sidecar


def _probes(container: Json, starts: float) -> _Probes:
    """Read a container's probes; one that nobody asks is taken to need no time."""
    asked = any(container.get(key) for key in ("readinessProbe", "startupProbe", "ports"))
    return _Probes(
        str(container.get("name")),
        starts if asked else 0.0,
        _Probe.of(container.get("startupProbe")),
        _Probe.of(container.get("readinessProbe")),
        _Probe.of(container.get("livenessProbe")),
    )


def _init(container: Json) -> _Init:
    if is_sidecar(container):
        return _Init(0.0, _probes(container, 0.0))
    command = [*_words(container.get("command")), *_words(container.get("args"))]
    return _Init(command_seconds(command), None)


# --- end -----------------------------------------------------------------------------------------


def _ends(workload: Json, grace: int, stop: float) -> tuple[float, float, bool]:
    """Tell when SIGTERM is sent to what serves, when all is over, and whether by SIGKILL.

    Every container's preStop begins at once; a native sidecar then waits for the regular
    containers and the sidecars after it (KEP-753); the grace period is one for all of it.
    """
    signals, ends, killed = [], [], False
    serving = []
    for container in containers(workload):
        slept = min(hook_seconds(pre_stop(container)), grace)
        left = max(LEAST_GRACE_SECONDS, grace - math.floor(slept + _A_BIT))
        signals.append(slept)
        if container.get("ports") or container.get("readinessProbe"):
            serving.append(slept)
        killed = killed or stop > left
        ends.append(slept + min(stop, left))
    over = max(ends, default=0.0)
    for container in reversed(init_containers(workload)):
        if is_sidecar(container):  # it ends at once when its turn comes
            slept = min(hook_seconds(pre_stop(container)), grace)
            over = max(over, slept)
    return min(serving or signals or [0.0]), over, killed


def hook_seconds(hook: Json | None) -> float:
    """Tell how long a preStop hook takes, as far as it shows: a sleep, native or in a command."""
    if not hook:
        return 0.0
    sleep = hook.get("sleep")
    if sleep:
        return float(whole(mapping(sleep).get("seconds"), 0))
    return command_seconds(_words(mapping(hook.get("exec")).get("command")))


_SHELLS: Final = ("sh", "bash", "ash", "dash", "busybox")
_LONGEST_SCRIPT: Final = 4096
_MOST_WORDS: Final = 64
_DURATION: Final = r"\d{1,9}(?:\.\d{0,9})?[smhd]?(?![\w.])"
_SLEEP: Final = re.compile(
    r"(?:^|[;&|({\n]|\bdo\b|\bthen\b|\bexec\b)[ \t]*(?:[\w./-]{0,64}/)?sleep((?:[ \t]+"
    + _DURATION
    + ")+)"
)
_EXEC_ARGUMENTS: Final = re.compile(r"\bexec[ \t]+\"\$@\"")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def command_seconds(words: list[str]) -> float:
    """Tell how long a command takes as far as it shows: the sleeps in it, one after the other."""
    if not words:
        return 0.0
    program = words[0].rsplit("/", 1)[-1]
    if program == "sleep":
        return sum(map(_sleep_seconds, words[1:]))
    if program not in _SHELLS or "-c" not in words:
        return 0.0
    at = words.index("-c") + 1
    script = words[at][:_LONGEST_SCRIPT] if at < len(words) else ""
    slept = sum(
        _sleep_seconds(each) for found in _SLEEP.finditer(script) for each in found[1].split()
    )
    if _EXEC_ARGUMENTS.search(script):  # `sh -c 'sleep 5; exec "$@"' sh COMMAND…`
        slept += command_seconds(words[at + 2 :])
    return slept


def _sleep_seconds(word: str) -> float:
    if not re.fullmatch(_DURATION, word):
        return 0.0
    unit = _UNITS.get(word[-1])
    return float(word[:-1]) * unit if unit else float(word)


def _words(command: Any) -> list[str]:
    return [str(each) for each in command[:_MOST_WORDS]] if isinstance(command, list) else []
