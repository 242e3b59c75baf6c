"""What `seamless prove` does in a cluster: watches, rolls, copies, sends from a pod, cleans up.

    PodLog      what became of each pod, as the API server told it, by this process's clock
    Workload    a workload that is rolled: `webhook.proof.run.Target`
    PodSender   the load generator in a pod: `webhook.proof.sender.Sender`
    Made        what was made, and is to be removed again

An API server that is away for a moment interrupts nothing: watches are begun again, and whatever
was missed meanwhile counts as happening when it is seen.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import orjson
import urllib3

from webhook.cluster.client import (
    FORBIDDEN,
    GONE,
    NOT_FOUND,
    Api,
    ApiError,
    Backoff,
    Json,
)
from webhook.cluster.workloads import MissingRightError, Workloads
from webhook.proof.copying import MANAGER, SELECTOR, job_secret, label_selector, load_pod
from webhook.proof.failures import Pod
from webhook.proof.load import Job
from webhook.proof.reading import MOST_LINE, Reading, ReportError
from webhook.proof.run import Progress
from webhook.proof.sender import SenderError
from webhook.rollouts import patience, progress
from webhook.workload import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, Kind, mapping

MERGE_PATCH: Final = "application/merge-patch+json"
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
_WATCH_SECONDS: Final = 240
_SILENCE_SECONDS: Final = 20.0
_SYNC_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 0.5
_POD_START_SECONDS: Final = 180.0
_LOG_SINCE_SECONDS: Final = 30
_END_SECONDS: Final = 5.0
_BAD_REQUEST: Final = 400
_HALF_A_SECOND: Final = 0.5
_MADE_KINDS: Final = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET)
_NEVER_STARTS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)


# --- watching ------------------------------------------------------------------------------------


class _Watch:
    """Lists a collection, then watches it, again and again, in a thread of its own.

    Args:
        api: the Kubernetes API.
        path: the collection's.
        selector: which of it.
        take: takes each object, what happened to it, and when that was known.
    """

    def __init__(
        self, api: Api, path: str, selector: str, take: Callable[[str, Json, float], None]
    ) -> None:
        self._api, self._path, self._selector, self._take = api, path, selector, take
        self._stopped = threading.Event()
        self._synced = threading.Event()
        self._error: ApiError | None = None
        self._response: Any = None
        self._known: dict[str, Json] = {}
        self._version: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin; returns when all that is there is known.

        Raises:
            ApiError: it cannot be listed.
        """
        self._thread.start()
        synced = self._synced.wait(_SYNC_SECONDS)
        if self._error is not None:
            raise self._error
        if not synced:
            message = f"GET {self._path}: no list within {_SYNC_SECONDS:.0f} s"
            raise ApiError(message)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                response.shutdown()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        backoff = Backoff(first=0.1, most=5.0)
        while not self._stopped.is_set():
            try:
                if self._version is None:
                    self._version = self._list()
                    self._synced.set()
                self._follow(self._version)
                backoff.succeeded()
            except ApiError as error:
                if error.status == FORBIDDEN and not self._synced.is_set():
                    self._error = _missing(error, "list and watch", self._path)
                    self._synced.set()
                    return
                if error.status == GONE:
                    self._version = None
                self._stopped.wait(backoff.failed(error))

    def _list(self) -> str:
        found = self._api.request("GET", self._path, query={"labelSelector": self._selector})
        now = time.monotonic()
        there = {}
        for each in found.get("items") or ():
            there[_uid(each)] = each
            self._take("MODIFIED", each, now)
        for uid in self._known.keys() - there.keys():
            self._take("DELETED", self._known[uid], now)
        self._known = there
        return str(mapping(found.get("metadata")).get("resourceVersion") or "0")

    def _follow(self, version: str) -> None:
        query = {
            "watch": "1",
            "labelSelector": self._selector,
            "resourceVersion": version,
            "timeoutSeconds": _WATCH_SECONDS,
            "allowWatchBookmarks": "true",
        }
        self._response = response = self._api.stream(
            self._path,
            query=query,
            accept="application/json",
            silence=_WATCH_SECONDS + _SILENCE_SECONDS,
        )
        try:
            for line in lines(response):
                self._event(orjson.loads(line), time.monotonic())
                if self._stopped.is_set():
                    break
        except (
            urllib3.exceptions.HTTPError,
            OSError,
            ValueError,
            AttributeError,
            KeyError,
            TypeError,
        ) as error:
            message = f"watch of {self._path}: {error or type(error).__name__}"
            raise ApiError(message) from None
        finally:
            self._response = None
            response.close()

    def _event(self, event: Json, now: float) -> None:
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            message = f"watch of {self._path}: {mapping(thing).get('message')}"
            raise ApiError(message, GONE)
        version = mapping(thing.get("metadata")).get("resourceVersion")
        if kind != "BOOKMARK":
            if kind == "DELETED":
                self._known.pop(_uid(thing), None)
            else:
                self._known[_uid(thing)] = thing
            self._take(kind, thing, now)
        if version is not None:
            self._version = str(version)


