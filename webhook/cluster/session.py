"""Everything that the server wants to know of the cluster, in one hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from webhook.background import Runnable
from webhook.cluster.client import Api, ClusterError
from webhook.cluster.configmap import ConfigMapWatch, Take
from webhook.cluster.namespaces import NamespaceWatch, Parse
from webhook.cluster.trust import TrustWatch
from webhook.cluster.version import ClusterWatch
from webhook.decision.mutations.model import Cluster
from webhook.decision.settings import Namespace
from webhook.tls.certificates import FileCertificates

UNKNOWN_NAMESPACES: Final = "namespaces are not known yet"


class ClusterSession:
    """What is known of the cluster, and whether it trusts the certificate in our files.

    Args:
        api: the Kubernetes API.
        parse: makes a `Namespace` of a name, labels and annotations (`Table.namespace`).
        namespace: our own.
        files: the certificate that others look after, if there is one: their `caBundle` is watched.
        webhook_configuration: the name of our MutatingWebhookConfiguration, which holds it.
    """

    def __init__(
        self,
        api: Api,
        parse: Parse,
        *,
        namespace: str | None = None,
        files: FileCertificates | None = None,
        webhook_configuration: str | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._cluster = ClusterWatch(api)
        self.namespaces = NamespaceWatch(api, parse, on_connect=self._cluster.refresh)
        self._configuration: ConfigMapWatch | None = None
        self._trust: TrustWatch | None = None
        if files is not None and webhook_configuration:
            self._trust = TrustWatch(api, webhook_configuration, files.context)
            files.on_change = self._trust.refresh

    def follow(self, config_map: str, take: Take, otherwise: Callable[[], object]) -> None:
        """Have the configuration taken from a ConfigMap of our namespace, from `start` on.

        Args:
            config_map: its name.
            take: called with the text and where it is from.
            otherwise: called every second or so while it cannot be read at all.

        Raises:
            ClusterError: our namespace is not known.
        """
        if not self._namespace:
            message = "a configuration from a ConfigMap needs our namespace"
            raise ClusterError(message)
        self._configuration = ConfigMapWatch(
            self._api, self._namespace, config_map, take, otherwise
        )

    def _parts(self) -> Iterable[Runnable]:
        found = (self._configuration, self.namespaces, self._cluster, self._trust)
        return [each for each in found if each is not None]

    def start(self) -> None:
        """Begin to learn, in threads of their own."""
        for each in self._parts():
            each.start()

    def stop(self) -> None:
        """End the threads; what is known stays."""
        for each in self._parts():
            each.stop()

    def lookup(self, name: str) -> Namespace | None:
        """Give a namespace that is known, without waiting."""
        return self.namespaces.lookup(name)

    def fetch(self, name: str, timeout: float) -> Namespace | None:
        """Ask for a namespace that is not known; blocks for `timeout` seconds at most."""
        return self.namespaces.fetch(name, timeout)

    def cluster(self) -> Cluster:
        """Give what is known of what the cluster can carry, without waiting."""
        return self._cluster.cluster()

    def problems(self) -> list[str]:
        """List why we are not ready; reads memory only."""
        found = []
        if self._trust is not None:
            found.append(self._trust.problem())
        if not self.namespaces.synced:
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

        cluster = self.cluster()
        if cluster.oldest_node is not None:
            text = "Minor version of the oldest kubelet; before 30 there is no native sleep."
            tell("oldest_node_minor_version", text, cluster.oldest_node.minor)
        tell(
            "rollout_crd_keeps_sleep",
            "Whether the CRD of Argo Rollouts keeps a native preStop sleep: 1, or 0.",
            cluster.rollout_sleep,
        )
        tell(
            "namespaces_age_seconds",
            "Time since the API server last told anything of namespaces, if only a bookmark.",
            self.namespaces.age_seconds(),
        )
        tell("namespaces", "Namespaces that are known.", len(self.namespaces))
        tell("namespace_watches_total", "Watches of namespaces begun.", self.namespaces.restarts)
        tell("namespace_errors_total", "Failed requests for namespaces.", self.namespaces.errors)
        return found
