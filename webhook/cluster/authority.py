"""Certificates that look after themselves: a CA in a Secret, and a leaf of it in each replica.

There is no leader. Every replica does the same round every half minute, and the API server's
optimistic concurrency sorts out who was first:

1. Read our MutatingWebhookConfiguration, then the Secret. In this order, a CA that stands in the
   configuration but not in the Secret has been superseded: it is always put in the Secret first.
2. Make the CA if there is none, or none that can be used, or if two thirds of its life are over.
   The CAs before it stay beside it, in `ca.crt`. Whoever loses a race reads what the other wrote.
3. Have every `caBundle` of our configuration hold what is needed: the CA, and those before it for
   as long as a leaf of theirs could be valid. Nothing is written where that is so already. What
   others put there is left alone while it is valid.
4. Sign a leaf, in memory, if there is none or two thirds of its life are over. One of a new CA
   replaces one that is trusted only after all bundles have held that CA for a minute, so that
   every instance of the API server has heard of it.

Time is the API server's (`Api.now`), as it is the API server that judges. The cost is two GETs of a
few kilobytes every 30 s for each replica, every 2 s while it is not ready.
"""

from __future__ import annotations

import base64
import binascii
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from webhook.background import Background, jittered
from webhook.cluster import trust
from webhook.cluster.client import (
    CONFLICT,
    INVALID,
    JSON_PATCH,
    NOT_FOUND,
    Api,
    ApiError,
    Backoff,
    Json,
)
from webhook.cluster.trust import POLL_SECONDS, UNREADY_SECONDS
from webhook.tls.certificates import (
    CertificateError,
    Pair,
    for_server,
    key_pem,
    new_context,
    read_file,
    serve,
    untimely,
)

log = logging.getLogger("webhook.cluster.authority")

COMMON_NAME: Final = "seamless-rollouts CA"
FIELD_MANAGER: Final = "seamless-certificates"
_TRIES: Final = 5
_MOST_BEFORE: Final = 4  # CAs kept beside the newest one, should it be replaced again and again

_BACKDATED: Final = timedelta(hours=1)  # instances of the API server differ in their time
_FOR_SKEW: Final = timedelta(days=1)

Certificates = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things last; a CA and a leaf are renewed after two thirds of it."""

    authority: timedelta = timedelta(days=365)
    leaf: timedelta = timedelta(days=7)
    settle_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA, its key, and those that came before it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    before: Certificates = ()

    def needed(self, now: datetime, leaf: timedelta) -> Certificates:
        """List whom a client must trust: those before count while a leaf of theirs may be valid."""
        made = self.certificate.not_valid_before_utc + _BACKDATED
        if now > made + leaf + _FOR_SKEW:
            return (self.certificate,)
        return (self.certificate, *(each for each in self.before if not untimely(each, now)))


def make_authority(
    now: datetime, lifetime: timedelta, before: Iterable[x509.Certificate] = ()
) -> CertificateAuthority:
    """Make a CA.

    Args:
        now: the time it counts from.
        lifetime: how long it lasts.
        before: the CAs that it follows, in any order; the newest few that are valid are kept.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME),
            # Two CAs are never of the same name, whatever a client goes by.
            x509.NameAttribute(NameOID.SERIAL_NUMBER, identifier.digest.hex()[:16]),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    valid = {each for each in before if not untimely(each, now)}
    newest = sorted(valid, key=lambda each: each.not_valid_before_utc, reverse=True)
    return CertificateAuthority(certificate, key, tuple(newest[:_MOST_BEFORE]))


