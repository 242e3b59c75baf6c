"""The configuration in force: another one takes its place at once, and a broken one never does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from webhook.decision.admission import Admission, Answer
from webhook.decision.configuration import Configuration, ConfigurationError, parse
from webhook.decision.settings import InvalidSettingError
from webhook.tls.certificates import Background

log = logging.getLogger("webhook")

Make = Callable[[Configuration], Admission]

FILE_SECONDS: Final = 1.0
"""How often a file is read: one small read."""


class LiveConfiguration(Collector):
    """Decides by the newest configuration that is good; one answer is by one of them, whole.

    Args:
        configuration: the first.
        make: makes what decides by a configuration.
        clock: tells seconds since 1970.
    """

    def __init__(
        self,
        configuration: Configuration,
        make: Make,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.admission = make(configuration)
        self._make = make
        self._clock = clock
        self._changed_at = clock()
        self._refused: str | None = None
        self._read: str | None = None
        self._background: Background | None = None

    def follow(self, path: Path) -> None:
        """Have a file read again and again, from `start` on."""
        self._background = Background("configuration-file", partial(self.read, path))

    def start(self) -> None:
        """Begin to read what is to be followed; once at once."""
        if self._background is not None:
            self._background.start()

    def stop(self) -> None:
        """Read it no more; what is in force stays."""
        if self._background is not None:
            self._background.stop()

    def answer(self, body: bytes) -> Answer:
        """Answer a review by the configuration that is in force now."""
        return self.admission.answer(body)

    def take(self, text: str, where: str) -> None:
        """Put a configuration in force; where it is broken, say so and go on as before.

        Args:
            text: the YAML.
            where: where it is from.
        """
        try:
            configuration = parse(text, where)
            if configuration != self.admission.configuration:
                admission = self._make(configuration)
                self.admission = admission  # one reference: no answer is half of each
                self._changed_at = self._clock()
                log.info("%s is in force: configuration %s", where, admission.digest)
        except (ConfigurationError, InvalidSettingError) as error:
            self.refuse(str(error))
            return
        if self._refused is not None:
            log.info("%s is good again: configuration %s", where, self.admission.digest)
        self._refused = None

    def read(self, path: Path) -> float:
        """Take up the content of a file, if it is another; gives the seconds to the next time.

        The content is compared, not its time: the kubelet swaps a symbolic link two levels up.
        """
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._read = None
            self.refuse(f"{where}: {reason}")
            return FILE_SECONDS
        if text != self._read:
            self._read = text
            self.take(text, where)
        return FILE_SECONDS

    def refuse(self, reason: str) -> None:
        """Say that a configuration is not in force, and why; logged once for each reason."""
        if reason != self._refused:
            log.error(
                "the configuration is not in force, configuration %s stays so: %s",
                self.admission.digest,
                reason,
            )
        self._refused = reason

    def notes(self) -> list[str]:
        """Say what is refused, if something is. It is no reason not to be ready.

        Were it one, every replica would go at once for the sake of a configuration that changes
        nothing, and admissions with them.
        """
        if self._refused is None:
            return []
        stays = f"configuration {self.admission.digest} stays in force"
        return [f"the configuration is refused, {stays}: {self._refused}"]

    def collect(self) -> Iterable[Metric]:
        """Tell which configuration is in force, since when, and whether another one is refused."""
        text = "Always 1; the configuration in force is the label."
        info = GaugeMetricFamily("seamless_configuration_info", text, labels=("hash",))
        info.add_metric((self.admission.digest,), 1)
        yield info
        text = "Whether there is a configuration that is broken, and so not in force: 1, or 0."
        refused = self._refused is not None
        yield GaugeMetricFamily("seamless_configuration_refused", text, value=refused)
        text = "When the configuration in force was taken up, in seconds since 1970."
        name = "seamless_configuration_loaded_timestamp_seconds"
        yield GaugeMetricFamily(name, text, value=self._changed_at)
