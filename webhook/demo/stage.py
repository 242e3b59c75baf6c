"""A stage to roll an application on, without a cluster: processes as pods, on loopback.

It is a teaching aid and a test bed, and no cluster: no API server, no kubelet, no network but
loopback. What it takes from Kubernetes are the rules that decide who loses a request:

- a Deployment's pods are replaced as its controller does it, by `maxSurge`, `maxUnavailable`,
  `minReadySeconds`, or `Recreate`;
- a pod is ready when its `httpGet` or `tcpSocket` readiness probe succeeds, or, without one, as
  soon as its process runs;
- a pod that is to go leaves the endpoints at once, sleeps for its `preStop.sleep`, then gets
  SIGTERM, and SIGKILL when `terminationGracePeriodSeconds` are over, which run from the first;
- the balancer learns of all this after a lag.

The manifest's seconds may be scaled, so that a test takes less time. The stage has one thread with
a loop of its own; `start`, `restart`, `progress`, `pods` and `stop` may be called from another.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from webhook.demo import app
from webhook.demo.balancer import Address, Balancer
from webhook.proof.failures import Pod
from webhook.proof.run import Progress
from webhook.workload import (
    DEPLOYMENT,
    Json,
    containers,
    grace_seconds,
    mapping,
    pre_stop,
    resolved,
    rolling_update,
    strategy_type,
)

_STEP_SECONDS: Final = 0.01
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_MOST_PODS: Final = 100
_LINUX: Final = sys.platform == "linux"


class StageError(Exception):
    """A manifest that cannot be played, or a stage that does not come up; the text says why."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a Deployment's manifest says of how its pods come and go; times in seconds.

    Args:
        replicas: how many pods there are to be.
        surge: how many more there may be.
        unavailable: how many may be missing.
        recreate: whether all go before any comes.
        min_ready: how long a pod must have been ready to count as available.
        grace: the grace period.
        sleep: how long a preStop hook sleeps.
        probe: the path of an HTTP probe, an empty one for TCP; none where there is no probe.
        period: between two probes.
        arguments: those of the application.
    """

    replicas: int
    surge: int
    unavailable: int
    recreate: bool
    min_ready: float
    grace: float
    sleep: float
    probe: str | None
    period: float
    arguments: tuple[str, ...] = ()


def rules(manifest: Json, scale: float = 1.0) -> Rules:
    """Read a Deployment's manifest.

    Args:
        manifest: the Deployment; its first container runs `demo-app`.
        scale: what its seconds are multiplied by. Those of the application's own arguments are not.

    Raises:
        StageError: it is none, or says what the stage does not play.
    """
    found = containers(manifest)
    if manifest.get("kind") != "Deployment" or not found:
        raise StageError("the stage plays a Deployment with a container: expected one")
    container = found[0]
    arguments = tuple(map(str, (*(container.get("command") or ()), *(container.get("args") or ()))))
    if "demo-app" not in arguments:
        message = "the stage plays the demo application alone: expected args: [demo-app, ...]"
        raise StageError(message)
    spec = mapping(manifest.get("spec"))
    replicas = spec.get("replicas", 1)
    if not isinstance(replicas, int) or not 1 <= replicas <= _MOST_PODS:
        message = f"replicas: {replicas!r}: expected 1 to {_MOST_PODS}"
        raise StageError(message)
    rolling = rolling_update(DEPLOYMENT, manifest)
    surge = resolved(rolling.get("maxSurge", "25%"), replicas, math.ceil)
    unavailable = resolved(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
    if not surge and not unavailable:
        unavailable = 1  # as the controller does: else it could do nothing at all
    probe = mapping(container.get("readinessProbe"))
    return Rules(
        replicas=replicas,
        surge=surge,
        unavailable=unavailable,
        recreate=strategy_type(DEPLOYMENT, manifest) == "Recreate",
        min_ready=scale * (spec.get("minReadySeconds") or 0),
        grace=scale * grace_seconds(manifest),
        sleep=scale * _sleep(pre_stop(container)),
        probe=_probe(probe),
        period=scale * (probe.get("periodSeconds") or 10),
        arguments=arguments[arguments.index("demo-app") + 1 :],
    )


def _sleep(hook: Json | None) -> float:
    if not hook:
        return 0.0
    if isinstance(sleep := hook.get("sleep"), dict):
        return float(sleep.get("seconds") or 0)
    command = mapping(hook.get("exec")).get("command") or []
    if command[:1] == ["sleep"] and len(command) == 2:  # noqa: PLR2004 - sleep N
        return float(command[1])
    message = f"preStop {hook}: the stage plays sleep, and exec [sleep, N]"
    raise StageError(message)


def _probe(probe: Json) -> str | None:
    if not probe:
        return None
    if isinstance(http := probe.get("httpGet"), dict):
        return str(http.get("path") or "/")
    if isinstance(probe.get("tcpSocket"), dict):
        return ""
    raise StageError("readinessProbe: the stage plays httpGet and tcpSocket")


@dataclass(slots=True, eq=False)
class _Running:
    """A pod: its process, and what becomes of it."""

    pod: Pod
    address: Address
    new: bool
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None


class Stage:
    """Pods, a balancer and a controller.

    Args:
        manifest: a Deployment.
        lag: after how many seconds the balancer knows that a pod has become ready, or is to go.
        scale: what the manifest's seconds are multiplied by.
        mode: the balancer's.
    """

    def __init__(
        self, manifest: Json, *, lag: float = 0.0, scale: float = 1.0, mode: str = "tcp"
    ) -> None:
        self.rules = rules(manifest, scale)
        self.url = ""
        self._name = str(mapping(manifest.get("metadata")).get("name") or "demo")
        self._lag = lag
        self._pods: list[_Running] = []
        self._view: dict[str, Address] = {}
        self._made = 0
        self._rolling = False
        self._done: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._balancer = Balancer(lambda: list(self._view.values()), mode)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        # An address for each pod, as in a cluster, where the system has them (Linux: 127/8).
        self._network = f"127.{random.randint(10, 250)}.{random.randint(0, 255)}"  # noqa: S311
        self._port = random.randint(20000, 29999)  # noqa: S311 - not a secret

    # --- what others call ------------------------------------------------------------------------

    def start(self) -> None:
        """Bring up all pods and the balancer; returns when every pod is known to it.

        Raises:
            StageError: they do not come up.
        """
        self._thread.start()
        try:
            self._call(self._start(), _START_SECONDS)
        except TimeoutError:
            raise StageError("the pods of the stage did not become ready within a minute") from None

    def restart(self) -> None:
        """Begin to replace every pod."""
        self._call(self._begin(), _STOP_SECONDS)

    def progress(self) -> Progress:
        """Tell how far the rollout is."""
        new = [each for each in self._pods if each.new]
        old = [each for each in self._pods if not each.new and each.pod.gone is None]
        available = sum(each.pod.available is not None for each in new)
        ended = [each.pod.gone for each in self._pods if not each.new and each.pod.gone is not None]
        gone = max(ended, default=self._done) if not old and self._done is not None else None
        text = (
            f"{available} of {self.rules.replicas} new pods are available, {len(old)} old ones left"
        )
        return Progress(text, self._done, gone)

    def pods(self) -> Sequence[Pod]:
        """Tell what became of each pod, by the monotonic clock."""
        return [replace(each.pod) for each in self._pods]

    def stop(self) -> None:
        """End everything that was started."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(TimeoutError):
            self._call(self._stop(), _STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, what: Any, seconds: float) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise

    # --- the controller --------------------------------------------------------------------------

    async def _start(self) -> None:
        for _ in range(self.rules.replicas):
            self._create(new=False)
        while not self._settled():  # noqa: ASYNC110 - polled, as a controller does
            await asyncio.sleep(_STEP_SECONDS)
        await self._listening()
        host, port = await self._balancer.start()
        self.url = f"http://{host}:{port}/order"

    def _settled(self) -> bool:
        known = len(self._view) == self.rules.replicas
        return known and all(each.pod.available is not None for each in self._pods)

    async def _listening(self) -> None:
        """Wait until each pod answers: a rollout begins from a workload that works."""
        for each in self._pods:
            while not await _tries(each.address, ""):  # noqa: ASYNC110 - polled, as probes are
                await asyncio.sleep(_STEP_SECONDS)

    async def _begin(self) -> None:
        self._rolling = True
        self._later(self._roll())

    async def _stop(self) -> None:
        await self._balancer.stop()
        for task in [*self._tasks, *(each.task for each in self._pods if each.task)]:
            task.cancel()
        for each in self._pods:
            if each.process is not None and each.process.returncode is None:
                each.process.kill()
                await each.process.wait()

    def _later(self, what: Any) -> None:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _roll(self) -> None:
        while True:
            old = [each for each in self._pods if not each.new and _stays(each)]
            new = [each for each in self._pods if each.new]
            available = [each for each in (*old, *new) if each.pod.available is not None]
            if not old and len(new) == self.rules.replicas and len(available) == len(new):
                self._done = time.monotonic()
                return
            if self.rules.recreate:
                self._recreate(old, new)
            else:
                self._replace(old, new, available)
            await asyncio.sleep(_STEP_SECONDS)

    def _recreate(self, old: list[_Running], new: list[_Running]) -> None:
        for each in old:
            self._delete(each)
        if not new and all(each.pod.gone is not None for each in self._pods):
            for _ in range(self.rules.replicas):
                self._create(new=True)

    def _replace(self, old: list[_Running], new: list[_Running], available: list[_Running]) -> None:
        """One step of the Deployment controller's rolling update."""
        rules = self.rules
        room = rules.replicas + rules.surge - len(old) - len(new)
        for _ in range(min(room, rules.replicas - len(new))):
            self._create(new=True)
        spare = len(available) - (rules.replicas - rules.unavailable)
        for each in old[: max(0, spare)]:
            self._delete(each)

    # --- pods ------------------------------------------------------------------------------------

    def _create(self, *, new: bool) -> None:
        self._made += 1
        number = self._made
        if _LINUX:
            address = (f"{self._network}.{number % 250 + 1}", self._port)
        else:
            address = ("127.0.0.1", _free_port())
        name = f"{self._name}-{'new' if new else 'old'}-{number}"
        pod = Pod(name, old=not new, created=time.monotonic(), probed=self.rules.probe is not None)
        running = _Running(pod, address, new)
        self._pods.append(running)
        running.task = self._loop.create_task(self._live(running))

    async def _live(self, running: _Running) -> None:
        pod, rules = running.pod, self.rules
        host, port = running.address
        # The file itself, and nothing else on the path: it needs the standard library alone.
        running.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(app.__file__)), *rules.arguments),
            *("--host", host, "--port", str(port), "--pod", pod.name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._later(self._watch(running, running.process))
        if rules.probe is not None:
            while not await _tries(running.address, rules.probe):  # noqa: ASYNC110 - so are probes
                await asyncio.sleep(min(rules.period, 1.0))
        if not _stays(running):
            return
        pod.ready = time.monotonic()
        self._later(self._endpoint(running, there=True))
        await asyncio.sleep(rules.min_ready)
        if _stays(running):
            pod.available = time.monotonic()

    async def _watch(self, running: _Running, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        pod = running.pod
        pod.stopped = time.monotonic()
        pod.exit_code = 128 - status if status < 0 else status
        if pod.terminating is not None:
            pod.gone = pod.stopped

    def _delete(self, running: _Running) -> None:
        pod = running.pod
        pod.terminating, pod.grace = time.monotonic(), self.rules.grace
        self._later(self._endpoint(running, there=False))
        self._later(self._end(running))

    async def _end(self, running: _Running) -> None:
        rules, process = self.rules, running.process
        if process is None:
            return
        await asyncio.sleep(min(rules.sleep, rules.grace))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), max(0.0, rules.grace - rules.sleep))
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _endpoint(self, running: _Running, *, there: bool) -> None:
        """Let the balancer know, after its lag."""
        await asyncio.sleep(self._lag)
        if not there:
            self._view.pop(running.pod.name, None)
        elif _stays(running):
            self._view[running.pod.name] = running.address


def _stays(running: _Running) -> bool:
    return running.pod.terminating is None and running.pod.stopped is None


async def _tries(address: Address, path: str) -> bool:
    """Probe once: connect, and with a path ask for it, too."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(*address)
            try:
                if not path:
                    return True
                request = f"GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                status = (await reader.readline()).split(b" ")
                return len(status) > 1 and status[1] == b"200"
            finally:
                writer.close()
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
