"""What `seamless serve` is made of: decided by its options here, and checked once.

certificate    --tls-cert and --tls-key: files; --ca-secret: a CA of our own; else self-signed
cluster        --kubeconfig, or the one around this pod; with neither, nothing is known of it
configuration  --config-map, watched; else --config, read again and again; else the built-in one
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from webhook.background import Runnable
from webhook.cli.common import UsageError, configuration
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster
from webhook.decision.settings import Namespace
from webhook.serving import tracing
from webhook.tls import certificates
from webhook.tls.certificates import Pair

if TYPE_CHECKING:
    from webhook.cluster.client import Api
    from webhook.serving.live import LiveConfiguration


class StartError(Exception):
    """A process cannot begin; the text says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that a worker is given: plain values, checked."""

    configuration: Configuration
    given: argparse.Namespace
    own_namespace: str | None
    self_signed: Pair | None


def read(given: argparse.Namespace) -> Options:
    """Check what the user says, and read what is read but once.

    Raises:
        UsageError: options contradict each other, or a file cannot be read.
        InvalidSettingError: the configuration holds a bad setting.
        CertificateError: the certificate cannot be served.
        TracingError: there is no tracing here.
    """
    check(given)
    settings = configuration(given.config)
    Admission(settings)
    own = not (given.tls_cert or given.ca_secret)
    names = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname()])
    return Options(
        settings,
        given,
        os.environ.get("POD_NAMESPACE"),
        certificates.self_signed(names, certificates.utc_now()) if own else None,
    )


def check(given: argparse.Namespace) -> None:
    """Find what contradicts itself before anything is begun."""
    if (given.tls_cert is None) != (given.tls_key is None):
        message = "--tls-cert and --tls-key go together: one of them is missing"
        raise UsageError(message)
    if given.tls_cert and given.ca_secret:
        message = "--tls-cert and --ca-secret contradict each other: one of them, or none"
        raise UsageError(message)
    if given.ca_secret and not (os.environ.get("POD_NAMESPACE") and in_reach(given)):
        message = "--ca-secret needs a cluster in reach and our namespace in POD_NAMESPACE"
        raise UsageError(message)
    if given.config_map and not (os.environ.get("POD_NAMESPACE") and in_reach(given)):
        message = "--config-map needs a cluster in reach and our namespace in POD_NAMESPACE"
        raise UsageError(message)
    if given.events and not in_reach(given):
        message = "--events needs a cluster in reach"
        raise UsageError(message)
    if given.status_interval and not in_reach(given):
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


def in_reach(given: argparse.Namespace) -> bool:
    """Tell whether there is a cluster, without importing its client, which takes its time."""
    return bool(given.kubeconfig or os.environ.get("KUBERNETES_SERVICE_HOST"))


def connect(given: argparse.Namespace) -> Api:
    """Reach for the cluster, which `in_reach` has found.

    Raises:
        ClusterError: what says where it is cannot be used.
    """
    from webhook.cluster import client

    return client.Api(client.connect(_path(given.kubeconfig)))


class Parts:
    """What goes on in a process beside its answers, started in order and stopped the other way.

    Args:
        options: what the user says.
        reach: gives the Kubernetes API, if there is a cluster in reach.

    Raises:
        StartError: the cluster cannot be used.
    """

    live: LiveConfiguration
    source: certificates.Certificates
    known: Known

    def __init__(
        self, options: Options, reach: Callable[[argparse.Namespace], Api] = connect
    ) -> None:
        api = _reached(options, reach) if in_reach(options.given) else None
        self.source = _source(options, api)
        self.known = NoCluster() if api is None else _session(options, api, self.source)
        self.live = _live(options, self.known)
        self._runnables: list[Runnable] = [self.live, self.source, self.known]

    def add(self, part: Runnable) -> None:
        """Have another one started after those that are there, and stopped before them."""
        self._runnables.append(part)

    def start(self) -> None:
        """Start all; a certificate, and a configuration in a file, are read at once."""
        for each in self._runnables:
            each.start()

    def stop(self) -> None:
        """Stop all; what is known and served stays."""
        for each in reversed(self._runnables):
            each.stop()

    def problems(self) -> list[str]:
        """List why we are not ready; reads memory only."""
        return [*filter(None, [self.source.problem()]), *self.known.problems()]

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers to export, each with its help text."""
        found = {**self.known.metrics(), **self.source.metrics()}
        expires = self.source.expires()
        if expires is not None:
            text = "When the certificate that is served ends, in seconds since 1970."
            found["seamless_certificate_expiry_timestamp_seconds"] = (text, expires.timestamp())
        return found


def _reached(options: Options, reach: Callable[[argparse.Namespace], Api]) -> Api:
    from webhook.cluster.client import ClusterError

    try:
        return reach(options.given)
    except ClusterError as error:
        raise StartError(str(error)) from None


def _source(options: Options, api: Api | None) -> certificates.Certificates:
    """Give the certificate's source: self-signed, from files, or from a CA of our own."""
    given = options.given
    if options.self_signed is not None:
        return certificates.FixedCertificate(options.self_signed)
    client_ca = _path(given.client_ca)
    if given.tls_cert:
        return certificates.FileCertificates(
            Path(given.tls_cert),
            Path(given.tls_key),
            client_ca=client_ca,
            clock=api.now if api else certificates.utc_now,
        )
    from webhook.cluster.authority import SelfManagedCertificates, service_names

    assert api is not None and options.own_namespace  # noqa: S101, PT018 - `check` has seen to it
    return SelfManagedCertificates(
        api,
        options.own_namespace,
        given.ca_secret,
        configuration=given.webhook_configuration,
        names=service_names(given.service, options.own_namespace),
        client_ca=client_ca,
    )


def _session(options: Options, api: Api, source: certificates.Certificates) -> Known:
    from webhook.cluster.session import ClusterSession

    return ClusterSession(
        api,
        Admission(options.configuration).table.namespace,
        namespace=options.own_namespace,
        files=source if isinstance(source, certificates.FileCertificates) else None,
        webhook_configuration=options.given.webhook_configuration,
    )


def _live(options: Options, known: Known) -> LiveConfiguration:
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


class Known(Runnable, Protocol):
    """What a process knows of the cluster: `webhook.cluster.session.ClusterSession`, or nothing."""

    def lookup(self, name: str) -> Namespace | None:
        """Give a namespace that is known, without waiting."""

    def fetch(self, name: str, timeout: float) -> Namespace | None:
        """Ask for a namespace that is not known; blocks for `timeout` seconds at most."""

    def cluster(self) -> Cluster:
        """Give what is known of what the cluster can carry, without waiting."""

    def problems(self) -> list[str]:
        """List why we are not ready; reads memory only."""

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers to export, each with its help text."""

    def follow(
        self, config_map: str, take: Callable[[str, str], None], otherwise: Callable[[], object]
    ) -> None:
        """Have the configuration taken from a ConfigMap of our namespace, from `start` on."""


class NoCluster:
    """Without a cluster, every namespace counts as selected and no version is known."""

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


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
