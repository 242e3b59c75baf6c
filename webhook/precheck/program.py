"""Wait until what a workload depends on is up: the program of the `seamless-precheck` container.

Every target is probed side by side, again and again, until as many as are needed have been up once.
A target that was up stays counted. What is still missing, and why, is logged while it waits, and is
left as the container's termination message where it gives up.

Starting up is most of what a run costs, so this file imports little: `_socket` and `_signal` are
the modules under `socket` and `signal`, which spend as long as the whole interpreter on turning
constants into enums; `ssl` and `urllib` are imported only by the run that needs them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stub, unlike _socket
import _socket
import _thread
import errno
import os
import select
import sys
import time

if not __package__:  # run as a file, perhaps with -I: the package's folder is not on the path
    _here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- pathlib is slow to import
    sys.path.insert(0, os.path.dirname(os.path.dirname(_here)))  # noqa: PTH120 -- the same

from webhook.precheck.targets import (
    NotUpError,
    Target,
    authority,
    http_location,
    http_request,
    link_local,
    masked,
    numeric_host,
    parse_duration,
    parse_require,
    parse_target,
    redirected,
    required,
)

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator
    from typing import TypeVar

    T = TypeVar("T")
    Address = tuple[int, tuple[str | int | bytes, ...]]  # family, socket address (of any port)
    Resolve = Callable[[str], list[Address]]
    # One connection: yields its descriptor, what to wait for, and the reason if it waits in vain.
    Conversation = Generator[tuple[int, int, str], None, T]
    # One attempt: yields the events that it waits for by descriptor (none: a name's look-up), when
    # to go on without them, and the reason if in vain; is sent the descriptors that are ready.
    Steps = Generator[tuple[dict[int, int], float, str], list[int], T]

__all__ = [
    "Options",
    "Precheck",
    "Target",
    "main",
    "parse_duration",
    "parse_require",
    "parse_target",
    "required",
]

USAGE = """\
usage: seamless precheck [OPTION...] [--] TARGET...

Wait until the targets are up. A target is one of
  host, dns://host            resolves to an address
  host:port, tcp://host:port  accepts a connection
  http://..., https://...     answers below 400 (redirects are followed)
  https+insecure://...        the same, whatever its certificate
  grpc://host:port[/service]  says SERVING by the gRPC health protocol, without TLS

options:
  --require all|any|majority|N  how many must be up (all)
  --timeout D                   give up after this long; 0 waits for ever (10m)
  --interval D                  first pause between attempts; grows to five times that (1s)
  --attempt-timeout D           time limit of one attempt (5s)
  --log-format text|json        (text)
  --termination-log PATH        where the reason is left, if it exists (/dev/termination-log)
  --help

D is 30, 30s, 2m or 1m30s: whole seconds, at most 1h.
exit status: 0 up, 1 timed out, 2 wrong use, 143 ended by SIGTERM
"""

MAX_REDIRECTS = 5
MAX_HEAD = 16 * 1024  # bytes of an HTTP answer before its body
MAX_ATTEMPTS = 256  # under way at once: stays below the usual limit of 1,024 descriptors
MAX_LOOKUPS = 64  # threads that look names up
STACK = 512 * 1024  # bytes of address space for such a thread's stack; most of it stays untouched
STAGGER = 0.25  # seconds from one of a name's addresses to the next (RFC 8305)
SUMMARY_INTERVAL = 10.0  # seconds from one line of what is missing to the next
MAX_MISSING = 3500  # characters of its list; the kubelet keeps 4,096 bytes of a termination message
NEVER = float("inf")
NO_ANSWER = "connected, no answer in time"


class Options:
    """What the command line sets; times are in seconds, and a `timeout` of 0 means for ever."""

    require: str | int = "all"
    timeout: float = 600
    interval: float = 1
    attempt_timeout: float = 5
    log_format = "text"
    termination_log = "/dev/termination-log"


def resolve(host: str) -> list[Address]:
    """Look a name up as any process of the pod would: `/etc/hosts`, resolver and search list."""
    # Bytes, since a str would import the IDNA codec.
    found = _socket.getaddrinfo(host.encode(), None, 0, _socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


class _Watch:
    """A target and how it stands; an attempt is under way while `steps` is set."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.attempts = 0
        self.next_at = 0.0
        self.reason = ""  # why the last attempt failed
        self.steps: Steps[None] | None = None
        self.deadline = NEVER
        # What the attempt waits for now.
        self.events: dict[int, int] = {}
        self.until = NEVER
        self.why = ""


