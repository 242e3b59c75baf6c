"""How far a run is, in a terminal: a bar for the whole, and a line for each rollout under way."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from webhook.cluster.backfill import Outcome
from webhook.decision.printable import printable
from webhook.rollout.order import Change
from webhook.rollout.progress import Progress


@dataclass(slots=True)
class _Row:
    pods: int
    ready: int = 0
    text: str = "begun"


class Screen:
    """Shows how far a run is, below the lines that are printed meanwhile.

    Args:
        total: how many changes there are.
        console: the terminal.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console()
        self._total = total
        self._ended = 0
        self._rows: dict[str, _Row] = {}
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def line(self, text: str) -> None:
        """Print a line above."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def begun(self, change: Change, _number: int, _total: int) -> None:
        """Add a line for it."""
        self._rows[change.place] = _Row(change.pods)
        self._show()

    def moved(self, change: Change, found: Progress) -> None:
        """Show how far it is."""
        row = self._rows.setdefault(change.place, _Row(change.pods))
        row.ready, row.text = found.pods, found.text
        self._show()

    def ended(self, outcome: Outcome) -> None:
        """Take its line away."""
        self._rows.pop(outcome.change.place, None)
        self._ended += 1
        self._show()

    def noted(self, _text: str, _change: Change | None = None) -> None:
        """Nothing to show: it is printed."""

    def _show(self) -> None:
        self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> Group:
        rows = Table.grid(padding=(0, 2))
        rows.add_row(
            Text("all"),
            ProgressBar(total=max(1, self._total), completed=self._ended, width=30),
            Text(f"{self._ended} of {self._total} workloads"),
        )
        for place, row in self._rows.items():
            bar = ProgressBar(total=max(1, row.pods), completed=row.ready, width=30)
            rows.add_row(Text(printable(place)), bar, Text(printable(row.text)))
        return Group(rows)
