"""Tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from harness.tables import Table


def make_console() -> Console:
    return Console(highlight=False, markup=False)


def show(console: Console, table: Table) -> None:
    """Print a table."""
    rich = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, heading in enumerate(table.headings):
        rich.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        rich.add_row(*(cell.replace("`", "") for cell in row))
    # A line that the terminal wraps can still be read, a cell cut short cannot.
    unlimited = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(rich, options=unlimited).maximum)
    console.print(rich)
    for note in table.notes:
        console.print(note.replace("`", ""))
