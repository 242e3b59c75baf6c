"""What a cluster and an application take: the timings file, its defaults, its errors.

A value is a number of seconds, or a mapping of percentiles. The course of a rollout is simulated
with the median (`p50`); what may be lost is bounded by the slowest (`max`). `docs/timings.md` says
what each key means, and why its default is what it is.

Nothing here opens a file: `parse` takes the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from webhook.decision.workload import KINDS, Kind

LONGEST_SECONDS: Final = 86_400
GREATEST_RATE: Final = 1e9
LONGEST_TEXT: Final = 2**18
MOST_WORKLOADS: Final = 2_000
FORMAT_VERSION: Final = 1


class TimingsError(ValueError):
    """A timings file that cannot be used: where, what it was, and what would be right."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long something takes: the median, the 99th percentile, and the longest, in seconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: float) -> Seconds:
        """Make one that always takes as long."""
        return cls(seconds, seconds, seconds)


@dataclass(frozen=True, slots=True)
class Application:
    """What the application takes.

    Args:
        start: from its container running until it answers.
        stop: from SIGTERM until its process has ended.
        request: the longest usual request.
    """

    start: Seconds = Seconds(5, 5, 5)
    stop: Seconds = Seconds(1, 1, 1)
    request: Seconds = Seconds(0.1, 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class PodTimes:
    """What the node takes.

    Args:
        start: from the pod's creation until its first container runs.
        end: from the end of its last process until the pod is gone, at the longest.
        image_pull: what fetching the image adds.
    """

    start: Seconds = Seconds(1, 1, 1)
    end: Seconds = Seconds(0.5, 0.5, 0.5)
    image_pull: Seconds = Seconds(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Propagation:
    """How long it takes until the last one knows.

    Args:
        add: that a pod is ready.
        remove: that a pod is on its way out.
    """

    add: Seconds
    remove: Seconds


SERVICE: Final = Propagation(Seconds(0.3, 1, 3), Seconds(0.1, 1, 3))
"""kube-proxy writes its rules at once where it was quiet, else once a second (`minSyncPeriod`)."""

BALANCER: Final = Propagation(Seconds.of(15), Seconds.of(30))
"""What a load balancer takes of which nothing is known but that it is there."""


@dataclass(frozen=True, slots=True)
class Times:
    """Everything that one workload's rollout depends on besides its manifest.

    Args:
        application: what the application takes.
        pod: what the node takes.
        service: how long the rules on the nodes take to follow.
        balancer: the same of a load balancer outside; none where there is none.
        rate: requests a second, for the whole workload.
    """

    application: Application = Application()
    pod: PodTimes = PodTimes()
    service: Propagation = SERVICE
    balancer: Propagation | None = None
    rate: float = 100.0


@dataclass(frozen=True, slots=True)
class Timings:
    """A timings file: what holds for all workloads, and what differs for some.

    Args:
        times: what holds for all.
        workloads: what holds for one, by `deployment/web` or `shop/deployment/web`.
    """

    times: Times = Times()
    workloads: Mapping[str, Times] = field(default_factory=dict)

    def of(self, kind: Kind, name: str, namespace: str = "") -> Times:
        """Give what holds for a workload; a key with its namespace beats one without."""
        if not self.workloads:
            return self.times
        short = f"{kind.name.lower()}/{name}"
        found = self.workloads.get(f"{namespace}/{short}") if namespace else None
        return found or self.workloads.get(short) or self.times


def parse(text: str, where: str) -> Timings:
    """Read a timings file.

    Args:
        text: the YAML.
        where: what to call it in an error.

    Raises:
        TimingsError: it is no YAML, or not of this form.
    """
    if len(text) > LONGEST_TEXT:
        message = f"{where}: {len(text)} characters: expected at most {LONGEST_TEXT}"
        raise TimingsError(message)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"{where}: not YAML: {' '.join(str(error).split())}"
        raise TimingsError(message) from None
    except RecursionError:
        message = f"{where}: nested too deeply"
        raise TimingsError(message) from None
    except ValueError as error:  # an impossible date, or a number of too many digits
        message = f"{where}: not YAML: {error}"
        raise TimingsError(message) from None
    try:
        return _file({} if content is None else content)
    except _WrongError as wrong:
        message = f"{where}: {wrong}"
        raise TimingsError(message) from None


def over(timings: Timings, content: Any, where: str) -> Timings:
    """Lay single values over what holds for all workloads; what holds for one stays.

    Args:
        timings: what holds so far.
        content: a mapping of a timings file's form, without `workloads`.
        where: what to call it in an error.

    Raises:
        TimingsError: it is not of this form.
    """
    if not isinstance(content, dict):
        message = f"{where}: {_quote(content)}: expected a mapping of {', '.join(_TIMES)}"
        raise TimingsError(message)
    try:
        return replace(timings, times=_times(timings.times, content, ""))
    except _WrongError as wrong:
        message = f"{where}: {wrong}"
        raise TimingsError(message) from None


class _WrongError(ValueError):
    """What is wrong, without the name of the file."""


def _file(content: Any) -> Timings:
    keys = ("formatVersion", *_TIMES, "workloads")
    given = _mapping(content, "", keys)
    version = given.get("formatVersion", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        message = f"formatVersion: {_quote(version)}: expected {FORMAT_VERSION}"
        raise _WrongError(message)
    times = _times(Times(), {key: given[key] for key in _TIMES if key in given}, "")
    workloads = given.get("workloads")
    workloads = {} if workloads is None else workloads
    if not isinstance(workloads, dict):
        message = (
            f"workloads: {_quote(workloads)}: expected a mapping, such as deployment/web: {{}}"
        )
        raise _WrongError(message)
    if len(workloads) > MOST_WORKLOADS:
        message = f"workloads: {len(workloads)} of them: expected at most {MOST_WORKLOADS}"
        raise _WrongError(message)
    return Timings(
        times,
        {_workload(key): _times(times, own, f"workloads.{key}.") for key, own in workloads.items()},
    )


def _workload(key: Any) -> str:
    """Check the key of a workload: KIND/NAME or NAMESPACE/KIND/NAME."""
    parts = key.split("/") if isinstance(key, str) else []
    kinds = [kind.lower() for kind in KINDS]
    if len(parts) in (2, 3) and all(parts) and parts[-2].lower() in kinds:
        return "/".join([*parts[:-2], parts[-2].lower(), parts[-1]])
    message = (
        f"workloads: {_quote(key)}: expected KIND/NAME or NAMESPACE/KIND/NAME, where the kind is "
        + ", ".join(kinds[:-1])
        + f" or {kinds[-1]}"
    )
    raise _WrongError(message)


def _times(base: Times, content: Any, at: str) -> Times:
    given = _mapping(content, at, tuple(_TIMES))
    return replace(base, **{key: _TIMES[key](base, own, at + key) for key, own in given.items()})


def _application(base: Times, content: Any, at: str) -> Application:
    given = _mapping(content, at + ".", ("start", "stop", "request"))
    return replace(base.application, **_each(given, at))


def _pod(base: Times, content: Any, at: str) -> PodTimes:
    given = _mapping(content, at + ".", ("start", "end", "imagePull"))
    named = {"imagePull": "image_pull"}
    read = _each(given, at)
    return replace(base.pod, **{named.get(key, key): each for key, each in read.items()})


def _service(base: Times, content: Any, at: str) -> Propagation:
    return replace(base.service, **_each(_mapping(content, at + ".", ("add", "remove")), at))


def _balancer(base: Times, content: Any, at: str) -> Propagation | None:
    if content is None:  # so does a workload say that it has none
        return None
    given = _mapping(content, at + ".", ("add", "remove"))
    return replace(base.balancer or BALANCER, **_each(given, at))


def _rate(_base: Times, content: Any, at: str) -> float:
    return _number(content, at, GREATEST_RATE, "requests a second")


_TIMES: Final[Mapping[str, Callable[[Times, Any, str], Any]]] = {
    "application": _application,
    "pod": _pod,
    "service": _service,
    "balancer": _balancer,
    "rate": _rate,
}


def _mapping(content: Any, at: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if content is None and at:
        return {}
    known = ", ".join(keys)
    if not isinstance(content, dict):
        message = (
            f"{at.rstrip('.') or 'the file'}: {_quote(content)}: expected a mapping of {known}"
        )
        raise _WrongError(message)
    for key in content:
        if key not in keys:
            message = f"{at}{_plain(key)}: unknown key; known are {known}"
            raise _WrongError(message)
    return content


def _each(given: dict[str, Any], at: str) -> dict[str, Seconds]:
    return {key: _seconds(value, f"{at}.{key}") for key, value in given.items()}


_PERCENTILES: Final = ("p50", "p99", "max")


def _seconds(value: Any, at: str) -> Seconds:
    """Read a number, or percentiles; one that is not given is the next greater, else the last."""
    if not isinstance(value, dict):
        return Seconds.of(_number(value, at, LONGEST_SECONDS, "seconds"))
    given = _mapping(value, at + ".", _PERCENTILES)
    if not given:
        message = f"{at}: {{}}: expected seconds, or a mapping of {', '.join(_PERCENTILES)}"
        raise _WrongError(message)
    found = [
        _number(given[key], f"{at}.{key}", LONGEST_SECONDS, "seconds") if key in given else None
        for key in _PERCENTILES
    ]
    known = [each for each in found if each is not None]
    if known != sorted(known):
        said = ", ".join(f"{key} {given[key]}" for key in _PERCENTILES if key in given)
        message = f"{at}: {said}: expected p50 to be at most p99, and p99 at most max"
        raise _WrongError(message)
    p50, p99, most = found
    p99 = p99 if p99 is not None else most if most is not None else known[-1]
    return Seconds(known[0] if p50 is None else p50, p99, known[-1] if most is None else most)


def _number(value: Any, at: str, most: float, unit: str) -> float:
    """Read a number of a unit; a bool, a NaN and a text are none."""
    if type(value) in (int, float) and 0 <= value <= most:  # a NaN is neither
        return float(value)
    message = f"{at}: {_quote(value)}: expected {unit}, a number from 0 to {most:,.0f}"
    raise _WrongError(message)


def _quote(value: Any) -> str:
    """Quote what somebody wrote, on one line and never at length."""
    return _plain(repr(value))


def _plain(value: Any) -> str:
    text = "".join(each if each.isprintable() else "?" for each in str(value)[:60])
    return text + ("…" if len(str(value)) > len(text) else "")