class Precheck:
    """Waits for targets that differ from each other. `resolve` looks a name up, and may be slow."""

    def __init__(self, targets: list[Target], options: Options, resolve: Resolve = resolve) -> None:
        self._options = options
        self._count = len(targets)
        self._needed = required(options.require, self._count)
        self._missing = [_Watch(target) for target in targets]
        self._began = time.monotonic()
        self._poll = select.poll()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._poll.register(self._woken, select.POLLIN)
        self._names = _Names(resolve, self._wake)
        self._contexts: dict[str, ssl.SSLContext] = {}

    def wait(self) -> bool:
        """Probe until the quorum is up, or the time is; tell which."""
        # A signal that one of the threads receives must end poll() here.
        before = _signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            return self._wait()
        finally:
            _signal.set_wakeup_fd(before)
            for watch in self._missing:
                if watch.steps:
                    watch.steps.close()
            self._names.close()
            os.close(self._woken)
            os.close(self._wake)

    def give_up(self, why: str) -> None:
        """Leave the reason where users look for it."""
        message = f"{why}: {self._standing()}"
        self._log("gave up", message, missing=self._reasons())
        leave(self._options.termination_log, message)

    def _log(self, event: str, message: str, **fields: object) -> None:
        """Write one line: to standard error if the precheck ends with it, else standard output."""
        line = f"seamless-precheck: {message}"
        if self._options.log_format == "json":
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            up = {"up": self._count - len(self._missing), "needed": self._needed}
            line = _json({"time": now, "event": event, "message": message, **up, **fields})
        write(2 if event == "gave up" else 1, line + "\n")

    def _score(self) -> str:
        return f"{self._count - len(self._missing)} of {self._count} up, {self._needed} needed"

    def _reasons(self) -> list[dict[str, str]]:
        return [
            {"target": str(watch.target), "reason": watch.reason or "no answer yet"}
            for watch in self._missing
        ]

    def _standing(self) -> str:
        """Say how many are up, what is missing, and why."""
        parts: list[str] = []
        room = MAX_MISSING
        for missing in self._reasons():
            part = f"{missing['target']} ({missing['reason']})"
            room -= len(part) + len(", ")
            if room < 0:
                parts.append(f"and {len(self._missing) - len(parts)} more")
                break
            parts.append(part)
        return f"{self._score()}; missing: {', '.join(parts)}"

    def _wait(self) -> bool:
        deadline = self._began + (self._options.timeout or NEVER)
        summary = self._began + SUMMARY_INTERVAL
        while True:
            now = time.monotonic()
            self._start_attempts(now)
            if self._count - len(self._missing) >= self._needed:
                return True
            if now >= deadline:
                for watch in self._missing:
                    watch.reason = watch.reason or watch.why
                return False
            if now >= summary:
                self._log("waiting", f"waiting: {self._standing()}", missing=self._reasons())
                summary = now + SUMMARY_INTERVAL
            ready = self._ready(min(deadline, summary))
            now = time.monotonic()
            for watch in list(self._missing):
                if watch.steps and (watch in ready or now >= watch.until):
                    self._go_on(watch, ready.get(watch, []))
                if watch.steps and now >= watch.deadline:
                    self._failed(watch, watch.why)

    def _start_attempts(self, now: float) -> None:
        under_way = sum(watch.steps is not None for watch in self._missing)
        due = [watch for watch in self._missing if not watch.steps and watch.next_at <= now]
        # The one that is due longest first: with more targets than places, none starves.
        for watch in sorted(due, key=lambda watch: watch.next_at)[: MAX_ATTEMPTS - under_way]:
            watch.deadline = now + self._options.attempt_timeout
            watch.steps = self._attempt(watch.target)
            self._go_on(watch, None)

    def _ready(self, latest: float) -> dict[_Watch, list[int]]:
        """Wait until something can go on; give what can, and which of its descriptors are ready."""
        owners: dict[int, _Watch] = {}
        full = sum(watch.steps is not None for watch in self._missing) >= MAX_ATTEMPTS
        for watch in self._missing:
            if watch.steps:
                latest = min(latest, watch.until, watch.deadline)
                owners.update(dict.fromkeys(watch.events, watch))
            elif not full:
                latest = min(latest, watch.next_at)
        ready: dict[_Watch, list[int]] = {}
        for descriptor, _ in self._poll.poll(max(0.0, latest - time.monotonic()) * 1000):
            if descriptor == self._woken:
                os.read(self._woken, 4096)
                ready.update((watch, []) for watch in self._missing if not watch.events)
            else:
                ready.setdefault(owners[descriptor], []).append(descriptor)
        return ready

    def _go_on(self, watch: _Watch, descriptors: list[int] | None) -> None:
        """Take an attempt's next step: its first where there are no descriptors to send."""
        steps = watch.steps
        if steps is None:
            return
        self._unregister(watch)
        try:
            wait = next(steps) if descriptors is None else steps.send(descriptors)
        except StopIteration:
            self._came_up(watch)
        except Exception as error:  # noqa: BLE001 -- one odd answer must not end the wait
            self._failed(watch, _reason(error))
        else:
            watch.events, watch.until, watch.why = wait
            for descriptor, event in watch.events.items():
                self._poll.register(descriptor, event)

    def _unregister(self, watch: _Watch) -> None:
        for descriptor in watch.events:
            self._poll.unregister(descriptor)
        watch.events = {}

    def _came_up(self, watch: _Watch) -> None:
        watch.steps = None
        self._missing.remove(watch)
        seconds = round(time.monotonic() - self._began, 1)
        message = f"{watch.target} is up after {seconds} s ({self._score()})"
        self._log("up", message, target=str(watch.target), seconds=seconds)

    def _failed(self, watch: _Watch, reason: str) -> None:
        self._unregister(watch)
        if watch.steps:
            watch.steps.close()
        watch.steps = None
        watch.reason = reason
        watch.attempts += 1
        fraction = int.from_bytes(os.urandom(2), "big") / 0x10000
        watch.next_at = time.monotonic() + pause(self._options.interval, watch.attempts, fraction)

    def _attempt(self, target: Target) -> Steps[None]:
        """Find a target up by returning, or raise why it is not."""
        hop, seen = target, {target}
        while True:
            addresses = yield from self._addresses(hop.host)
            if hop is not target:
                # Whoever sends us there does not have the rights that we have there.
                addresses = [each for each in addresses if not link_local(each[0], str(each[1][0]))]
                if not addresses:
                    raise NotUpError("redirects to a link-local address")
            if hop.kind == "dns":
                return
            location = yield from self._race(hop, addresses)
            if not location:
                return
            hop = redirected(target, hop, location)
            if hop in seen:
                message = f"redirects in a circle, to {hop}"
                raise NotUpError(message)
            if len(seen) > MAX_REDIRECTS:
                message = f"redirects more than {MAX_REDIRECTS} times"
                raise NotUpError(message)
            seen.add(hop)

    def _addresses(self, host: str) -> Steps[list[Address]]:
        for family in (_socket.AF_INET, _socket.AF_INET6):
            if numeric_host(family, host):
                return [(family, (host, 0))]
        lookup = self._names.ask(host)
        while lookup.answer is None:
            yield {}, NEVER, "name look-up timed out"
        self._names.forget(host, lookup)
        if isinstance(lookup.answer, Exception):
            raise lookup.answer
        return lookup.answer

    def _race(self, hop: Target, addresses: list[Address]) -> Steps[bytes]:
        """Try every address, each a moment after the one before; the first that is up wins.

        So a dead address costs a moment, and not the whole attempt.
        """
        stagger = min(STAGGER, self._options.attempt_timeout / 2 / len(addresses))
        waiting = [self._converse(hop, address) for address in addresses]
        running: dict[Conversation[bytes], tuple[int, int]] = {}
        reasons: list[str] = []
        start, why = 0.0, ""
        try:
            while waiting or running:
                if waiting and (not running or time.monotonic() >= start):
                    ready = [waiting.pop(0)]
                    start = time.monotonic() + stagger
                else:
                    in_vain = ", ".join(dict.fromkeys([*reasons, why]))
                    until = start if waiting else NEVER
                    descriptors = yield dict(running.values()), until, in_vain
                    ready = [talk for talk, (fd, _) in running.items() if fd in descriptors]
                for conversation in ready:
                    try:
                        descriptor, event, why = next(conversation)
                    except StopIteration as end:
                        return bytes(end.value)
                    except Exception as error:  # noqa: BLE001 -- the next address may be up
                        running.pop(conversation, None)
                        reasons.append(_reason(error))
                    else:
                        running[conversation] = descriptor, event
            raise NotUpError(", ".join(dict.fromkeys(reasons)))
        finally:
            for conversation in running:
                conversation.close()

    def _converse(self, hop: Target, address: Address) -> Conversation[bytes]:
        """Talk to one address; give where an HTTP answer redirects to, or nothing if it is up."""
        family, peer = address
        connection = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            yield from _connect(connection, (peer[0], hop.port, *peer[2:]))
            if hop.kind == "tcp":
                return b""
            if hop.kind == "grpc":
                yield from _check_health(connection, hop)
                return b""
            if hop.kind != "http":
                import socket  # ssl needs its class, and brings it along anyway

                connection = socket.socket(fileno=connection.detach())
                connection.settimeout(0)
                connection = secured = self._context(hop).wrap_socket(
                    connection,
                    do_handshake_on_connect=False,
                    # Bytes, as in resolve().
                    server_hostname=hop.host.removesuffix(".").encode(),
                )
                why = "TLS handshake timed out"
                yield from _when_ready(connection, select.POLLIN, why, secured.do_handshake)
            yield from _send(connection, http_request(hop))
            return (yield from _read_answer(connection))
        finally:
            connection.close()

    def _context(self, hop: Target) -> ssl.SSLContext:
        if hop.kind in self._contexts:
            return self._contexts[hop.kind]
        import ssl  # slow to import, seldom needed

        if hop.kind == "https":
            context = ssl.create_default_context()
        else:  # without the system's authorities, which take time and memory to load
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._contexts[hop.kind] = context
        return context


