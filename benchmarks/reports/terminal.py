"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farfield.benchmarks.reports.table import Entry, Table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["drawn"]


def drawn(table: Table) -> Group:
    """`table` with its title above, and its notes and files below."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.ROUNDED)
    for head in table.heads:
        shown.add_column(head, justify="right" if head.endswith("%") else "left", overflow="fold")
    for column in table.columns:
        shown.add_column(column, justify="right")
    for row in table.rows:
        if row.begins:
            shown.add_section()
        shown.add_row(*map(Text, row.heads), *map(_lines, row.entries))
    below = [Text("\n".join(table.notes)), Text("\n".join(table.files), style="dim")]
    return Group(Text(table.title, style="bold"), shown, *below)


def _lines(entry: Entry) -> Text:
    from rich.text import Text

    return Text(entry.text) + Text(f"\n{entry.small}", style="dim") if entry.small else Text(entry.text)
