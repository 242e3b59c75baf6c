from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from webhook.tls import certificates
from webhook.tls.certificates import (
    CertificateError,
    FileCertificates,
    LiveContext,
    Pair,
    check,
    key_pem,
    names_of,
    new_context,
    self_signed,
    serve,
    untimely,
)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
A = self_signed(["a.test", "127.0.0.1"], NOW)
B = self_signed(["b.test", "127.0.0.1"], NOW)


def pair(
    *,
    names: list[str] | None = None,
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.SERVER_AUTH,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
) -> Pair:
    """Make a certificate that signs itself, as odd as a test wants it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end)
    if names is None:
        names = ["a.test"]
    if names:
        alternatives = x509.SubjectAlternativeName(map(x509.DNSName, names))
        builder = builder.add_extension(alternatives, critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


CLIENT_A = pair(usage=ExtendedKeyUsageOID.CLIENT_AUTH)
CLIENT_B = pair(usage=ExtendedKeyUsageOID.CLIENT_AUTH)


def encrypted(found: Pair) -> bytes:
    """Give its key with a password."""
    key: Any = serialization.load_pem_private_key(found.key, None)
    password = serialization.BestAvailableEncryption(b"x")
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password
    )


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Pair(A.certificate, B.key), "the key does not belong to the certificate"),
        (Pair(b"", A.key), "not a certificate"),
        (Pair(A.certificate[:200], A.key), "not a certificate"),
        (Pair(A.key, A.certificate), "not a certificate"),
        (Pair(A.certificate, b"\0"), "not a private key"),
        (Pair(A.certificate, encrypted(A)), "the key is encrypted"),
        (pair(names=[]), "names no host"),
        (pair(usage=ExtendedKeyUsageOID.CLIENT_AUTH), "not for servers"),
    ],
)
def test_a_pair_that_can_serve_nobody_is_refused(bad: Pair, reason: str) -> None:
    """And what a context serves stays."""
    context = new_context()
    serve(context, A)
    before = context.current
    with pytest.raises(CertificateError, match=reason):
        serve(context, bad)
    assert context.current is before


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
def test_a_certificate_for_any_use_is_served(usage: x509.ObjectIdentifier | None) -> None:
    """Without an extended key usage, or with any, as clients take it."""
    check(pair(usage=usage))


def test_a_broken_client_ca_is_refused() -> None:
    """A file with nothing in it would let nobody in, a broken one who knows whom."""
    context = new_context(checks_clients=True)
    for broken in (b"", A.certificate + A.certificate[:100] + b"\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CertificateError, match="client CA"):
            serve(context, A, broken)
    assert context.current is None


def test_a_pair_never_shows_its_key() -> None:
    """Neither in a log nor in a traceback."""
    assert "PRIVATE" not in repr(A)


def test_names_are_hosts_and_addresses() -> None:
    """In lower case, as they are compared."""
    found = names_of(self_signed(["A.test", "::1", "10.0.0.1"], NOW).leaf)
    assert found == {"a.test", "::1", "10.0.0.1"}


@given(st.timedeltas(timedelta(days=-3), timedelta(days=3)))
def test_a_certificate_is_timely_from_its_start_to_its_end(offset: timedelta) -> None:
    """Both ends included."""
    assert (untimely(_ODD.leaf, NOW + offset) is None) == (-DAY <= offset <= DAY)


_ODD = pair()


def test_without_memory_files_a_pair_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On systems other than Linux a folder is used, and removed."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    serve(new_context(), A)
    assert not list(tmp_path.iterdir())


# --- serving -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(context: LiveContext) -> AsyncIterator[int]:
    """A server that says hello, line by line."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while await reader.readline():
                writer.write(b"hello\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def trusting(server: Pair, own: Pair | None = None) -> ssl.SSLContext:
    """Make a client that trusts one certificate, and may show one of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=server.certificate.decode())
    if own is not None:
        with certificates._placed(own) as (certificate, key):
            context.load_cert_chain(certificate, key)
    return context


async def ask(port: int, context: ssl.SSLContext, name: str = "127.0.0.1") -> bytes | str:
    """Say hello over a fresh connection: the answer, or the name of the error."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name
        )
        writer.write(b"?\n")
        answer = await reader.readline()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    except (OSError, ssl.SSLError) as error:
        return type(error).__name__
    return answer