def pause(interval: float, attempts: int, fraction: float) -> float:
    """Give the seconds until the next attempt: half as much again each time, at most five times.

    Up to a quarter is taken off at random, so that many pods do not ask at the same moment.
    """
    return interval * min(1.5 ** min(attempts - 1, 10), 5) * (1 - fraction / 4)


def _connect(
    connection: _socket.socket, peer: tuple[str | int | bytes | None, ...]
) -> Conversation[None]:
    connection.setblocking(False)  # noqa: FBT003 -- its only form
    code = connection.connect_ex(peer)
    if code == errno.EINPROGRESS:
        yield connection.fileno(), select.POLLOUT, "connection timed out"
        code = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    # Asked for a port of this very host that nobody listens on, TCP can connect to itself.
    if connection.getsockname()[:2] == peer[:2]:
        raise ConnectionRefusedError


def _send(connection: _socket.socket, content: bytes) -> Conversation[None]:
    while content:
        sent = yield from _when_ready(
            connection, select.POLLOUT, NO_ANSWER, connection.send, content
        )
        content = content[sent:]


def _receive(connection: _socket.socket) -> Conversation[bytes]:
    return (yield from _when_ready(connection, select.POLLIN, NO_ANSWER, connection.recv, 4096))


def _check_health(connection: _socket.socket, hop: Target) -> Conversation[None]:
    """Ask a gRPC server for its health, or that of a service of it."""
    from webhook.precheck.grpc_health import HealthCheck  # seldom needed

    check = HealthCheck(authority(hop), hop.path)
    yield from _send(connection, check.request)
    while not check.up:
        chunk = yield from _receive(connection)
        yield from _send(connection, check.receive(chunk))


