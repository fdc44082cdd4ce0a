"""Tables and fields for every width: nothing is ever cut.

On a terminal a table is drawn where each of its words fits; where not, each row becomes a few
lines. In a pipe a row is a line, whatever its length, so that grep and awk find what they look for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from saeserve.cli import output

Cell = str | Text
Row = Sequence[Cell]
_GAP = 3
"""Between two columns of a drawn table."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table; empty cells where a value is None."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not output.console.is_terminal:
        _print_lines([columns, *cells], title)
        return
    widths = _widths([columns, *cells], output.console.width - _GAP * (len(columns) - 1))
    if widths is None:
        _print_records(columns, cells, title)
    else:
        output.console.print(_table(zip(columns, widths, strict=True), cells, title))


def print_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each; what is empty is left out."""
    told = [(name, _cell(value)) for name, value in pairs if value not in (None, "", (), {})]
    if output.console.is_terminal:
        output.console.print(_grid(told, ""))
        return
    width = max((cell_len(name) for name, _ in told), default=0)
    for name, value in told:
        first, *others = _text(value).split("\n")
        _line(f"{name:<{width}}  {first}")
        for line in others:
            _line(f"{'':<{width}}  {line}")


def _widths(rows: Sequence[Row], room: int) -> list[int] | None:
    """Column widths that break no word; None where they need more room than there is."""
    texts = [[_text(cell) for cell in column] for column in zip(*rows, strict=True)]
    least = [max(_longest(cell.split()) for cell in column) for column in texts]
    wanted = [max(_longest(cell.split("\n")) for cell in column) for column in texts]
    free = room - sum(least)
    if free < 0:
        return None
    more = [most - few for most, few in zip(wanted, least, strict=True)]
    share = min(1.0, free / max(1, sum(more)))
    return [few + int(share * extra) for few, extra in zip(least, more, strict=True)]


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _table(columns: Iterable[tuple[str, int]], rows: Iterable[Row], title: str) -> Table:
    table = Table(
        title=title or None, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD,
        pad_edge=False, show_edge=False,
    )  # fmt: skip
    for column, width in columns:
        table.add_column(column, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_records(columns: Sequence[str], rows: Iterable[Row], title: str) -> None:
    if title:
        output.console.print(title)
    for first, *others in rows:
        output.console.print(Text(_text(first), style="bold", overflow="fold"))
        pairs = zip(columns[1:], others, strict=True)
        output.console.print(_grid([(name, cell) for name, cell in pairs if _text(cell)], "  "))


def _grid(pairs: Iterable[tuple[str, Cell]], indent: str) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(indent + name, style="bold"), value)
    return grid


def _print_lines(rows: Sequence[Row], title: str) -> None:
    """Aligned by spaces, without colour."""
    if title:
        _line(title)
    lines = [[_text(cell).replace("\n", "; ") for cell in row] for row in rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        )
        _line("  ".join(padded).rstrip())


def _line(text: str) -> None:
    output.console.print(text, soft_wrap=True, highlight=False)


def _text(cell: Cell) -> str:
    return cell.plain if isinstance(cell, Text) else cell


def _cell(value: object) -> Cell:
    if isinstance(value, Text):
        return value
    return "" if value is None else str(value)
