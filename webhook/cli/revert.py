"""`seamless revert`: takes everything that was injected out again, a few workloads at a time."""

from __future__ import annotations

from typing import Any, Final

from webhook.cli import changing
from webhook.decision.admission import Admission
from webhook.rollout.planners import Planner, Revert

PROGRAM: Final = "seamless revert"
DESCRIPTION: Final = """\
Take everything that was injected out again, by its record, of workloads that are out of scope or
disabled, or of all where no webhook is installed. Shows what would be done, in which order, unless
--apply says to do it. Each rollout is awaited, and the first that fails ends the run; run again, it
goes on where it stands."""


def main(arguments: list[str], **seams: Any) -> int:
    """Run the command; gives its exit status."""
    parser = changing.parser(PROGRAM, DESCRIPTION)
    parser.add_argument(
        "--disable",
        action="store_true",
        help="mark workloads that are still in scope with inject: disabled, in the same step",
    )
    command = changing.Command(PROGRAM, needs_webhook_patching=False, planner=_planner)
    return changing.run(command, parser, arguments, **seams)


def _planner(admission: Admission | None, options: Any) -> Planner:
    return Revert(admission, disable=options.disable)