def _read_answer(connection: _socket.socket) -> Conversation[bytes]:
    """Read an answer up to its body, interim answers (1xx) aside, and judge it."""
    head, received = b"", 0
    while True:
        chunk = yield from _receive(connection)
        received += len(chunk)
        if received > MAX_HEAD:
            message = f"answers with a head of over {MAX_HEAD} bytes"
            raise NotUpError(message)
        head += chunk.replace(b"\r", b"")
        if head[:7] != b"HTTP/1."[: len(head)]:
            raise NotUpError("answers, but not in HTTP/1")
        while b"\n\n" in head or (b"\n" in head and not chunk):
            answer, _, head = head.partition(b"\n\n")
            if answer[9:10] != b"1":
                return http_location(answer)
        if not chunk:
            raise NotUpError("closes without an answer")


def _when_ready(
    connection: _socket.socket,
    event: int,
    why: str,
    operation: Callable[..., T],
    *arguments: object,
) -> Conversation[T]:
    """Carry out an operation of a connection as soon as it does not block."""
    while True:
        try:
            return operation(*arguments)
        except OSError as error:
            # TLS may have to read before it can write, and the other way round.
            wanted = {
                "BlockingIOError": event,
                "SSLWantReadError": select.POLLIN,
                "SSLWantWriteError": select.POLLOUT,
            }.get(type(error).__name__)
            if wanted is None:
                raise
        yield connection.fileno(), wanted, why


