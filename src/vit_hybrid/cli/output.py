"""What the commands show: records as tables or JSON lines, tables, and progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .streams import complain, is_terminal, printable, standard_error, standard_output, write, write_json

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from ..data import LabeledPictures

# What takes longer than this shows its progress.
PATIENCE_SECONDS = 2.0
# A table that is not shown on a terminal is as wide as it needs to be.
UNLIMITED_WIDTH = 10_000
# What marks the labels of a picture's set.
IN_THE_SET = "*"
# Text of a table that has to be narrower than it would like is folded at this width, or wider; numbers are never cut.
NARROWEST_TEXT = 12


class RecordPrinter:
    """Prints records as they come, with a progress bar on a terminal when the whole takes long.

    Args:
        as_json: One JSON object a line, errors included; otherwise a table a picture, and errors on standard error.
        labels: All labels that may come, for the width of the tables.
        total: How many records will come.
        doing: What is being done, in a word.
    """

    def __init__(self, as_json: bool, labels: Sequence[str], total: int, doing: str = "Classifying") -> None:
        from ..data import Unreadable

        self._as_json = as_json
        self._labels = labels
        self._progress = ProgressBar(total, doing)
        self._unreadable = Unreadable(total)

    def __enter__(self) -> RecordPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        rest = self._unreadable.rest()
        if rest is not None and not self._as_json:
            complain(rest)

    @property
    def failures(self) -> int:
        """How many of the records so far were errors."""
        return self._unreadable.count

    def print(self, record: Any) -> None:
        """Prints one record, at once."""
        told = self._unreadable.add(record["error"]) if "error" in record else None
        with self._progress.out_of_the_way():
            if self._as_json:
                write_json(record)
            elif "error" not in record:
                write(self.shown(record))
            elif told is not None:
                complain(told)
        self._progress.advance()

    def shown(self, record: Any) -> str:
        """A record that is no error as a person sees it."""
        from rich.cells import cell_len

        rows = [[prediction["label"], f"{prediction['probability']:.2%}"] for prediction in record["predictions"]]
        heads = ["label", ">probability"]
        members = record.get("set")
        if members is not None:
            heads.append(f"in the {100 * record['coverage']:g} % set")
            rows = [[*row, IN_THE_SET if row[0] in members else ""] for row in rows]
        # As wide for every picture, so that the tables stand in line.
        width = max(cell_len(printable(label)) for label in self._labels)
        lines = [titled(record["path"], new_table(heads, rows, text_width=width))]
        hidden = 0 if members is None else len(set(members) - {row[0] for row in rows})
        if hidden:
            lines.append(f"  and {hidden:,} more label{'s' * (hidden > 1)} in the set\n")
        if record.get("none_of_these"):
            lines.append(f"  none of these (p = {record['familiarity']:.2g})\n")
        return "".join(lines)


class ProgressBar:
    """A bar on standard error, if that is a terminal, once the whole is seen to take longer than a person waits.

    Args:
        total: How many steps there are.
        doing: What is being done, in a word.
    """

    def __init__(self, total: int, doing: str = "Classifying") -> None:
        self._total = total
        self._doing = doing
        self._done = 0
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def advance(self, steps: int = 1) -> None:
        """So many steps are done."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif self._is_worth_showing():
            self._bar = _new_bar()
            self._bar.add_task(self._doing, total=self._total, completed=self._done)
            self._bar.start()

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """Takes the bar off the terminal while something else is written there."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def close(self) -> None:
        """Takes the bar away for good."""
        if self._bar is not None:
            self._bar.stop()

    def _is_worth_showing(self) -> bool:
        elapsed = time.monotonic() - self._start
        whole = elapsed / self._done * self._total
        return self._done < self._total and whole > PATIENCE_SECONDS and is_terminal(standard_error())


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Standard output is ours to write: redirected, it would end up on standard error.
    console = Console(file=standard_error())
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)


def counts_of(pictures: LabeledPictures) -> dict[str, object]:
    """What `--dry-run` says of labeled pictures with `--json`."""
    counts = dict(zip(pictures.labels, pictures.class_counts().tolist(), strict=True))
    return {"images": len(pictures), "labels": counts, "from": pictures.origin}


def new_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, total: bool = False, text_width: int = 0
) -> Table:
    """A table for `rendered`.

    Args:
        heads: The headings; columns of numbers have one that starts with ">", stand to the right and are never cut.
            Where none says anything, there is no line of them.
        rows: The cells.
        total: Whether the last row is set apart.
        text_width: What the first column takes at least.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=True, show_header=any(head.strip(">") for head in heads))
    narrowest = 0
    for index, title in enumerate(heads):
        is_number = title.startswith(">")
        head = printable(title.removeprefix(">"))
        longest = max(cell_len(row[index]) for row in cells)
        narrowest += (longest if is_number else min(longest, NARROWEST_TEXT)) + 3  # with spaces around and between
        table.add_column(
            Text(head),
            justify="right" if is_number else "left",
            min_width=longest if is_number else text_width if index == 0 else None,
            overflow="fold",
        )
    for number, row in enumerate(cells, start=1):
        table.add_row(*map(Text, row), end_section=total and number == len(cells) - 1)
    table.min_width = narrowest
    return table


def titled(title: str, table: Table) -> str:
    """A table with a line above it, such as the path of a picture, and an empty one below."""
    from rich.text import Text

    return rendered(Text(printable(title), style="bold", no_wrap=True, overflow="ignore"), table) + "\n"


def rendered(*parts: Any) -> str:
    """Tables and lines as text for standard output: as wide as a terminal, but no table narrower than its numbers."""
    from rich.console import Console, Group
    from rich.table import Table

    console = Console(file=standard_output(), highlight=False, markup=False, emoji=False)
    tables = [part for part in parts if isinstance(part, Table)]
    if is_terminal(standard_output()):
        console.width = max(console.width, *(table.min_width or 0 for table in tables), 1)
        for table in tables:
            if sum((column.min_width or 0) + 3 for column in table.columns) > console.width:
                table.columns[0].min_width = None if table.columns[0].justify == "left" else table.columns[0].min_width
    else:
        console.width = UNLIMITED_WIDTH
    with console.capture() as captured:
        console.print(Group(*parts), crop=False)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


__all__ = ["PATIENCE_SECONDS", "ProgressBar", "RecordPrinter", "counts_of", "new_table", "rendered", "titled"]
