"""What the server proves itself with: pairs of certificate and key, checked before they serve.

The server is given one `LiveContext` for its life. Each handshake is handed over to the newest
context behind it, so a renewal is one assignment: handshakes under way finish with what they began
with, and open connections are not touched. (Loading into a context that is in use would leave an
instant with a new certificate and an old key, and could never remove an old client CA.)
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from webhook.background import Background, Runnable, jittered

log = logging.getLogger("webhook.certificates")

BACKDATED: Final = timedelta(minutes=5)
_SELF_SIGNED_FOR: Final = timedelta(days=365)
_POLL_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 1.0

Clock = Callable[[], datetime]


class CertificateError(ValueError):
    """A certificate that cannot be served; the text says which and why."""


def utc_now() -> datetime:
    """Tell the time, by this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain, leaf first, and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate itself.

        Raises:
            CertificateError: there is none in the PEM.
        """
        try:
            return x509.load_pem_x509_certificate(self.certificate)
        except ValueError:
            message = "not a certificate: expected PEM, the server's own certificate first"
            raise CertificateError(message) from None

    def expires(self) -> datetime:
        """Tell when the leaf ends."""
        return self.leaf.not_valid_after_utc


class LiveContext(ssl.SSLContext):
    """The context that a server keeps for its life; `current` does each new handshake."""

    current: ssl.SSLContext | None = None


def new_context(*, checks_clients: bool = False) -> LiveContext:
    """Make the context that the server keeps for its life: TLS 1.2 or newer.

    Args:
        checks_clients: whether a client must show a certificate. Then TLS is 1.3, the only version
            in which a session cannot be resumed past a client CA that has been withdrawn.
    """
    context = LiveContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # API servers keep connections, not sessions: no tickets to make and to remember.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if checks_clients:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # How strictly is taken from this context, whom to trust from the one handed over to.
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.sni_callback = _hand_over  # called for a client that names no server, too
    return context


def _hand_over(
    connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, context: ssl.SSLContext
) -> int | None:
    if not isinstance(context, LiveContext) or context.current is None:
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
    connection.context = context.current
    return None


def serve(context: LiveContext, pair: Pair, client_ca: bytes | None = None) -> None:
    """Serve a pair to new connections from now on, if it is good.

    Args:
        context: made by `new_context`.
        pair: what to serve.
        client_ca: PEM certificates of those who may sign a client's certificate, if that is asked.

    Raises:
        CertificateError: the two do not belong together, or no client of Go would accept them.
    """
    check(pair)
    fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _placed(pair) as (certificate, key):
        try:
            fresh.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            message = f"not a certificate and its key: {error}"
            raise CertificateError(message) from None
    if client_ca is not None:
        fresh.load_verify_locations(cadata=_certificates(client_ca, "client CA"))
    context.current = fresh


def _no_password() -> bytes:
    """Answer OpenSSL, which would ask at the terminal, and wait."""
    return b""


def _certificates(pem: bytes, what: str) -> bytes:
    """Read PEM certificates into DER, one after another."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        message = f"{what}: expected PEM certificates and nothing broken among them"
        raise CertificateError(message) from None
    return b"".join(each.public_bytes(serialization.Encoding.DER) for each in found)


@contextlib.contextmanager
def _placed(pair: Pair) -> Iterator[tuple[str, str]]:
    """Put both where OpenSSL can read them: in memory where there is such a thing (Linux).

    The key then never touches a file system, and a read-only root does no harm.
    """
    with contextlib.ExitStack() as stack:
        paths = []
        if hasattr(os, "memfd_create"):
            for content in (pair.certificate, pair.key):
                descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
                file = stack.enter_context(open(descriptor, "wb"))  # noqa: PTH123 - a descriptor
                file.write(content)
                file.flush()
                paths.append(f"/proc/self/fd/{descriptor}")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            for name, content in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
                path = Path(folder, name)
                path.touch(mode=0o600)
                path.write_bytes(content)
                paths.append(str(path))
        yield paths[0], paths[1]