def _reason(error: Exception) -> str:
    """Say in a user's words why an attempt failed."""
    if isinstance(error, NotUpError):
        return str(error)
    if isinstance(error, _socket.gaierror):
        failed = error.errno in {_socket.EAI_AGAIN, _socket.EAI_FAIL}
        return "no DNS server answers" if failed else "name does not resolve"
    if verdict := getattr(error, "verify_message", ""):
        return f"certificate not trusted: {verdict.rstrip('.')}"
    if type(error).__name__.startswith("SSL"):  # its number is not the system's
        # Where the other end went before we had sent all, OpenSSL has no reason to give.
        problem = getattr(error, "reason", "") or "unexpected eof while reading"
        return f"TLS failed: {problem.replace('_', ' ').lower()}"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    known = isinstance(error, OSError) and error.errno
    return os.strerror(known).lower() if known else f"unexpected {type(error).__name__}"


class _Lookup:
    """One look-up of a name; `answer` stays None while it is under way."""

    answer: list[Address] | Exception | None = None


class _Names:
    """Looks names up in threads, since getaddrinfo can take a minute and cannot be interrupted.

    A look-up outlives the attempt that asked for it, and the next attempt takes its answer: so a
    resolver that is slower than the time limit of an attempt still gets to answer.
    """

    def __init__(self, resolve: Resolve, wake: int) -> None:
        self._resolve, self._wake = resolve, wake
        self._lookups: dict[str, _Lookup] = {}
        self._queue: list[tuple[str, _Lookup]] = []
        self._threads = 0
        self._lock = _thread.allocate_lock()

    def ask(self, host: str) -> _Lookup:
        """Begin a look-up, or join the one that is under way."""
        with self._lock:
            if host not in self._lookups:
                self._lookups[host] = _Lookup()
                self._queue.append((host, self._lookups[host]))
            if self._queue and self._threads < MAX_LOOKUPS:
                self._start_thread()
            return self._lookups[host]

    def forget(self, host: str, lookup: _Lookup) -> None:
        """Make the next `ask` look the name up again, now that this answer is taken."""
        if self._lookups.get(host) is lookup:
            del self._lookups[host]

    def close(self) -> None:
        """Leave the threads to themselves: they end with the process."""
        with self._lock:
            self._wake = -1
            self._queue.clear()

    def _start_thread(self) -> None:
        before = _thread.stack_size(STACK)
        try:
            _thread.start_new_thread(self._work, ())
            self._threads += 1
        except RuntimeError:
            pass  # the pod's limit of processes: the next attempt tries again
        finally:
            _thread.stack_size(before)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host, lookup = self._queue.pop(0)
            try:
                answer: list[Address] | Exception = self._resolve(host)
            except Exception as error:  # noqa: BLE001 -- told to the attempt, which names it
                answer = error
            with self._lock:
                lookup.answer = answer
                if self._wake >= 0:
                    write(self._wake, ".")