def _uid(thing: Json) -> str:
    return str(mapping(thing.get("metadata")).get("uid"))


def lines(response: Any) -> Iterator[bytes]:
    """Split a stream at line ends, wherever its pieces are cut.

    Raises:
        ValueError: a line without end.
    """
    rest = b""
    for piece in response.stream(65536, decode_content=True):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > MOST_LINE:
            message = f"a line of more than {MOST_LINE} bytes"
            raise ValueError(message)


class PodLog:
    """What became of each pod of a selector, by this process's monotonic clock.

    Args:
        api: the Kubernetes API.
        namespace: the pods'.
        selector: a workload's `spec.selector`.
    """

    def __init__(self, api: Api, namespace: str, selector: Any) -> None:
        self._pods: dict[str, Pod] = {}
        self._finished: dict[str, float] = {}
        self._offsets: list[float] = []
        self._lock = threading.Lock()
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        self._watch = _Watch(api, path, label_selector(selector), self._take)

    def start(self) -> None:
        """Begin; returns when all pods are known. Raises `ApiError`."""
        self._watch.start()

    def stop(self) -> None:
        """End."""
        self._watch.stop()

    def mark_old(self) -> None:
        """Count all that are there as those that the rollout is to replace."""
        with self._lock:
            for pod in self._pods.values():
                pod.old = True

    def old_left(self) -> int:
        """Count the old pods that are not gone yet."""
        with self._lock:
            return sum(pod.old and pod.gone is None for pod in self._pods.values())

    def last_gone(self) -> float | None:
        """Tell when the last old pod went."""
        with self._lock:
            gone = [pod.gone for pod in self._pods.values() if pod.old and pod.gone is not None]
        return max(gone, default=None)

    def pods(self) -> list[Pod]:
        """Tell what became of each; those that were gone before the rollout are left out."""
        with self._lock:
            offset = min(self._offsets, default=None)
            return [self._told(uid, pod, offset) for uid, pod in self._pods.items()]

    def _told(self, uid: str, pod: Pod, offset: float | None) -> Pod:
        """Give a pod with the best guess at when its containers ended.

        The kubelet tells that a second or two later, with the time to the second in it.
        """
        finished = self._finished.get(uid)
        if finished is None or offset is None or pod.terminating is None:
            return replace(pod)
        latest = pod.stopped if pod.stopped is not None else pod.gone
        guess = max(pod.terminating, finished + offset + _HALF_A_SECOND)
        return replace(pod, stopped=guess if latest is None else min(latest, guess))

    def _take(self, event: str, thing: Json, now: float) -> None:
        metadata, status = mapping(thing.get("metadata")), mapping(thing.get("status"))
        uid = _uid(thing)
        with self._lock:
            pod = self._pods.get(uid)
            if pod is None:
                pod = self._pods[uid] = Pod(str(metadata.get("name")), created=now)
                pod.probed = _probed(thing)
            self._take_state(pod, status, now)
            if metadata.get("deletionTimestamp") and pod.terminating is None:
                pod.terminating = now
                pod.grace = float(metadata.get("deletionGracePeriodSeconds") or 0)
                end = _seconds(metadata["deletionTimestamp"])
                if end is not None:
                    self._offsets.append(now - (end - pod.grace))
            self._take_end(uid, pod, status, now)
            if event == "DELETED" and pod.gone is None:
                pod.gone = now

    @staticmethod
    def _take_state(pod: Pod, status: Json, now: float) -> None:
        ready = any(
            mapping(each).get("type") == "Ready" and mapping(each).get("status") == "True"
            for each in status.get("conditions") or ()
        )
        if ready:
            pod.ready, pod.unready = (now if pod.ready is None else pod.ready), None
        elif pod.ready is not None and pod.terminating is None and pod.unready is None:
            pod.unready = now
        counts = (
            mapping(each).get("restartCount") for each in status.get("containerStatuses") or ()
        )
        pod.restarts = sum(each for each in counts if isinstance(each, int))

    def _take_end(self, uid: str, pod: Pod, status: Json, now: float) -> None:
        states = [
            mapping(mapping(mapping(each).get("state")).get("terminated"))
            for each in status.get("containerStatuses") or ()
        ]
        if not states or not all(states) or pod.stopped is not None:
            return
        pod.stopped = now
        codes = [each.get("exitCode") for each in states]
        pod.exit_code = next((code for code in codes if isinstance(code, int) and code), 0)
        ends = [_seconds(each.get("finishedAt")) for each in states]
        known = [each for each in ends if each is not None]
        if known:
            self._finished[uid] = max(known)