def check(pair: Pair) -> None:
    """Refuse what can serve nobody, whatever the clock says and whoever calls.

    Raises:
        CertificateError: it does not parse, the key is another's, it names no host, or it is not
            meant for servers. The last two are what clients written in Go, such as the API
            server, refuse.
    """
    leaf = pair.leaf
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
    except TypeError:
        message = "the key is encrypted: expected one without a password"
        raise CertificateError(message) from None
    except (ValueError, UnsupportedAlgorithm):
        message = "not a private key: expected PEM"
        raise CertificateError(message) from None
    if key.public_key() != leaf.public_key():
        message = "the key does not belong to the certificate"
        raise CertificateError(message)
    if not names_of(leaf):
        message = "the certificate names no host: expected subject alternative names"
        raise CertificateError(message)
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & {*usage}:
        message = (
            "the certificate is not for servers: expected serverAuth in its extended key usage"
        )
        raise CertificateError(message)


def names_of(leaf: x509.Certificate) -> frozenset[str]:
    """List the DNS names and IP addresses that a certificate is good for."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    hosts = names.get_values_for_type(x509.DNSName)
    return frozenset(map(str.lower, hosts)) | frozenset(
        map(str, names.get_values_for_type(x509.IPAddress))
    )


def untimely(leaf: x509.Certificate, now: datetime) -> str | None:
    """Say why a certificate is not valid at this time, if it is not."""
    if now > leaf.not_valid_after_utc:
        return f"the certificate expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    if now < leaf.not_valid_before_utc:
        return f"the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} only"
    return None


def _covers(names: frozenset[str], name: str) -> bool:
    name = name.lower()
    return name in names or "*." + name.partition(".")[2] in names


def read(certificate: Path, key: Path) -> Pair:
    """Read a pair from two PEM files.

    Raises:
        CertificateError: one of them cannot be read.
    """
    return Pair(read_file(certificate), read_file(key))


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        CertificateError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise CertificateError(message) from None


def self_signed(names: Iterable[str], now: datetime) -> Pair:
    """Make a certificate that signs itself, good for a year from `now`.

    Args:
        names: DNS names and IP addresses to be good for; the first is its common name.
        now: the time it counts from.
    """
    names = list(names)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = for_server(names, key.public_key(), now - BACKDATED, now + _SELF_SIGNED_FOR)
    certificate = builder.subject_name(subject).issuer_name(subject).sign(key, hashes.SHA256())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


def for_server(
    names: Iterable[str],
    key: ec.EllipticCurvePublicKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    """Begin a server's certificate: all but its subject and issuer."""
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Write a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# --- sources -------------------------------------------------------------------------------------


class Certificates(Runnable, Protocol):
    """Where the server's certificate comes from, and how it stays good."""

    @property
    def context(self) -> LiveContext:
        """What the server listens with; the same one for its life."""

    def start(self) -> None:
        """Have a certificate if one can be had now, and look after it from now on."""

    def stop(self) -> None:
        """Look after it no longer; what is served goes on being served."""

    def problem(self) -> str | None:
        """Say why a client would not be served well, if so."""

    def expires(self) -> datetime | None:
        """Tell when what is served ends."""

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers of this source alone, each with its help text."""


class FixedCertificate:
    """One pair for the life of the process, such as a self-signed one."""

    def __init__(self, pair: Pair, clock: Clock = utc_now) -> None:
        self.context = new_context()
        self._pair = pair
        self._clock = clock

    def start(self) -> None:
        """Serve it."""
        serve(self.context, self._pair)

    def stop(self) -> None:
        """Nothing is looked after."""

    def problem(self) -> str | None:
        """Say that it has expired, if so."""
        return untimely(self._pair.leaf, self._clock())

    def expires(self) -> datetime | None:
        """Tell when it ends."""
        return self._pair.expires()

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Have no more numbers."""
        return {}


