"""The mutations, in the order in which they are applied.

To add one, write its file and name it here: its settings, its row in the docs, its entry in the
record and the contract tests follow by themselves.
"""

from typing import Final

from webhook.decision.mutations import (
    grace_period,
    min_ready,
    pre_stop,
    precheck,
    progress_deadline,
    readiness_gates,
    readiness_probe,
    strategy,
)
from webhook.decision.mutations.model import Mutation

MUTATIONS: Final[tuple[Mutation, ...]] = (
    pre_stop.MUTATION,
    grace_period.MUTATION,
    min_ready.MUTATION,
    progress_deadline.MUTATION,
    readiness_gates.MUTATION,
    precheck.MUTATION,
    readiness_probe.MUTATION,
    strategy.MUTATION,
)
