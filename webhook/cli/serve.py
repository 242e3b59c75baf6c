"""`seamless serve`: the webhook."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from webhook import certificates, logs
from webhook.admission import Admission
from webhook.certificates import CertificateError, Pair
from webhook.cli.common import Parser, UsageError, configuration, fail
from webhook.config import Configuration
from webhook.settings import InvalidSettingError

PROGRAM: Final = "seamless serve"
_RESTART_SECONDS: Final = 1.0
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger("webhook")

Sockets = tuple[socket.socket, socket.socket]


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that a worker is told."""

    configuration: Configuration
    pair: Pair
    drain_seconds: float
    own_namespace: str | None
    log_format: str


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit status."""
    try:
        found = _parser().parse_args(arguments)
        settings = configuration(found.config)
        Admission(settings)
        options = Options(
            settings,
            _pair(found),
            found.drain_seconds,
            os.environ.get("POD_NAMESPACE"),
            found.log_format,
        )
        certificates.serve(certificates.new_context(), options.pair)
        sockets = (_listen(found.host, found.port), _listen(found.host, found.health_port))
    except (UsageError, InvalidSettingError, CertificateError) as error:
        return fail(PROGRAM, error)
    logs.set_up(options.log_format)
    where = found.host if ":" not in found.host else f"[{found.host}]"
    log.info("serving https://%s:%d/mutate", where, sockets[0].getsockname()[1])
    log.info("health and metrics on http://%s:%d", where, sockets[1].getsockname()[1])
    if found.tls_cert is None:
        log.info("no certificate was given: serving on a self-signed one")
    if found.workers == 1:
        return _work(options, sockets)
    return _supervise(found.workers, options, sockets)


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
    parser.add_argument("--config", metavar="FILE", help="the configuration, YAML")
    parser.add_argument("--workers", type=_workers, default=1, help="processes (1)")
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=10.0,
        help="how long to go on serving after SIGTERM (10)",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    return parser


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        message = f"expected a whole number from {least} to {most}, not {text!r}"
        raise UsageError(message)
    return int(text)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _workers(text: str) -> int:
    return _number(text, 1, 64)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 3600:  # noqa: PLR2004 - an hour, as every duration here
        message = f"--drain-seconds: expected seconds from 0 to 3600, not {text!r}"
        raise UsageError(message)
    return seconds


def _pair(found: Any) -> Pair:
    if (found.tls_cert is None) != (found.tls_key is None):
        message = "--tls-cert and --tls-key go together: one of them is missing"
        raise UsageError(message)
    if found.tls_cert is None:
        names = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname()])
        return certificates.self_signed(names, datetime.now(UTC))
    return certificates.read(Path(found.tls_cert), Path(found.tls_key))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(2048)
    except OSError as error:
        opened.close()
        message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise UsageError(message) from None
    opened.setblocking(False)  # noqa: FBT003 - socket's own signature
    return opened


# --- one process ---------------------------------------------------------------------------------


def _work(options: Options, sockets: Sockets) -> int:
    """Serve until told to stop."""
    import uvloop

    from webhook import server
    from webhook.metrics import Metrics

    logs.set_up(options.log_format)
    context = certificates.new_context()
    certificates.serve(context, options.pair)
    admission = Admission(options.configuration, own_namespace=options.own_namespace)
    metrics = Metrics(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    state = server.State()
    expires = options.pair.expires()

    def problems() -> list[str]:
        if expires <= datetime.now(UTC):
            return [f"the certificate expired at {expires:%Y-%m-%dT%H:%M:%SZ}"]
        return []

    metrics.watch(
        lambda: {
            "seamless_certificate_expiry_timestamp_seconds": (
                "When the certificate that is served ends, in seconds since 1970.",
                expires.timestamp(),
            )
        }
    )
    server.tune_garbage_collector()
    uvloop.run(
        server.run(
            webhook=server.webhook_app(admission.answer, metrics, state),
            health=server.health_app(metrics, state, problems),
            state=state,
            context=context,
            sockets=sockets,
            drain_seconds=options.drain_seconds,
        )
    )
    return 0


# --- several -------------------------------------------------------------------------------------


def _supervise(count: int, options: Options, sockets: Sockets) -> int:
    """Keep `count` workers on the same sockets, until told to stop; then wait for them."""
    stop = threading.Event()
    for number in _ENDING:
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="seamless-metrics-") as folder:
        # The metrics of all workers are added up from files in this folder.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        # Forked from a parent that has neither threads nor a loop, they share what it imported.
        context = multiprocessing.get_context("fork")

        def start() -> Any:
            process = context.Process(target=_worker, args=(options, sockets))
            # A signal must not reach the child while it still has the handlers of the parent.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            return process

        workers = [start() for _ in range(count)]
        while not stop.wait(_RESTART_SECONDS):
            for index, worker in enumerate(workers):
                if not worker.is_alive():
                    log.error(
                        "worker %d ended with %s: starting another", worker.pid, worker.exitcode
                    )
                    _forget_metrics(worker.pid)
                    workers[index] = start()
        return _stop(workers)


def _stop(workers: Sequence[Any]) -> int:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    # One that was told to stop before it had begun to serve ends by the signal itself.
    return 0 if all(worker.exitcode in {0, -signal.SIGTERM} for worker in workers) else 1


def _forget_metrics(pid: int) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _worker(options: Options, sockets: Sockets) -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    sys.exit(_work(options, sockets))
