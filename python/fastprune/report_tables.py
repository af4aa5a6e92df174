"""A report as a table: of rich where that is installed, else as aligned text."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

    from .report_data import Report, TensorReport, Totals

_HEADER = (
    "tensor",
    "shape",
    "pruned by",
    "pattern",
    "entries",
    "pruned",
    "zeros",
    "sparsity",
    "memory",
)
#: The first column of numbers.
_NUMBERS = 4
#: Columns of a table that goes to no terminal, and the fewest for one that does.
_WIDTH, _NARROWEST = 200, 100


class Row(NamedTuple):
    """Cells, and whether a new section follows."""

    cells: tuple[str, ...]
    ends_section: bool = False


def rows(report: Report) -> list[Row]:
    """Pruned tensors, patterns, totals."""
    sections = [
        [_of_tensor(t) for t in report.pruned],
        [_of_total(name, t) for name, t in report.by_pattern.items()],
        [_of_total("pruned tensors", report.total_of_pruned)],
    ]
    sections[-1].append(_of_total("all parameters", report.total))
    return [
        Row(cells, cells is section[-1] and section is not sections[-1])
        for section in sections
        for cells in section
    ]


def _of_tensor(t: TensorReport) -> tuple[str, ...]:
    by = " + ".join(t.methods) or "?"
    return (
        t.name + "".join(f"\n= {name}" for name in t.shared),
        " x ".join(map(str, t.shape)),
        by if t.form == "hook" else f"{by} ({t.form})",
        "\n".join(t.patterns),
        *_numbers(t),
    )


def _of_total(what: str, t: Totals) -> tuple[str, ...]:
    count = f"{t.tensors} tensor" + ("" if t.tensors == 1 else "s")
    return what, count, "", "", *_numbers(t)


def _numbers(t: TensorReport | Totals) -> tuple[str, ...]:
    return f"{t.entries:,}", f"{t.pruned:,}", f"{t.zeros:,}", f"{t.sparsity:.2%}", _size(t.bytes)


def _size(count: float) -> str:
    if count < 1024:
        return f"{count} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.1f} {unit}"


def rich_table(report: Report) -> Table:
    """What ``Report.table`` returns."""
    try:
        from rich import box
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise ImportError("rich is not installed: pip install rich") from error
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, title in enumerate(_HEADER):
        if number < _NUMBERS:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for row in rows(report):
        table.add_row(*map(Text, row.cells), end_section=row.ends_section)
    return table


def text(report: Report) -> str:
    """What ``print`` shows."""
    try:
        from rich.console import Console
    except ImportError:
        return plain_text(report)
    out = io.StringIO()
    width = max(_NARROWEST, shutil.get_terminal_size((_WIDTH, 0)).columns)
    Console(file=out, width=width, color_system=None).print(report.table())
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def plain_text(report: Report) -> str:
    """The table without rich."""
    found = [Row(_HEADER, True), *rows(report)]
    split = [[cell.split("\n") for cell in row.cells] for row in found]
    widths = [max(len(line) for row in split for line in row[i]) for i in range(len(_HEADER))]
    lines = []
    for row, cells in zip(found, split, strict=True):
        for number in range(max(map(len, cells))):
            line = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = [
                part.rjust(width) if i >= _NUMBERS else part.ljust(width)
                for i, (part, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        if row.ends_section:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
