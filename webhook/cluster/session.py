"""Everything that the server wants from the cluster, in one hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from webhook.cluster.authority import SelfManagedCertificates
from webhook.cluster.client import Api, ClusterError, connect
from webhook.cluster.configmap import ConfigMapWatch, Take
from webhook.cluster.namespaces import NamespaceWatch, Parse
from webhook.cluster.trust import TrustWatch
from webhook.cluster.version import ClusterWatch
from webhook.decision.mutations.model import UNKNOWN_CLUSTER, Cluster
from webhook.decision.settings import Namespace
from webhook.tls.certificates import FileCertificates, utc_now

UNKNOWN_NAMESPACES: Final = "namespaces are not known yet"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say; plain values, so that a worker can be sent it.

    Args:
        kubeconfig: where the cluster is, if not around this pod.
        namespace: our own.
        ca_secret: the Secret of the CA: certificates look after themselves.
        webhook_configuration: the name of our MutatingWebhookConfiguration.
        service: the name of the Service that the API server calls us by.
        certificate: the file of a certificate that others look after.
        key: the file of its key.
        client_ca: the file of those who may sign a client's certificate, which then is asked for.
    """

    kubeconfig: Path | None = None
    namespace: str | None = None
    ca_secret: str | None = None
    webhook_configuration: str | None = None
    service: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