Runner = Callable[[Awaitable[None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Each of the two loops."""
    return request.param


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_another_pair_is_served_without_a_restart(run: Runner, version: ssl.TLSVersion) -> None:
    """By name and by address; a connection that is open goes on; before there is one, nothing."""

    async def body() -> None:
        context = new_context()
        old, new = trusting(A), trusting(B)
        for each in (old, new):
            each.maximum_version = version
        async with listening(context) as port:
            assert await ask(port, old) == "ConnectionResetError"
            serve(context, A)
            assert await ask(port, old, "a.test") == b"hello\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=old)
            serve(context, B)
            assert await ask(port, new, "b.test") == b"hello\n"
            assert await ask(port, new) == b"hello\n"
            assert await ask(port, old) == "SSLCertVerificationError"
            writer.write(b"?\n")
            assert await reader.readline() == b"hello\n"
            writer.close()

    run(body())


def test_tls_older_than_1_2_is_refused(run: Runner) -> None:
    """The contract's floor."""

    async def body() -> None:
        context = new_context()
        serve(context, A)
        old = trusting(A)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        async with listening(context) as port:
            assert await ask(port, old) in {"SSLError", "ConnectionResetError"}

    run(body())


def test_a_client_must_show_a_certificate_of_the_newest_client_ca(run: Runner) -> None:
    """One of a CA that has been withdrawn is refused from then on, and nothing is resumed."""

    async def body() -> None:
        context = new_context(checks_clients=True)
        serve(context, A, CLIENT_A.certificate)
        one, two, none = trusting(A, CLIENT_A), trusting(A, CLIENT_B), trusting(A)
        refused = {b"", "ConnectionResetError", "SSLError"}
        async with listening(context) as port:
            assert await ask(port, one) == b"hello\n"
            assert await ask(port, two) in refused
            assert await ask(port, none) in refused
            serve(context, A, CLIENT_B.certificate)
            assert await ask(port, two) == b"hello\n"
            assert await ask(port, one) in refused
            serve(context, A, CLIENT_A.certificate + CLIENT_B.certificate)
            assert await ask(port, one) == b"hello\n"
            two.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions could be resumed
            assert await ask(port, two) in refused

    run(body())


def test_no_handshake_fails_while_pairs_are_changed(run: Runner) -> None:
    """A thread changes the pair as fast as it can, four clients connect as fast as they can."""

    async def body() -> None:
        context = new_context()
        serve(context, A)
        both = trusting(A)
        both.load_verify_locations(cadata=B.certificate.decode())
        done = threading.Event()
        changes = [0]

        def change() -> None:
            while not done.is_set():
                serve(context, (A, B)[changes[0] % 2])
                changes[0] += 1

        thread = threading.Thread(target=change)

        async def client(port: int) -> list[bytes | str]:
            return [await ask(port, both) for _ in range(60)]

        async with listening(context) as port:
            thread.start()
            found = await asyncio.gather(*(client(port) for _ in range(4)))
            done.set()
            thread.join()
        assert [each for answers in found for each in answers] == [b"hello\n"] * 240
        assert changes[0] > 100

    run(body())


# --- files ---------------------------------------------------------------------------------------


class Mount:
    """A folder as the kubelet mounts a Secret: files link into a folder that a link points to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(Path("..data", name))

    def write(self, found: Pair, client_ca: bytes = b"") -> None:
        """Swap all files at once."""
        self.count += 1
        data = self.folder / f"..{self.count}"
        data.mkdir()
        (data / "tls.crt").write_bytes(found.certificate)
        (data / "tls.key").write_bytes(found.key)
        (data / "ca.crt").write_bytes(client_ca)
        (self.folder / "..new").symlink_to(data.name)
        (self.folder / "..new").rename(self.folder / "..data")

    def source(self, **options: Any) -> FileCertificates:
        """Make a source of it."""
        return FileCertificates(self.folder / "tls.crt", self.folder / "tls.key", **options)


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """An empty mount."""
    return Mount(tmp_path)


def test_files_that_come_later_are_waited_for(mount: Mount) -> None:
    """No certificate, not ready and why; then both, and the change is told."""
    told: list[None] = []
    source = mount.source(on_change=lambda: told.append(None))
    assert "not read yet" in (source.problem() or "")
    assert source.step() == 1
    assert "tls.crt: No such file" in (source.problem() or "")
    assert source.expires() is None
    mount.write(A)
    assert source.step() > 5
    assert source.problem() is None
    assert source.expires() == A.expires()
    source.step()
    assert len(told) == 1


def test_a_swap_by_the_kubelet_is_served(mount: Mount) -> None:
    """The links of the files stay as they are: only the one above them changes."""
    mount.write(A)
    source = mount.source()
    source.step()
    mount.write(B)
    source.step()
    assert source.expires() == B.expires()
    assert source._served is not None
    assert source._served[0] == B


def test_a_broken_pair_never_replaces_a_good_one(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    """It is complained of once, when it is seen twice, and the good one stays ready."""
    mount.write(A)
    source = mount.source()
    source.step()
    served = source.context.current
    mount.write(Pair(A.certificate, B.key))
    assert source.step() == 1
    assert not caplog.messages
    for _ in range(3):
        source.step()
    assert len(caplog.messages) == 1
    assert "the key does not belong to the certificate; the one that is served" in caplog.text
    assert "PRIVATE" not in caplog.text
    assert source.problem() is None
    assert source.context.current is served
    mount.write(A)
    source.step()
    mount.write(Pair(A.certificate, B.key))
    source.step()
    source.step()
    assert len(caplog.messages) == 2


def test_a_pair_that_is_not_valid_now_waits_while_a_valid_one_is_served(mount: Mount) -> None:
    """Not before its time, and not after it."""
    now = [NOW]
    source = mount.source(clock=lambda: now[0])
    good, early = pair(), pair(start=NOW + timedelta(hours=1), end=NOW + 30 * DAY)
    mount.write(good)
    source.step()
    mount.write(early)
    source.step()
    assert source.expires() == good.expires()
    now[0] += timedelta(hours=2)
    source.step()
    assert source.expires() == early.expires()
    mount.write(good)
    now[0] += 2 * DAY
    source.step()
    assert source.expires() == early.expires()


def test_an_expired_pair_is_served_where_there_is_no_better_and_is_not_ready(
    mount: Mount,
) -> None:
    """It may be our clock that is wrong."""
    late = pair(start=NOW - 3 * DAY, end=NOW - DAY)
    mount.write(late)
    source = mount.source()
    source.step()
    assert source.context.current is not None
    assert (source.problem() or "").startswith("the certificate expired at 20")
    mount.write(A)
    source.step()
    assert source.problem() is None


def test_a_certificate_for_another_name_is_not_ready(mount: Mount) -> None:
    """A wildcard covers one label."""
    mount.write(pair(names=["*.ns.svc", "b.test"]))
    for name, good in (("a.ns.svc", True), ("B.test", True), ("a.b.ns.svc", False)):
        source = mount.source(names=[name])
        source.step()
        assert (source.problem() is None) == good, name
    assert source.problem() == (
        "the certificate is not good for a.b.ns.svc, only for *.ns.svc, b.test"
    )


def test_the_client_ca_is_watched_too(mount: Mount) -> None:
    """Another one is served with the same pair; without one we are not ready."""
    mount.write(A)
    source = mount.source(client_ca=mount.folder / "ca.crt")
    source.step()
    assert "client CA" in (source.problem() or "")
    mount.write(A, CLIENT_A.certificate)
    source.step()
    assert source.problem() is None
    before = source.context.current
    mount.write(A, CLIENT_B.certificate)
    source.step()
    assert source.context.current is not before


def test_files_are_watched_in_the_background_until_it_is_stopped(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read at once at the start, then every few seconds."""
    monkeypatch.setattr("webhook.tls.certificates._POLL_SECONDS", 0.01)
    mount.write(A)
    source = mount.source()
    source.start()
    assert source.expires() == A.expires()
    mount.write(B)
    end = time.monotonic() + 5
    while source._served != (B, None) and time.monotonic() < end:
        time.sleep(0.01)
    source.stop()
    assert source._served == (B, None)
    assert source._background._thread is not None
    assert not source._background._thread.is_alive()
