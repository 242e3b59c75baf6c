"""`seamless serve`: the webhook."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import math
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from webhook.cli.common import Parser, UsageError, configuration, fail, quoted, whole_number
from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster
from webhook.decision.review import Request
from webhook.decision.settings import InvalidSettingError, Namespace
from webhook.precheck.targets import parse_duration
from webhook.serving import logs, tracing
from webhook.serving.signals import ending_signals
from webhook.serving.tracing import TracingError
from webhook.tls import certificates
from webhook.tls.certificates import CertificateError, Pair

if TYPE_CHECKING:
    from starlette.types import Scope

    from webhook.serving import app as server
    from webhook.serving.live import LiveConfiguration
    from webhook.serving.metrics import Metrics

PROGRAM: Final = "seamless serve"
_RESTART_SECONDS: Final = 1.0
_LEAST_INTERVAL_SECONDS: Final = 60
_LONGEST_INTERVAL_SECONDS: Final = 24 * 3600
_FETCH_SECONDS: Final = 0.5  # of the three that the API server gives us
log = logging.getLogger("webhook")

Sockets = tuple[socket.socket, socket.socket]


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that a worker is told."""

    configuration: Configuration
    given: argparse.Namespace
    own_namespace: str | None
    self_signed: Pair | None


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    try:
        given = _parser().parse_args(arguments)
        _check(given)
        settings = configuration(given.config)
        Admission(settings)
        own = not (given.tls_cert or given.ca_secret)
        names = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname()])
        options = Options(
            settings,
            given,
            os.environ.get("POD_NAMESPACE"),
            certificates.self_signed(names, certificates.utc_now()) if own else None,
        )
        sockets = (_listen(given.host, given.port), _listen(given.host, given.health_port))
    except (UsageError, InvalidSettingError, CertificateError, TracingError) as error:
        return fail(PROGRAM, error)
    logs.set_up(given.log_format, given.log_level)
    where = given.host if ":" not in given.host else f"[{given.host}]"
    log.info("serving https://%s:%d/mutate", where, sockets[0].getsockname()[1])
    log.info("health and metrics on http://%s:%d", where, sockets[1].getsockname()[1])
    if own:
        log.info("no certificate was given: serving on a self-signed one")
    if given.workers == 1:
        return _work(options, sockets)
    return _supervise(given.workers, options, sockets)


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Run the webhook.")
    everywhere = "0.0.0.0"  # noqa: S104 - the API server comes from elsewhere
    parser.add_argument("--host", default=everywhere, help=f"where to listen ({everywhere})")
    parser.add_argument("--port", type=_port, default=8443, help="the webhook, over TLS (8443)")
    parser.add_argument(
        "--health-port", type=_port, default=8080, help="/livez, /readyz and /metrics (8080)"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    parser.add_argument(
        "--client-ca", metavar="FILE", help="who may sign a client's certificate, asked for then"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration, YAML; a changed one is taken up"
    )
    parser.add_argument(
        "--config-map",
        metavar="NAME",
        help="ConfigMap of our namespace that the file is from: watched, as it is known earlier",
    )
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="the cluster, where this is no pod of it"
    )
    parser.add_argument(
        "--ca-secret",
        metavar="NAME",
        help="Secret of our namespace for a CA of our own: certificates look after themselves",
    )
    parser.add_argument(
        "--webhook-configuration", metavar="NAME", help="our MutatingWebhookConfiguration"
    )
    parser.add_argument("--service", metavar="NAME", help="the Service that we are called by")
    parser.add_argument("--workers", type=_workers, default=1, help="processes (1)")
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=10.0,
        help="how long to go on serving after SIGTERM (10)",
    )
    parser.add_argument(
        "--linger-seconds",
        type=_seconds,
        default=0.0,
        help="how long to leave idle connections to their clients after that (0)",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    parser.add_argument(
        "--log-level",
        choices=logs.LEVELS,
        default="info",
        help="the least to log; debug has a line for reviews that nothing came of, too (info)",
    )
    parser.add_argument(
        "--events", action="store_true", help="write Events on workloads that were patched"
    )
    parser.add_argument(
        "--status-interval",
        type=_interval,
        default=0,
        metavar="DURATION",
        help="how often to count workloads by where they stand, such as 10m; 0 is never (0)",
    )
    parser.add_argument(
        "--tracing",
        action="store_true",
        help="a span for each review, sent where the OTEL_* environment variables say",
    )
    return parser


def _port(text: str) -> int:
    return whole_number(text, 0, 65535)


def _workers(text: str) -> int:
    return whole_number(text, 1, 64)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 3600:  # noqa: PLR2004 - an hour, as every duration here
        message = f"expected seconds from 0 to 3600, not {quoted(text)}"
        raise UsageError(message)
    return seconds


def _interval(text: str) -> int:
    try:
        seconds = parse_duration(text, _LONGEST_INTERVAL_SECONDS)
    except ValueError as error:
        message = f"--status-interval: {quoted(text)}: {error}"
        raise UsageError(message) from None
    if 0 < seconds < _LEAST_INTERVAL_SECONDS:
        message = f"--status-interval: expected 0, or at least 1m, not {quoted(text)}"
        raise UsageError(message)
    return seconds


def _check(given: argparse.Namespace) -> None:
    """Find what contradicts itself before anything is begun."""
    if (given.tls_cert is None) != (given.tls_key is None):
        message = "--tls-cert and --tls-key go together: one of them is missing"
        raise UsageError(message)
    if given.tls_cert and given.ca_secret:
        message = "--tls-cert and --ca-secret contradict each other: one of them, or none"
        raise UsageError(message)
    if given.ca_secret and not (os.environ.get("POD_NAMESPACE") and _in_reach(given)):
        message = "--ca-secret needs a cluster in reach and our namespace in POD_NAMESPACE"
        raise UsageError(message)
    if given.config_map and not (os.environ.get("POD_NAMESPACE") and _in_reach(given)):
        message = "--config-map needs a cluster in reach and our namespace in POD_NAMESPACE"
        raise UsageError(message)
    if given.events and not _in_reach(given):
        message = "--events needs a cluster in reach"
        raise UsageError(message)
    if given.status_interval and not _in_reach(given):
        message = "--status-interval needs a cluster in reach"
        raise UsageError(message)
    if given.tracing:
        tracing.check()
    if given.client_ca and not (given.tls_cert or given.ca_secret):
        message = "--client-ca needs --tls-cert and --tls-key, or --ca-secret"
        raise UsageError(message)
    if given.tls_cert:
        pair = certificates.read(Path(given.tls_cert), Path(given.tls_key))
        certificates.check(pair)


def _in_reach(given: argparse.Namespace) -> bool:
    """Tell whether there is a cluster, without importing its client, which takes its time."""
    return bool(given.kubeconfig or os.environ.get("KUBERNETES_SERVICE_HOST"))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(2048)
    except (OSError, ValueError) as error:  # ValueError: no name that a resolver could be asked
        opened.close()
        why = error.strerror if isinstance(error, OSError) else error
        message = f"cannot listen on {host[:253]} port {port}: {why}"
        raise UsageError(message) from None
    opened.setblocking(False)  # noqa: FBT003 - socket's own signature
    return opened


# --- one process ---------------------------------------------------------------------------------


def _work(options: Options, sockets: Sockets, restarts: Callable[[], int] | None = None) -> int:
    """Serve until told to stop.

    Args:
        options: what to do.
        sockets: the webhook's and the plain one.
        restarts: tells how many workers were started in the place of others, if there are several.
    """
    import uvloop

    from webhook.serving import app as server
    from webhook.serving.metrics import Metrics

    given = options.given
    flood = logs.set_up(given.log_format, given.log_level)
    known: _Known = _Nothing()
    if _in_reach(given):
        from webhook.cluster.client import ClusterError

        try:
            known = _cluster(options)
        except ClusterError as error:
            return fail(PROGRAM, error)
    source = known.certificates or _source(options)
    live = _live(options, known)
    metrics = Metrics(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    metrics.include(live)
    state = server.State()

    def problems() -> list[str]:
        found = known.problems()
        if known.certificates is None:
            found += filter(None, [source.problem()])
        return found

    def numbers() -> Mapping[str, tuple[str, float]]:
        found = dict(known.metrics())
        expires = source.expires()
        if expires is not None:
            text = "When the certificate that is served ends, in seconds since 1970."
            found["seamless_certificate_expiry_timestamp_seconds"] = (text, expires.timestamp())
        text = "Whether /readyz says so: 1, or 0."
        found["seamless_ready"] = (text, not (state.draining or problems()))
        text = "Lines that were not logged: too many alike in a minute, or nobody took them."
        found["seamless_log_lines_dropped_total"] = (text, flood.dropped)
        if isinstance(source, certificates.FileCertificates):
            text = "Whether the certificate's files hold something that is not served: 1, or 0."
            found["seamless_certificate_files_refused"] = (text, source.refused() is not None)
        if restarts is not None:
            text = "Workers started in the place of others that ended."
            found["seamless_worker_restarts_total"] = (text, restarts())
        return found

    metrics.watch(numbers)
    try:
        observe, end = _observers(options, metrics)
    except TracingError as error:
        return fail(PROGRAM, error)
    parts: tuple[_Part, ...] = (live, source, known)
    for each in parts:
        each.start()
    end_survey = _survey(options, live, known, metrics)
    server.tune_garbage_collector()
    uvloop.run(
        server.run(
            webhook=server.webhook_app(
                live.answer, metrics, state, learn=_learner(known, options), observe=observe
            ),
            health=server.health_app(metrics, state, problems, live.notes),
            state=state,
            context=source.context,
            sockets=sockets,
            drain_seconds=given.drain_seconds,
            linger_seconds=given.linger_seconds,
            metrics=metrics,
        )
    )
    end_survey()
    for each in reversed(parts):
        each.stop()
    end()
    return 0


class _Part(Protocol):
    """Something that goes on in the background."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def _live(options: Options, known: _Known) -> LiveConfiguration:
    """Make what decides, by a configuration that is taken up anew whenever it changes."""
    from webhook.serving.live import LiveConfiguration

    given = options.given
    live = LiveConfiguration(
        options.configuration,
        partial(
            Admission,
            namespaces=known.lookup,
            cluster=known.cluster,
            own_namespace=options.own_namespace,
        ),
    )
    path = _path(given.config)
    if given.config_map:  # it goes before the file, which is as old or older
        known.follow(given.config_map, live.take, lambda: live.read(path) if path else None)
    elif path:
        live.follow(path)
    return live


def _observers(options: Options, metrics: Metrics) -> tuple[server.Observe, Callable[[], None]]:
    """Give what is told of each answer, and what ends it: the log, and what is switched on."""
    told: list[server.Observe] = [lambda answer, seconds, _scope: logs.review(answer, seconds)]
    ends: list[Callable[[], None]] = []
    if options.given.events:
        from webhook.cluster.client import Api, connect
        from webhook.cluster.events import Events

        instance = os.environ.get("POD_NAME") or socket.gethostname()
        events = Events(Api(connect(_path(options.given.kubeconfig))), instance)
        metrics.watch(events.metrics)
        events.start()
        told.append(events.observe)
        ends.append(events.stop)
    if options.given.tracing:
        spans = tracing.Tracing()
        told.append(spans.observe)
        ends.append(spans.stop)

    def observe(answer: Answer, seconds: float, scope: Scope) -> None:
        try:
            for each in told:
                each(answer, seconds, scope)
        except Exception:  # the boundary: telling of an answer must not spoil what follows it
            log.exception("an answer was given, and could not be told of")

    def end() -> None:
        for each in ends:
            each()

    return observe, end


def _survey(
    options: Options, live: LiveConfiguration, known: _Known, metrics: Metrics
) -> Callable[[], None]:
    """Count workloads by where they stand, if that is wanted; gives what ends it."""
    if not options.given.status_interval:
        return lambda: None
    from webhook.cluster.client import Api, connect
    from webhook.cluster.session import UNKNOWN_NAMESPACES
    from webhook.cluster.standings import StandingsWatch

    watch = StandingsWatch(
        Api(connect(_path(options.given.kubeconfig))),
        lambda: live.admission,
        ready=lambda: UNKNOWN_NAMESPACES not in known.problems(),
        seconds=options.given.status_interval,
    )
    metrics.include(watch)
    watch.start()
    return watch.stop


class _Known(Protocol):
    """What a process knows of the cluster: `webhook.cluster.session.ClusterSession`, or nothing."""

    certificates: Any

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def lookup(self, name: str) -> Namespace | None: ...
    def fetch(self, name: str, timeout: float) -> Namespace | None: ...
    def cluster(self) -> Cluster: ...
    def problems(self) -> list[str]: ...
    def metrics(self) -> Mapping[str, tuple[str, float]]: ...
    def follow(
        self, config_map: str, take: Callable[[str, str], None], otherwise: Callable[[], object]
    ) -> None: ...


class _Nothing:
    """Without a cluster, every namespace counts as selected and no version is known."""

    certificates = None

    def start(self) -> None:
        """Nothing to learn from."""

    def stop(self) -> None:
        """Nothing to end."""

    def lookup(self, _name: str) -> None:
        """Know no namespace."""

    def fetch(self, _name: str, _timeout: float) -> None:
        """Have nobody to ask."""

    def cluster(self) -> Cluster:
        """Know nothing of what it can carry."""
        return UNKNOWN_CLUSTER

    def problems(self) -> list[str]:
        """Be content."""
        return []

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Have nothing to tell."""
        return {}

    def follow(self, *_: object) -> None:
        """Have no ConfigMap to follow: the options are checked first."""


def _cluster(options: Options) -> _Known:
    from webhook.cluster.session import ClusterSession
    from webhook.cluster.session import Options as ClusterOptions

    given = options.given
    return ClusterSession(
        ClusterOptions(
            kubeconfig=_path(given.kubeconfig),
            namespace=options.own_namespace,
            ca_secret=given.ca_secret,
            webhook_configuration=given.webhook_configuration,
            service=given.service,
            certificate=_path(given.tls_cert),
            key=_path(given.tls_key),
            client_ca=_path(given.client_ca),
        ),
        Admission(options.configuration).table.namespace,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _source(options: Options) -> certificates.Certificates:
    """Give the certificate where no cluster looks after it: from files, or the self-signed one."""
    given = options.given
    if options.self_signed is not None:
        return certificates.FixedCertificate(options.self_signed)
    return certificates.FileCertificates(
        Path(given.tls_cert), Path(given.tls_key), client_ca=_path(given.client_ca)
    )


def _learner(known: _Known, options: Options) -> server.Learn:
    """Make what asks for a namespace that is not known yet, once and for a short while."""
    if not _in_reach(options.given):
        return lambda _request: None
    pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="fetch-namespace")

    async def fetch(name: str) -> None:
        asked = asyncio.get_running_loop().run_in_executor(pool, known.fetch, name, _FETCH_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked, 2 * _FETCH_SECONDS)

    def learn(request: Request) -> Callable[[], Awaitable[None]] | None:
        name = request.namespace
        return partial(fetch, name) if name and known.lookup(name) is None else None

    return learn


# --- several -------------------------------------------------------------------------------------


def _supervise(count: int, options: Options, sockets: Sockets) -> int:
    """Keep `count` workers on the same sockets, until told to stop; then wait for them."""
    # Blocked here for good and waited for: a handler could come at any instant, within a lock too.
    ending = ending_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="seamless-metrics-")
    except OSError as error:
        for each in sockets:
            each.close()
        message = f"no folder for the metrics of several workers: {error.strerror}"
        return fail(PROGRAM, UsageError(message))
    with temporary as folder:
        # The metrics of all workers are added up from files in this folder.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        # Forked from a parent that has neither threads nor a loop, they share what it imported.
        context = multiprocessing.get_context("fork")
        restarts = context.RawValue("L", 0)  # written here, told by whichever worker is asked
        lifeline = os.pipe()  # nothing is ever written: its end is the end of this process

        def start() -> Any:
            given = (options, sockets, restarts, lifeline, folder)
            process = context.Process(target=_worker, args=given)
            process.start()
            return process

        workers = [start() for _ in range(count)]
        while not signal.sigtimedwait(ending, _RESTART_SECONDS):
            for index, worker in enumerate(workers):
                if not worker.is_alive():
                    log.error(
                        "worker %d ended with %s: starting another", worker.pid, worker.exitcode
                    )
                    restarts.value += 1
                    _forget_metrics(worker.pid)
                    workers[index] = start()
        # Held here, they would take connections after the last worker has gone, and lose them.
        for each in sockets:
            each.close()
        return _stop(workers)


def _stop(workers: Sequence[Any]) -> int:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    # One that was told to stop before it had begun to serve ends by the signal itself.
    fine = {0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
    return 0 if all(worker.exitcode in fine for worker in workers) else 1


def _forget_metrics(pid: int) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _worker(
    options: Options, sockets: Sockets, restarts: Any, lifeline: tuple[int, int], folder: str
) -> None:
    held, parents = lifeline
    os.close(parents)
    with _cleared_by_the_last(folder, held):
        ending = ending_signals()
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        threading.Thread(target=_end_with_parent, args=(held,), daemon=True).start()
        status = _work(options, sockets, lambda: restarts.value)
    sys.exit(status)


def _end_with_parent(held: int) -> None:
    """Wait until the parent is gone, then drain: nobody would tell us to, or start others."""
    if not os.read(held, 1):
        log.error("the first process is gone: ending, too")
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _cleared_by_the_last(folder: str, held: int) -> Iterator[None]:
    """Remove the folder of the metrics in the end, where the parent cannot and no worker needs it.

    Each worker holds a lock on it with others; the last one to leave gets it for itself.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH)
        yield
        if select.select([held], [], [], 0)[0]:  # nothing is ever written there: the parent is gone
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(opened)