class ClusterSession:
    """What is known of the cluster, and the certificate that goes with it.

    Without a cluster in reach nothing is known, and only a certificate from files is looked after.

    Args:
        options: what the user says.
        parse: makes a `Namespace` of a name, labels and annotations (`Table.namespace`).
        reach: gives an API client for a kubeconfig; none where there is no cluster.

    Raises:
        ClusterError: the options contradict each other, or the cluster cannot be used.
    """

    def __init__(
        self,
        options: Options,
        parse: Parse,
        reach: Callable[[Path | None], object] = connect,
    ) -> None:
        client = reach(options.kubeconfig)
        api = Api(client) if client is not None else None
        self.namespaces: NamespaceWatch | None = None
        self.certificates: FileCertificates | SelfManagedCertificates | None = None
        self._cluster: ClusterWatch | None = None
        self._trust: TrustWatch | None = None
        self._configuration: ConfigMapWatch | None = None
        self._api = api
        self._namespace = options.namespace
        if api is not None:
            self._cluster = ClusterWatch(api)
            self.namespaces = NamespaceWatch(api, parse, on_connect=self._cluster.refresh)
        self._take_certificates(options, api)

    def _take_certificates(self, options: Options, api: Api | None) -> None:
        if (options.certificate is None) != (options.key is None):
            message = "a certificate and its key go together: one of them is missing"
            raise ClusterError(message)
        if options.certificate is not None and options.key is not None:
            if options.ca_secret:
                message = "certificates come from files or look after themselves: expected one"
                raise ClusterError(message)
            self.certificates = FileCertificates(
                options.certificate,
                options.key,
                client_ca=options.client_ca,
                on_change=self._look_again,
                clock=api.now if api else utc_now,
            )
            if api is not None and options.webhook_configuration:
                self._trust = TrustWatch(
                    api, options.webhook_configuration, self.certificates.context
                )
        elif options.ca_secret:
            if api is None or not options.namespace:
                message = "certificates that look after themselves need a cluster and our namespace"
                raise ClusterError(message)
            self.certificates = SelfManagedCertificates(
                api,
                options.namespace,
                options.ca_secret,
                configuration=options.webhook_configuration,
                names=service_names(options.service, options.namespace),
                client_ca=options.client_ca,
            )

    def follow(self, config_map: str, take: Take, otherwise: Callable[[], object]) -> None:
        """Have the configuration taken from a ConfigMap of our namespace, from `start` on.

        Args:
            config_map: its name.
            take: called with the text and where it is from.
            otherwise: called every second or so while it cannot be read at all.

        Raises:
            ClusterError: there is no cluster in reach, or our namespace is not known.
        """
        if self._api is None or not self._namespace:
            message = "a configuration from a ConfigMap needs a cluster and our namespace"
            raise ClusterError(message)
        self._configuration = ConfigMapWatch(
            self._api, self._namespace, config_map, take, otherwise
        )

    def _look_again(self) -> None:
        if self._trust is not None:
            self._trust.refresh()

    def _parts(self) -> Iterable[object]:
        found = (
            self._configuration,
            self.certificates,
            self.namespaces,
            self._cluster,
            self._trust,
        )
        return [each for each in found if each is not None]

    def start(self) -> None:
        """Begin to learn, in threads of their own; a certificate in files is read at once."""
        for each in self._parts():
            each.start()  # type: ignore[attr-defined]

    def stop(self) -> None:
        """End the threads; what is known and served stays."""
        for each in self._parts():
            each.stop()  # type: ignore[attr-defined]

    def lookup(self, name: str) -> Namespace | None:
        """Give a namespace that is known, without waiting."""
        return self.namespaces.lookup(name) if self.namespaces else None

    def fetch(self, name: str, timeout: float) -> Namespace | None:
        """Ask for a namespace that is not known; blocks for `timeout` seconds at most."""
        return self.namespaces.fetch(name, timeout) if self.namespaces else None

    def cluster(self) -> Cluster:
        """Give what is known of what the cluster can carry, without waiting."""
        return self._cluster.cluster() if self._cluster else UNKNOWN_CLUSTER

    def problems(self) -> list[str]:
        """List why we are not ready; reads memory only."""
        found = []
        if self.certificates is not None:
            found.append(self.certificates.problem())
        if self._trust is not None:
            found.append(self._trust.problem())
        if self.namespaces is not None and not self.namespaces.synced:
            found.append(UNKNOWN_NAMESPACES)
        if self._configuration is not None:
            found.append(self._configuration.problem())
        return [each for each in found if each]

    def metrics(self) -> Mapping[str, tuple[str, float]]:
        """Give numbers to export, each with its help text."""
        found: dict[str, tuple[str, float]] = {}

        def tell(name: str, text: str, value: float | None) -> None:
            if value is not None:
                found[f"seamless_{name}"] = (text, value)

        if self.certificates is not None:
            tell(
                "certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends, in seconds since 1970.",
                _timestamp(self.certificates.expires()),
            )
        if isinstance(self.certificates, SelfManagedCertificates):
            tell(
                "ca_expiry_timestamp_seconds",
                "When the CA ends, in seconds since 1970.",
                _timestamp(self.certificates.authority_expires()),
            )
            tell(
                "ca_writes_total",
                "How often this process has written the CA or put a caBundle right.",
                self.certificates.writes,
            )
        cluster = self.cluster()
        if cluster.oldest_node is not None:
            text = "Minor version of the oldest kubelet; before 30 there is no native sleep."
            tell("oldest_node_minor_version", text, cluster.oldest_node.minor)
        tell(
            "rollout_crd_keeps_sleep",
            "Whether the CRD of Argo Rollouts keeps a native preStop sleep: 1, or 0.",
            cluster.rollout_sleep,
        )
        if self.namespaces is not None:
            tell(
                "namespaces_age_seconds",
                "Time since the API server last told anything of namespaces, if only a bookmark.",
                self.namespaces.age_seconds(),
            )
            tell("namespaces", "Namespaces that are known.", len(self.namespaces))
            tell(
                "namespace_watches_total", "Watches of namespaces begun.", self.namespaces.restarts
            )
            tell(
                "namespace_errors_total", "Failed requests for namespaces.", self.namespaces.errors
            )
        return found


def _timestamp(when: datetime | None) -> float | None:
    return when.timestamp() if when else None


def service_names(service: str | None, namespace: str) -> list[str]:
    """List the DNS names that a Service is called by; the API server uses the last."""
    return [service, f"{service}.{namespace}", f"{service}.{namespace}.svc"] if service else []
