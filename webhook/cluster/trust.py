"""Whether the API server trusts the certificate that is served.

It does where each entry of our MutatingWebhookConfiguration has a `caBundle` that verifies it for
the name that the entry calls us by. That is tried out: a handshake in memory, against the context
that the server listens with.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from webhook.background import Background, jittered
from webhook.cluster.client import NOT_FOUND, Api, ApiError, Backoff, Json
from webhook.tls.certificates import untimely

log = logging.getLogger("webhook.cluster.trust")

PATH: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
POLL_SECONDS: Final = 30.0
UNREADY_SECONDS: Final = 2.0
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
_ROUNDS: Final = 10
_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

Certificates = list[x509.Certificate]


@dataclass(frozen=True, slots=True)
class Entry:
    """One webhook of a configuration: the name that it calls us by, and whom it trusts.

    `garbage` tells that something in the bundle is no certificate.
    """

    host: str
    in_cluster: bool
    trusted: Certificates
    garbage: bool


def entries(configuration: Json) -> list[Entry]:
    """Read the webhooks of a configuration."""
    return [_entry(each.get("clientConfig") or {}) for each in configuration.get("webhooks") or ()]


def _entry(client: Json) -> Entry:
    service = client.get("service")
    if service:
        host = f"{service.get('name')}.{service.get('namespace')}.svc"
    else:
        host = urlsplit(client.get("url") or "").hostname or ""
    trusted, garbage = read_bundle(client.get("caBundle"))
    return Entry(host, bool(service), trusted, garbage)


def read_bundle(encoded: Any) -> tuple[Certificates, bool]:
    """Read a `caBundle`: the certificates in it, and whether there is garbage among them."""
    if not encoded:
        return [], False
    try:
        pem = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return [], True
    return read_certificates(pem)


def read_certificates(pem: bytes) -> tuple[Certificates, bool]:
    """Read PEM certificates, each one on its own, so that a broken one takes no other along."""
    found: Certificates = []
    blocks = _BLOCK.findall(pem)
    garbage = not blocks and bool(pem.strip())
    for block in blocks:
        try:
            certificate = x509.load_pem_x509_certificate(block)
        except ValueError:
            garbage = True
            continue
        if certificate not in found:
            found.append(certificate)
    return found, garbage


def verifies(context: ssl.SSLContext, host: str, trusted: Iterable[x509.Certificate]) -> str | None:
    """Say why a client would not accept what a context serves, if so; time is not looked at.

    Args:
        context: the server's.
        host: the name or address that the client calls.
        trusted: what the client trusts, roots or not, as clients written in Go take it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.hostname_checks_common_name = False
    client.verify_flags = ssl.VerifyFlags(
        ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        | ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
        | _NO_CHECK_TIME
    )
    roots = b"".join(each.public_bytes(Encoding.DER) for each in trusted)
    if not roots:
        return "the bundle holds no valid certificate"
    client.load_verify_locations(cadata=roots)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=_plain(host)),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_ROUNDS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return error.reason or str(error)
            if end is ends[0]:
                return None
    return "the handshake does not end"


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def distrust(name: str, configuration: Json, context: ssl.SSLContext, now: datetime) -> str | None:
    """Say why the API server does not trust what is served, if so.

    Args:
        name: the webhook configuration's.
        configuration: its content.
        context: what the server listens with.
        now: the time by the API server's clock.
    """
    verdicts: dict[tuple[str, bytes], str | None] = {}
    for number, entry in enumerate(entries(configuration)):
        valid = [each for each in entry.trusted if not untimely(each, now)]
        if not entry.trusted and not entry.in_cluster:
            continue  # by URL and without a bundle: the API server's own roots count
        key = (entry.host, b"".join(each.fingerprint(_SHA256) for each in valid))
        if key not in verdicts:
            verdicts[key] = verifies(context, entry.host, valid)
        if verdicts[key]:
            return (
                f"the API server does not trust the certificate: {name}, webhooks[{number}], "
                f"caBundle, for {entry.host}: {verdicts[key]}"
            )
    return None


_SHA256: Final = hashes.SHA256()


def read_configuration(api: Api, name: str) -> Json | None:
    """Read a webhook configuration; none where there is none of this name.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        return api.request("GET", f"{PATH}/{quote(name, safe='')}")
    except ApiError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def absent(name: str) -> str:
    """Say that there is no webhook configuration."""
    return f"there is no MutatingWebhookConfiguration {name}"


class TrustWatch:
    """Knows whether the API server trusts the certificate that is served from files.

    It reads the webhook configuration every 30 s, every 2 s while not ready: one small GET. What
    was last known holds while the API server cannot be reached.

    Args:
        api: the Kubernetes API.
        name: the webhook configuration's.
        context: what the server listens with.
    """

    def __init__(self, api: Api, name: str, context: ssl.SSLContext) -> None:
        self._api = api
        self._name = name
        self._context = context
        self._problem: str | None = f"MutatingWebhookConfiguration {name} is not read yet"
        self._read = False
        self._backoff = Backoff()
        self._background = Background("trust", self.step)

    def start(self) -> None:
        """Look at it, and keep looking."""
        self._background.start()

    def stop(self) -> None:
        """Look no longer."""
        self._background.stop()

    def refresh(self) -> None:
        """Look again now: another certificate is served."""
        self._background.wake()

    def problem(self) -> str | None:
        """Say why the API server does not trust us, if so."""
        return self._problem

    def step(self) -> float:
        """Look at it once, and tell when to look again."""
        try:
            configuration = read_configuration(self._api, self._name)
        except ApiError as error:
            if not self._backoff.failures:
                log.warning("the webhook configuration cannot be read: %s", error)
            if not self._read:
                self._problem = str(error)
            return self._backoff.failed(error)
        self._backoff.succeeded()
        self._read = True
        if configuration is None:
            problem: str | None = absent(self._name)
        else:
            problem = distrust(self._name, configuration, self._context, self._api.now())
        if problem != self._problem and problem:
            log.warning("%s", problem)
        self._problem = problem
        return jittered(UNREADY_SECONDS if problem else POLL_SECONDS)
