"""Servers on loopback for the precheck's tests: they listen late, hang, redirect, or lie."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSServer
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from webhook.precheck.program import Address

HANG_LIMIT = 20.0  # seconds: a bound for what a test forgot to close, no figure of any test


class Server:
    """A TCP server: `handle` gets each connection and its number, counted from zero."""

    def __init__(
        self, handle: Callable[[Any, int], None], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self.requests: list[bytes] = []
        self.closing = threading.Event()
        self._handle = handle
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._accepted = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        """How many connections have come in."""
        return self._accepted

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            number, self._accepted = self._accepted, self._accepted + 1
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket, number: int) -> None:
        # The precheck may leave at any time.
        with connection, suppress(OSError):
            connection.settimeout(HANG_LIMIT)
            self._handle(connection, number)

    def close(self) -> None:
        """Stop listening, and let every handler end."""
        self.closing.set()
        # close() alone leaves accept() waiting in its thread.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in [self._thread, *self._threads]:
            thread.join(HANG_LIMIT)


@contextmanager
def accepting(host: str = "127.0.0.1") -> Iterator[Server]:
    """Serve TCP that accepts, and closes at once."""
    with handling(lambda *_: None, host) as server:
        yield server


@contextmanager
def hanging(host: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    """Serve TCP that accepts, reads, and never says a word."""

    def listen(connection: Any, _number: int) -> None:
        while connection.recv(4096):
            pass

    with handling(listen, host, port) as server:
        yield server


@contextmanager
def handling(
    handle: Callable[[Any, int], None], host: str = "127.0.0.1", port: int = 0
) -> Iterator[Server]:
    """Serve TCP with a handler of connections."""
    server = Server(handle, host, port)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def answering(
    *answers: bytes, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve HTTP: the first request gets the first answer, and so on; the last one repeats.

    `{port}` in an answer becomes the server's port; an empty answer is none: it hangs.
    """

    def handle(connection: Any, _number: int) -> None:
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                chunk = connection.recv(4096)
                if not chunk:
                    return
                request += chunk
            answer = answers[min(len(server.requests), len(answers) - 1)]
            server.requests.append(request)
            if not answer:
                server.closing.wait(HANG_LIMIT)
            connection.sendall(answer.replace(b"{port}", b"%d" % server.port))

    with handling(handle, host) as server:
        yield server


def answer(status: int, *fields: str) -> bytes:
    """Write an HTTP answer without a body."""
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Length: 0", *fields, "", ""]
    return "\r\n".join(lines).encode()


@contextmanager
def refusing() -> Iterator[socket.socket]:
    """Hold a port that refuses, until `listen()` is called on what this yields."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


@contextmanager
def dead(host: str, port: int) -> Iterator[None]:
    """Make an address that swallows connections: one whose queue is full drops what comes."""
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        fillers: list[socket.socket] = []
        try:
            while True:
                filler = socket.socket()
                fillers.append(filler)
                filler.settimeout(0.02)
                try:
                    filler.connect((host, port))
                except OSError:
                    break
            yield
        finally:
            for filler in fillers:
                filler.close()


class Zone(BaseResolver):  # type: ignore[misc]  # dnslib is untyped
    """What the DNS server knows: the answers to each name in turn, the last one repeating.

    An answer is a list of addresses, empty for a name without any, or a response code. A name
    that is not listed does not exist.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Know no name."""
        self.names: dict[str, list[list[str] | str]] = {}
        self.delay = 0.0
        self.asked: list[str] = []

    def resolve(self, request: DNSRecord, _handler: object) -> DNSRecord:
        """Answer one query."""
        name = str(request.q.qname).rstrip(".")
        kind = QTYPE[request.q.qtype]
        self.asked.append(f"{name} {kind}")
        time.sleep(self.delay)
        reply = request.reply()
        answers = self.names.get(name, ["NXDOMAIN"])
        # Both kinds of one look-up get the same answer: it is spent with the second query.
        current = answers.pop(0) if len(answers) > 1 and kind == "AAAA" else answers[0]
        if isinstance(current, str):
            reply.header.rcode = getattr(RCODE, current)
            return reply
        for address in current:
            if (":" in address) == (kind == "AAAA"):
                data = AAAA(address) if kind == "AAAA" else A(address)
                reply.add_answer(RR(request.q.qname, request.q.qtype, rdata=data))
        return reply


class NameServer:
    """A DNS server on a port of its own, and a resolver that asks it as getaddrinfo would."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = Zone()
        self._server = DNSServer(self.zone, address=host, port=port, logger=_Silent())
        self.port: int = self._server.server.server_address[1]
        self._server.start_thread()

    def resolve(self, host: str) -> list[Address]:
        """Give the addresses of a name, IPv4 first, or raise what getaddrinfo raises."""
        found: list[Address] = []
        failed = False
        for kind, family in (("A", socket.AF_INET), ("AAAA", socket.AF_INET6)):
            raw = DNSRecord.question(host, kind).send("127.0.0.1", self.port, timeout=HANG_LIMIT)
            reply = DNSRecord.parse(raw)
            failed |= reply.header.rcode == RCODE.SERVFAIL
            found += [(family, (str(record.rdata), 0)) for record in reply.rr]
        if failed:
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "name or service not known")
        return found

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()
        self._server.server.server_close()


