"""The rows of a bench as a printed table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from genre_tf.benchmarks.measuring import Row


def bench_table(name: str, machine: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    """Make a table of the comparisons.

    Args:
        name: name of the bench.
        machine: from `measuring.machine`; printed below the table.
        rows: the comparisons.
    """
    table = Table(
        title=f"genre bench {name}",
        caption=", ".join(f"{part} {value}" for part, value in machine.items()),
    )
    for heading in ("case", "peer", "ours", "peer's", "ratio", "unit", "rounds"):
        table.add_column(heading, justify="left" if heading in ("case", "peer", "unit") else "right")
    noted = any(row.note for row in rows)
    if noted:
        table.add_column("note")
    for row in rows:
        numbers = (f"{row.ours:.4g}", f"{row.peer:.4g}", f"{row.ratio:.2f}")
        table.add_row(row.case, row.peer_name, *numbers, row.unit, str(row.rounds), *[row.note] * noted)
    return table