def _probed(pod: Json) -> bool:
    found = mapping(pod.get("spec")).get("containers") or ()
    return any(mapping(each).get("readinessProbe") for each in found)


def _seconds(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


# --- the workload --------------------------------------------------------------------------------


class Workload:
    """A workload that is rolled.

    Args:
        api: the Kubernetes API.
        kind: its kind.
        workload: as it is stored.
    """

    def __init__(self, api: Api, kind: Kind, workload: Json) -> None:
        self._api, self._kind = api, kind
        self._reader = Workloads(api)
        metadata = mapping(workload.get("metadata"))
        self.namespace, self.name = str(metadata.get("namespace")), str(metadata.get("name"))
        self._patience = patience(kind, workload)
        self._log = PodLog(api, self.namespace, mapping(workload.get("spec")).get("selector"))
        self._began = 0.0
        self._asked = 0.0
        self._moved: tuple[tuple[int, ...], float] = ((), 0.0)
        self._state = Progress("not begun")
        self._done: float | None = None

    def watch(self) -> None:
        """Begin to watch its pods. Raises `ApiError`."""
        self._log.start()

    def stop(self) -> None:
        """End watching."""
        self._log.stop()

    def restart(self) -> None:
        """Do what `kubectl rollout restart` does. Raises `ApiError`."""
        self._log.mark_old()
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        annotations = {RESTARTED_AT: when}
        path = collection(self._kind, self.namespace) + "/" + quote(self.name, safe="")
        self._began = self._asked = time.monotonic()
        self._moved = ((), self._began)
        ask(
            self._api,
            "PATCH",
            path,
            query={"fieldManager": MANAGER},
            body={"spec": {"template": {"metadata": {"annotations": annotations}}}},
            content_type=MERGE_PATCH,
        )
        self._state = Progress("begun")

    def progress(self) -> Progress:
        """Tell how far it is, as `kubectl rollout status` does: asked twice a second at most."""
        now = time.monotonic()
        left = self._log.old_left()
        if self._done is None and now - self._asked >= _ASK_SECONDS:
            self._asked = now
            self._state = self._ask(now)
        if self._done is None:
            return self._state
        gone = None if left else self._log.last_gone() or self._done
        if gone is None and now - self._moved[1] > self._patience:
            return replace(self._state, failed=f"{left} old pods did not go")
        text = "done" if gone is not None else f"rolled out; {left} old pods are yet to go"
        return Progress(text, self._done, gone)

    def _ask(self, now: float) -> Progress:
        try:
            workload = self._reader.get(self._kind, self.namespace, self.name)
        except ApiError as error:
            return Progress(self._state.text, failed=str(error))
        found = progress(self._kind, workload)
        if found.steps != self._moved[0]:
            self._moved = (found.steps, now)
        if found.done:
            self._done = now
            self._moved = (found.steps, now)
            return Progress(found.text, now)
        failed = found.text if found.failed or found.held else None
        if failed is None and now - self._moved[1] > self._patience:
            failed = f"no step ahead for {self._patience} s: {found.text}"
        return Progress(found.text, failed=failed)

    def pods(self) -> Sequence[Pod]:
        """Tell what became of its pods."""
        return self._log.pods()


def collection(kind: Kind, namespace: str) -> str:
    """Give the path of a kind's collection."""
    return (
        f"/apis/{kind.group}/{kind.version}/namespaces/{quote(namespace, safe='')}/{kind.resource}"
    )


def core(namespace: str, resource: str) -> str:
    """Give the path of a collection of `v1`."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/{resource}"


_VERBS: Final = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


def ask(api: Api, method: str, path: str, **rest: Any) -> Json:
    """Ask once; a right that is missing is named.

    Raises:
        ApiError: it failed.
    """
    try:
        return api.request(method, path, **rest)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        raise _missing(error, _VERBS[method], path) from None


def _missing(error: ApiError, verb: str, path: str) -> ApiError:
    if " cannot " not in str(error):
        return error  # a policy's refusal, which no rule would lift
    parts = path.split("/namespaces/", 1)
    resource = parts[-1].split("/")[1] if len(parts) > 1 and "/" in parts[-1] else parts[-1]
    return MissingRightError(f"{error}; needs: {verb} {resource}", FORBIDDEN)


# --- what is made --------------------------------------------------------------------------------


@dataclass(slots=True)
class Made:
    """What was made, in order; it is removed the last first.

    Args:
        api: the Kubernetes API.
    """

    api: Api
    paths: list[str]

    def create(self, path: str, thing: Json) -> Json:
        """Make an object. Raises `ApiError`."""
        name = str(mapping(thing.get("metadata")).get("name"))
        # Noted before it is asked for: an answer that is lost leaves an object behind.
        self.paths.append(f"{path}/{quote(name, safe='')}")
        return ask(self.api, "POST", path, query={"fieldManager": MANAGER}, body=thing)

    def remove(self) -> list[str]:
        """Remove all; gives what could not be."""
        failed = []
        while self.paths:
            path = self.paths.pop()
            try:
                delete(self.api, path)
            except ApiError as error:
                failed.append(str(error))
        return failed


def delete(api: Api, path: str) -> bool:
    """Delete an object and what it owns; tells whether it was there. Raises `ApiError`."""
    try:
        ask(api, "DELETE", path, query={"propagationPolicy": "Background"})
    except ApiError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return True


def clean(api: Api, namespace: str | None) -> list[str]:
    """Remove everything that any run has left behind; names what was removed.

    Args:
        api: the Kubernetes API.
        namespace: where; everywhere if none.

    Raises:
        ApiError: it cannot be listed, or removed.
    """
    reader = Workloads(api)
    within = "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"
    removed = []
    places = [("/api/v1", "", "pods"), ("/api/v1", "", "services")]
    places += [
        (f"/apis/{each.group}/{each.version}", each.group, each.resource) for each in _MADE_KINDS
    ]
    for prefix, group, resource in reversed(places):
        path = f"{prefix}{within}/{resource}"
        found = [each for page in reader.listed(path, group, resource, SELECTOR) for each in page]
        for each in found:
            metadata = mapping(each.get("metadata"))
            if metadata.get("deletionTimestamp") or metadata.get("ownerReferences"):
                continue
            where, name = str(metadata.get("namespace")), str(metadata.get("name"))
            there = f"{prefix}/namespaces/{quote(where, safe='')}/{resource}"
            if delete(api, f"{there}/{quote(name, safe='')}"):
                removed.append(f"{resource}/{name} in namespace {where}")
    return removed


# --- the load, from a pod ------------------------------------------------------------------------


class PodSender:
    """A load generator in a pod of its own, read by its log.

    Args:
        api: the Kubernetes API.
        namespace: where the pod is made.
        image: what it runs: the webhook's.
        job: what it is to send.
        made: notes what is made.
        wait: waits a number of seconds.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        image: str,
        job: Job,
        made: Made,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.reading = Reading(job.rate)
        self._api, self._namespace, self._image, self._job = api, namespace, image, job
        self._made, self._wait = made, wait
        self._name = f"seamless-load-{secrets.token_hex(4)}"
        self._first = threading.Event()
        self._stopped = threading.Event()
        self._problem: str | None = None
        self._response: Any = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Make the pod; returns when it sends.

        Raises:
            SenderError: it does not start.
        """
        pods = core(self._namespace, "pods")
        seconds = int(self._job.seconds) + int(_POD_START_SECONDS)
        pod = load_pod(self._name, self._namespace, self._image, seconds)
        try:
            made = self._made.create(pods, pod)
            # After the pod, which owns it: whoever deletes the pod needs no right on Secrets.
            secret = job_secret(made, self._job.dump())
            ask(self._api, "POST", core(self._namespace, "secrets"), body=secret)
        except ApiError as error:
            message = f"the pod that sends the load cannot be made: {error}"
            raise SenderError(message) from None
        self._thread.start()
        end = time.monotonic() + _POD_START_SECONDS
        while not self._first.is_set():
            if self._problem is not None:
                raise SenderError(self._problem)
            if time.monotonic() > end:
                message = f"the pod {self._name} did not start within {_POD_START_SECONDS:.0f} s"
                raise SenderError(message)
            self._wait(0.05)

    def problem(self) -> str | None:
        """Say why no more is reported, if that is so."""
        return self._problem

    def stop(self) -> None:
        """Remove the pod."""
        self._stopped.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
                response.shutdown()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        with contextlib.suppress(ApiError):  # what is left is removed with all that was made
            delete(self._api, f"{core(self._namespace, 'pods')}/{self._name}")

    def _read(self) -> None:
        path = f"{core(self._namespace, 'pods')}/{self._name}"
        backoff = Backoff(first=0.2, most=1.0)
        began = False
        while not self._stopped.is_set():
            query: dict[str, Any] = {"follow": "true", "container": "load"}
            if began:
                query["sinceSeconds"] = _LOG_SINCE_SECONDS
            try:
                self._response = self._api.stream(
                    path + "/log", query=query, accept="*/*", silence=_SILENCE_SECONDS
                )
                began = self._follow(self._response) or began
            except ApiError as error:
                if error.status not in (None, _BAD_REQUEST) and error.status < 500:  # noqa: PLR2004
                    self._problem = f"the load generator's log cannot be read: {error}"
                    return
            ended = self._ended(path)
            if ended is not None and not self._stopped.is_set():
                self._problem = ended
                return
            self._stopped.wait(backoff.failed())

    def _follow(self, response: Any) -> bool:
        took = False
        try:
            for line in lines(response):
                if self._stopped.is_set():
                    break
                if not line.startswith(b"{"):
                    continue  # what it says to people, such as a warning
                self.reading.take(line, time.monotonic())
                self._first.set()
                took = True
        except ReportError as error:
            self._problem = str(error)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            pass  # it is followed again
        finally:
            self._response = None
            response.close()
        return took

    def _ended(self, path: str) -> str | None:
        """Say why the pod will report no more; none where it goes on."""
        try:
            pod = self._api.request("GET", path)
        except ApiError as error:
            return f"the pod {self._name} is gone" if error.status == NOT_FOUND else None
        status = mapping(pod.get("status"))
        for each in status.get("containerStatuses") or ():
            state = mapping(mapping(each).get("state"))
            waiting, terminated = mapping(state.get("waiting")), mapping(state.get("terminated"))
            if waiting.get("reason") in _NEVER_STARTS:
                return (
                    f"the image {self._image} cannot be pulled ({waiting.get('reason')}): "
                    "expected --image with the webhook's image"
                )
            if terminated:
                said = self._said(path)
                return f"the load generator ended, with status {terminated.get('exitCode')}{said}"
        if status.get("phase") in ("Failed", "Succeeded"):
            return f"the pod {self._name} ended: {status.get('reason') or status.get('phase')}"
        return None

    def _said(self, path: str) -> str:
        query = {"container": "load", "tailLines": "3"}
        try:
            response = self._api.stream(
                path + "/log", query=query, accept="*/*", silence=_SILENCE_SECONDS
            )
            text = b" ".join(line for line in lines(response) if not line.startswith(b"{"))
            response.close()
        except (ApiError, urllib3.exceptions.HTTPError, OSError, ValueError):
            return ""
        found = " ".join(text.decode(errors="replace").split())[:300]
        return f": {found}" if found else ""