_SIGNS_CERTIFICATES: Final = x509.KeyUsage(
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


def write_authority(authority: CertificateAuthority) -> dict[str, str]:
    """Write a CA as the `data` of a Secret."""
    own = _pem(authority.certificate)
    contents = {
        "tls.crt": own,
        "tls.key": key_pem(authority.key),
        "ca.crt": own + b"".join(map(_pem, authority.before)),
    }
    return {name: base64.b64encode(content).decode() for name, content in contents.items()}


def read_authority(data: Any, now: datetime) -> CertificateAuthority:
    """Read a CA from the `data` of a Secret.

    Raises:
        CertificateError: it cannot be used; the text says why, and holds nothing secret.
    """
    data = data if isinstance(data, dict) else {}
    pair = Pair(_decoded(data, "tls.crt"), _decoded(data, "tls.key"))
    certificate = pair.leaf
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = "tls.key is no private key"
        raise CertificateError(message) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        message = "tls.key is of a kind that is not used here: expected EC or RSA"
        raise CertificateError(message)
    if key.public_key() != certificate.public_key():
        message = "tls.key does not belong to tls.crt"
        raise CertificateError(message)
    if not _is_authority(certificate):
        message = "tls.crt is no certificate of a CA"
        raise CertificateError(message)
    late = untimely(certificate, now)
    if late:
        raise CertificateError(late)
    return CertificateAuthority(certificate, key, before_in(data, certificate))


def before_in(data: Any, newest: x509.Certificate | None = None) -> Certificates:
    """Read the CAs that stand in `ca.crt` of a Secret's `data`, but for the newest."""
    try:
        found, _ = trust.read_certificates(_decoded(data, "ca.crt"))
    except CertificateError:
        return ()
    return tuple(each for each in found if each != newest and _is_authority(each))


def _decoded(data: Any, name: str) -> bytes:
    try:
        return base64.b64decode(data[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        message = f"{name} is missing, or not base64"
        raise CertificateError(message) from None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return found.value.ca


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def is_due(certificate: x509.Certificate, now: datetime, share: float = 2 / 3) -> bool:
    """Tell whether this share of a certificate's life is over."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= start + (end - start) * share


def sign(
    authority: CertificateAuthority,
    names: Iterable[str],
    now: datetime,
    lifetime: timedelta,
) -> Pair:
    """Sign a server's certificate with a new key; it ends no later than its CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    end = min(now + lifetime, issuer.not_valid_after_utc)
    certificate = (
        for_server(names, key.public_key(), now - _BACKDATED, end)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "seamless-rollouts")]))
        .issuer_name(issuer.subject)
        .add_extension(_identifier(issuer), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(_pem(certificate), key_pem(key))


def _identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def put_right(configuration: Json, needed: Iterable[x509.Certificate], now: datetime) -> list[Json]:
    """Make the JSON Patch that has every `caBundle` of a configuration hold what is needed.

    It is empty where nothing is missing, broken, expired, or ours and superseded. It applies only
    to the version that was read.
    """
    needed = list(needed)
    operations: list[Json] = []
    for number, entry in enumerate(trust.entries(configuration)):
        foreign = [
            each
            for each in entry.trusted
            if each not in needed and not _is_ours(each) and not untimely(each, now)
        ]
        wanted = needed + foreign
        if entry.garbage or set(wanted) != set(entry.trusted):
            bundle = base64.b64encode(b"".join(map(_pem, wanted))).decode()
            path = f"/webhooks/{number}/clientConfig/caBundle"
            operations.append({"op": "add", "path": path, "value": bundle})
    if operations:
        version = configuration["metadata"]["resourceVersion"]
        test = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        operations.insert(0, test)
    return operations


def _is_ours(certificate: x509.Certificate) -> bool:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return bool(names) and names[0].value == COMMON_NAME


class SelfManagedCertificates:
    """The source of certificates that needs nothing but the API server.

    Args:
        api: the Kubernetes API.
        namespace: where the Secret is: our own.
        secret: the Secret's name.
        configuration: the name of our MutatingWebhookConfiguration, if there is one.
        names: the DNS names that the server is called by; those in our configuration come by
            themselves.
        client_ca: the PEM file of those who may sign a client's certificate, if that is asked.
        lifetimes: how long things last.
        clock: tells seconds since some time or other.
    """

    def __init__(  # noqa: PLR0913 - all but four have a default
        self,
        api: Api,
        namespace: str,
        secret: str,
        *,
        configuration: str | None,
        names: Iterable[str],
        client_ca: Path | None = None,
        lifetimes: Lifetimes = Lifetimes(),
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self.context = new_context(checks_clients=client_ca is not None)
        self.writes = 0
        self._api = api
        self._secrets = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"
        self._secret = secret
        self._where = f"Secret {namespace}/{secret}"
        self._configuration = configuration
        self._names = frozenset(names)
        self._client_ca = client_ca
        self._lifetimes = lifetimes
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._share = random.uniform(0.6, 0.67)  # noqa: S311 - spreads replicas
        self._authority: CertificateAuthority | None = None
        self._leaf: x509.Certificate | None = None
        self._served: tuple[x509.Certificate, tuple[str, ...], bytes | None] | None = None
        self._settled: tuple[x509.Certificate, float] | None = None
        self._problem: str | None = "there is no certificate yet"
        self._background = Background("certificate-authority", self.step)

    def start(self) -> None:
        """Do the first round now, and one after the other from now on."""
        self._background.start()

    def stop(self) -> None:
        """Do no more; what is served stays."""
        self._background.stop()

    def problem(self) -> str | None:
        """Say why the API server would not be served well, if so."""
        if self._leaf is None:
            return self._problem
        return untimely(self._leaf, self._api.now()) or self._problem

    def expires(self) -> datetime | None:
        """Tell when the leaf that is served ends."""
        return self._leaf.not_valid_after_utc if self._leaf else None

    def authority_expires(self) -> datetime | None:
        """Tell when the CA ends."""
        return self._authority.certificate.not_valid_after_utc if self._authority else None

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers of the CA, each with its help text."""
        text = "How often this process has written the CA or put a caBundle right."
        found: dict[str, tuple[str, float]] = {"seamless_ca_writes_total": (text, self.writes)}
        expires = self.authority_expires()
        if expires is not None:
            text = "When the CA ends, in seconds since 1970."
            found["seamless_ca_expiry_timestamp_seconds"] = (text, expires.timestamp())
        return found

    # --- the round -------------------------------------------------------------------------------

    def step(self) -> float:
        """Do one round, and tell how long to wait before the next."""
        try:
            self._round()
        except (ApiError, CertificateError) as error:
            if not self._backoff.failures:
                log.warning("certificates cannot be looked after now: %s", error)
            if self._leaf is None:
                self._problem = f"there is no certificate yet: {error}"
            else:
                self._renew_alone()
            return self._backoff.failed(error if isinstance(error, ApiError) else None)
        self._backoff.succeeded()
        return jittered(UNREADY_SECONDS if self._problem else POLL_SECONDS)

    def _round(self) -> None:
        configuration, authority = self._agree()
        held = trust.entries(configuration) if configuration else []
        self._settle(authority, held)
        names = sorted(self._names | {entry.host for entry in held if entry.host})
        client_ca = read_file(self._client_ca) if self._client_ca else None
        if self._must_sign(authority, tuple(names), client_ca, configuration):
            self._sign(authority, tuple(names), client_ca)
        problem = self._distrust(configuration)
        if problem != self._problem:
            good = "the API server trusts the certificate"
            log.log(logging.WARNING if problem else logging.INFO, "%s", problem or good)
        self._problem = problem

    def _agree(self) -> tuple[Json | None, CertificateAuthority]:
        """See to the CA and to the bundles; gives the configuration as it then is."""
        for _ in range(_TRIES):
            configuration = self._read_configuration()
            held = trust.entries(configuration) if configuration else []
            ours = {each for entry in held for each in entry.trusted if _is_ours(each)}
            authority = self._authority = self._ensure(ours)
            now = self._api.now()
            needed = authority.needed(now, self._lifetimes.leaf)
            operations = put_right(configuration, needed, now) if configuration else []
            if not operations:
                return configuration, authority
            try:
                changed = self._api.request(
                    "PATCH",
                    f"{trust.PATH}/{quote(self._configuration or '', safe='')}",
                    query={"fieldManager": FIELD_MANAGER},
                    body=operations,
                    content_type=JSON_PATCH,
                )
            except ApiError as error:
                if error.status not in (CONFLICT, INVALID, NOT_FOUND):
                    raise
                continue  # another writer was first: see what there is now
            self.writes += 1
            log.info("put the caBundle of %s right", self._configuration)
            return changed, authority
        message = f"{self._configuration} changes faster than it can be put right"
        raise ApiError(message)

    def _read_configuration(self) -> Json | None:
        if self._configuration is None:
            return None
        return trust.read_configuration(self._api, self._configuration)

    def _distrust(self, configuration: Json | None) -> str | None:
        if self._configuration is None:
            return None
        if configuration is None:
            return trust.absent(self._configuration)
        return trust.distrust(self._configuration, configuration, self.context, self._api.now())

    def _ensure(self, held: Iterable[x509.Certificate]) -> CertificateAuthority:
        """Read the CA; make it if there is none to read, or it is time for another."""
        path = f"{self._secrets}/{quote(self._secret, safe='')}"
        before = set(held)
        if self._authority is not None:
            before |= {self._authority.certificate, *self._authority.before}
        for _ in range(_TRIES):
            stored = self._get(path)
            now = self._api.now()
            if stored is None:
                reason = "there is none"
            else:
                try:
                    found = read_authority(stored.get("data"), now)
                except CertificateError as error:
                    reason = str(error)
                    before |= set(before_in(stored.get("data")))
                else:
                    if not is_due(found.certificate, now):
                        return found
                    reason = "two thirds of its life are over"
                    before |= {found.certificate, *found.before}
            made = make_authority(now, self._lifetimes.authority, before)
            if self._put(path, stored, made):
                log.info("made a CA in %s: %s", self._where, reason)
                return made
        message = f"{self._where} changes faster than it can be read"
        raise ApiError(message)

    def _get(self, path: str) -> Json | None:
        try:
            return self._api.request("GET", path)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _put(self, path: str, stored: Json | None, authority: CertificateAuthority) -> bool:
        """Write the CA, unless another replica was first."""
        data = write_authority(authority)
        query = {"fieldManager": FIELD_MANAGER}
        try:
            if stored is None:
                # No labels: the chart sets its own, and would find ours in its way.
                metadata = {"name": self._secret}
                body = {"metadata": metadata, "type": "kubernetes.io/tls", "data": data}
                self._api.request("POST", self._secrets, query=query, body=body)
            else:
                body = {**stored, "data": {**(stored.get("data") or {}), **data}}
                self._api.request("PUT", path, query=query, body=body)
        except ApiError as error:
            lost = (CONFLICT,) if stored is None else (CONFLICT, NOT_FOUND)
            if error.status in lost:
                return False
            raise
        self.writes += 1
        return True

    def _settle(self, authority: CertificateAuthority, held: list[trust.Entry]) -> None:
        """Remember since when every bundle has held the CA."""
        newest = authority.certificate
        if any(newest not in entry.trusted for entry in held):
            self._settled = None
        elif self._settled is None or self._settled[0] != newest:
            self._settled = (newest, self._clock())

    def _must_sign(
        self,
        authority: CertificateAuthority,
        names: tuple[str, ...],
        client_ca: bytes | None,
        configuration: Json | None,
    ) -> bool:
        now, leaf = self._api.now(), self._leaf
        if leaf is None or untimely(leaf, now):
            return True
        other_authority = self._served is None or self._served[0] != authority.certificate
        other = other_authority or self._served != (authority.certificate, names, client_ca)
        if self._distrust(configuration):
            return other  # else it is the bundle that is wrong: another leaf would be no better
        if other_authority:
            since = self._settled[1] if self._settled else self._clock()
            return self._clock() - since >= self._lifetimes.settle_seconds
        return other or is_due(leaf, now, self._share)

    def _sign(
        self, authority: CertificateAuthority, names: tuple[str, ...], client_ca: bytes | None
    ) -> None:
        pair = sign(authority, names, self._api.now(), self._lifetimes.leaf)
        serve(self.context, pair, client_ca)
        self._leaf, self._served = pair.leaf, (authority.certificate, names, client_ca)
        log.info("serving a certificate of %s until %s", self._where, pair.expires())

    def _renew_alone(self) -> None:
        """Renew the leaf of the CA that is known while the API server cannot be reached."""
        authority, leaf, now = self._authority, self._leaf, self._api.now()
        if authority is None or leaf is None or self._served is None:
            return
        if untimely(authority.certificate, now):
            return
        if self._served[0] == authority.certificate and is_due(leaf, now, self._share):
            self._sign(authority, *self._served[1:])


def service_names(service: str | None, namespace: str) -> list[str]:
    """List the DNS names that a Service is called by; the API server uses the last."""
    return [service, f"{service}.{namespace}", f"{service}.{namespace}.svc"] if service else []