def _json(value: object) -> str:
    """Write JSON of ASCII text: the json module takes longer to import than a run takes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_json(key)}: {_json(value[key])}" for key in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, str):
        plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in value)
        return f'"{"".join(plain)}"'
    return str(value)


def write(descriptor: int, text: str) -> None:
    """Write what can be written: a reader who left is no reason to stop waiting."""
    try:  # noqa: SIM105 -- contextlib is slow to import
        os.write(descriptor, text.encode())
    except OSError:
        pass


def leave(path: str, message: str) -> None:
    """Leave a termination message where the kubelet has made a file for it; never make one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
    except OSError:
        return
    write(descriptor, message)
    os.close(descriptor)


def _parse_pause(text: str) -> int:
    seconds = parse_duration(text)
    if not seconds:
        message = f"duration {masked(text)} is too short; use 1s or more"
        raise ValueError(message)
    return seconds


def _parse_log_format(text: str) -> str:
    if text not in {"text", "json"}:
        message = f"log format {masked(text)} is neither text nor json"
        raise ValueError(message)
    return text


_PARSERS: dict[str, Callable[[str], object]] = {
    "--require": parse_require,
    "--timeout": parse_duration,
    "--interval": _parse_pause,
    "--attempt-timeout": _parse_pause,
    "--log-format": _parse_log_format,
    "--termination-log": str,
}


def _parse_arguments(arguments: list[str], options: Options) -> list[Target]:
    """Set the options; give the targets, each once, or none where help is asked for."""
    texts: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            texts.extend(rest)
        elif not argument.startswith("-"):
            texts.append(argument)
        elif argument in {"-h", "--help"}:
            return []
        elif name not in _PARSERS:
            message = f"option {masked(name)} is unknown; see seamless precheck --help"
            raise ValueError(message)
        else:
            try:
                parsed = _PARSERS[name](value if equals else next(rest, ""))
            except ValueError as error:
                message = f"{name}: {error}"
                raise ValueError(message) from None
            setattr(options, name[2:].replace("-", "_"), parsed)
    if not texts:
        raise ValueError("no target is given; name at least one, such as db:5432")
    return list(dict.fromkeys(map(parse_target, texts)))


def _help() -> int:
    """Say how it is used; give the exit status."""
    try:
        os.write(1, USAGE.encode())
    except OSError as error:
        write(2, f"seamless precheck: standard output: {error.strerror}\n")
        return 2
    return 0


def main(argv: list[str]) -> int:
    """Wait for the targets on the command line; give the exit status."""
    options = Options()
    try:
        targets = _parse_arguments(argv, options)
    except ValueError as error:
        write(2, f"seamless precheck: {error}\n")
        leave(options.termination_log, str(error))
        return 2
    if not targets:
        return _help()
    precheck = Precheck(targets, options)

    def end(number: int, _frame: object) -> None:
        # At once: a look-up that hangs must not hold the pod's end up.
        precheck.give_up(f"ended by signal {number}")
        os._exit(128 + number)

    before = {number: _signal.signal(number, end) for number in (_signal.SIGTERM, _signal.SIGINT)}
    try:
        if precheck.wait():
            return 0
        precheck.give_up(f"timed out after {options.timeout:g} s")
    except Exception as error:  # noqa: BLE001 -- one line, never a traceback
        precheck.give_up(f"failed with an unexpected {type(error).__name__}")
    finally:
        for number, handler in before.items():
            _signal.signal(number, handler)
    return 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