class _Silent:
    """Logs nothing: dnslib would print each query."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


_SIGNING = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority, and the server certificates that it signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test authority")
        public = self._key.public_key()
        self.bundle = folder / "ca.pem"
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=30))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_SIGNING, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, address: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
        """Make what a server for this address needs to serve TLS."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = dt.datetime.now(dt.UTC) + dt.timedelta(days=-1 if expired else 1)
        names = [x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("db.test")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name("test server"))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - dt.timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{certificate.serial_number}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Health:
    """What a gRPC server's health service says: a status by service, and how it is said.

    Args:
        says: a status of `HealthCheckResponse` by service, the server's own under ``""``.
        fields: those before the answer's body.
        trailers: those after it.
        chunk: how many bytes to send at once; all where 0.
    """

    def __init__(self, says: dict[str, int], **more: Any) -> None:
        self.says = says
        self.fields: list[tuple[str, str]] = more.get(
            "fields", [(":status", "200"), ("content-type", "application/grpc")]
        )
        self.trailers: list[tuple[str, str]] = more.get("trailers", [("grpc-status", "0")])
        self.chunk: int = more.get("chunk", 0)
        self.requests: list[tuple[dict[str, str], bytes]] = []

    def serve(self, connection: Any, _number: int) -> None:
        """Serve one connection by h2, an implementation of HTTP/2 that is not ours."""
        state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        state.initiate_connection()
        self._send(connection, state)
        fields: dict[str, str] = {}
        body = b""
        while chunk := connection.recv(4096):
            for event in state.receive_data(chunk):
                if isinstance(event, RequestReceived):
                    fields = dict(event.headers)
                elif isinstance(event, DataReceived):
                    body += event.data
                elif isinstance(event, StreamEnded):
                    self.requests.append((fields, body))
                    state.ping(b"12345678")
                    self._answer(state, event.stream_id, body)
            self._send(connection, state)

    def _answer(self, state: H2Connection, stream: int, body: bytes) -> None:
        # Before a name stand gRPC's five bytes, a tag, and a length of one byte or two.
        service = body[6:][1 if len(body) < 135 else 2 :].decode()
        state.send_headers(stream, self.fields)
        if service in self.says:
            # An unknown field before it, as a later version of the protocol may have.
            message = b"\x12\x03new\x08" + bytes([self.says[service]])
            state.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, pad_length=7)
            state.send_headers(stream, self.trailers, end_stream=True)
        else:
            state.send_headers(stream, [("grpc-status", "5")], end_stream=True)

    def _send(self, connection: Any, state: H2Connection) -> None:
        """Send all that is to be sent, in chunks of a size: nothing need come as it was sent."""
        content = state.data_to_send()
        size = self.chunk or len(content)
        for start in range(0, len(content), size or 1):
            connection.sendall(content[start : start + size])
            if self.chunk:
                time.sleep(0.0005)