class FileCertificates:
    """A pair in two files, served anew whenever they hold another good pair.

    The files are read and compared every few seconds: two small reads. Their times would tell
    less (a copy may keep them), and inotify would not see a change on a network mount, nor the
    kubelet's swap of the symbolic link above the one that is watched.

    A pair that `check` refuses is never served, nor is one that the clock refuses while the one
    being served is valid. Where there is none yet, a pair that has expired is better than none:
    the clock that says so may be ours that is wrong. It is served, and not ready.

    Args:
        certificate: the PEM file of the chain, leaf first.
        key: the PEM file of its key.
        names: the hosts that the server is called by, if known; one that the certificate is not
            good for is a problem, not a reason not to serve.
        client_ca: the PEM file of those who may sign a client's certificate, if that is asked.
        clock: tells the time.
        on_change: called after another pair is served.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        names: Iterable[str] = (),
        client_ca: Path | None = None,
        clock: Clock = utc_now,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.context = new_context(checks_clients=client_ca is not None)
        self._files = (certificate, key)
        self._client_ca = client_ca
        self._names = tuple(names)
        self._clock = clock
        self.on_change = on_change
        self._served: tuple[Pair, bytes | None] | None = None
        self._refused: tuple[object, str] | None = None
        self._said: str | None = None
        self._background = Background("certificate-files", self.step)

    def start(self) -> None:
        """Read the files now, and watch them from now on."""
        self.step()
        self._background.start()

    def stop(self) -> None:
        """Watch them no longer."""
        self._background.stop()

    def step(self) -> float:
        """Look at the files once, and tell when to look again."""
        content: object = None
        try:
            pair = read(*self._files)
            client_ca = read_file(self._client_ca) if self._client_ca else None
            content = (pair, client_ca)
            if content == self._served:
                self._refused = self._said = None
                return jittered(_POLL_SECONDS)
            late = untimely(pair.leaf, self._clock())
            if late and self._served and not untimely(self._served[0].leaf, self._clock()):
                raise CertificateError(late)  # noqa: TRY301 - a reason among the others
            serve(self.context, pair, client_ca)
        except CertificateError as error:
            return self._refuse(content, f"{self._files[0].parent}: {error}")
        self._served, self._refused, self._said = (pair, client_ca), None, None
        log.info("serving %s, good until %s", self._files[0], pair.expires())
        self.on_change()
        return jittered(_POLL_SECONDS)

    def _refuse(self, content: object, reason: str) -> float:
        """Complain of what is seen twice: between two reads the kubelet may swap the files."""
        seen, self._refused = self._refused, (content, reason)
        if seen != self._refused:
            return _AGAIN_SECONDS
        if self._said != reason:
            self._said = reason
            kept = "; the one that is served stays" if self._served else ""
            log.warning("not served: %s%s", reason, kept)
        return jittered(_POLL_SECONDS) if self._served else _AGAIN_SECONDS

    def problem(self) -> str | None:
        """Say what is wrong with what is served; of the files alone only the log tells."""
        if self._served is None:
            reason = self._refused[1] if self._refused else "not read yet"
            return f"there is no certificate to serve: {reason}"
        leaf = self._served[0].leaf
        names = names_of(leaf)
        for name in self._names:
            if not _covers(names, name):
                return (
                    f"the certificate is not good for {name}, only for {', '.join(sorted(names))}"
                )
        return untimely(leaf, self._clock())

    def refused(self) -> str | None:
        """Say what is wrong with the files, if they hold what is not served."""
        return self._said

    def expires(self) -> datetime | None:
        """Tell when the pair that is served ends."""
        return self._served[0].expires() if self._served else None

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Tell whether the files hold what is not served."""
        text = "Whether the certificate's files hold something that is not served: 1, or 0."
        return {"seamless_certificate_files_refused": (text, self.refused() is not None)}
