"""`seamless backfill`: brings existing workloads in, a few at a time."""

from __future__ import annotations

from typing import Any, Final

from webhook.cli import changing
from webhook.cli.common import Parser
from webhook.decision.admission import Admission
from webhook.decision.configuration import Configuration
from webhook.rollout.planners import Backfill, Judge

PROGRAM: Final = "seamless backfill"
DESCRIPTION: Final = """\
Bring existing workloads in: those in scope that are unpatched, or were injected by older settings.
Shows what would be done, in which order, unless --apply says to do it. Each rollout is awaited, and
the first that fails ends the run; run again, it goes on where it stands."""


def parser() -> Parser:
    """Make the parser of the command line."""
    found = changing.parser(PROGRAM, DESCRIPTION)
    found.add_argument(
        "--no-restart",
        action="store_true",
        help="bring in what lies outside the pod template alone: no pod restarts",
    )
    found.add_argument(
        "--webhook-timeout",
        default="10s",
        metavar="DURATION",
        help="how long to wait for a webhook that does not answer by the same configuration (10s)",
    )
    return found


def main(arguments: list[str], **seams: Any) -> int:
    """Run the command; gives its exit status."""
    command = changing.Command(PROGRAM, needs_webhook_patching=True, judge=_judge)
    return changing.run(command, parser(), arguments, **seams)


def _judge(admission: Admission | None, options: Any) -> Judge:
    return Backfill(admission or Admission(Configuration()), restart=not options.no_restart)
