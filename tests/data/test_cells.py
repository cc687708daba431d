"""Cells of any format become ids, times and labels, or say what is wrong with them."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from genre_tf.data.layouts import cells, conversion
from genre_tf.data.layouts.column_map import ImpressionColumns, Reading
from genre_tf.data.layouts.tables import Source, SourceRow
from genre_tf.data.lines import FaultPolicy

NINE = datetime(2019, 11, 9, 9)


def test_floats_that_are_no_whole_numbers_stay_and_inexact_ids_are_refused() -> None:
    assert [cells.one_id(each) for each in ("1.5", "v1.0", "1.0.0", 1.5)] == [
        "1.5",
        "v1.0",
        "1.0.0",
        "1.5",
    ]
    assert cells.text("2.0") == "2.0"  # a title
    with pytest.raises(cells.CellError, match="not exact as a float"):
        cells.one_id(2.0**60)


def test_numbers_and_bytes_of_other_programs_are_ids_or_a_fault() -> None:
    found = [cells.one_id(each) for each in (Decimal("12"), Decimal("12.00"), Decimal("1.5"), b"N1", 10**30)]
    assert found == ["12", "12", "1.5", "N1", str(10**30)]
    with pytest.raises(cells.CellError, match=r"'c3281f' \(bytes in hex\) is not UTF-8"):
        cells.one_id(b"\xc3\x28\x1f")
    assert cells.ids("['N1', 'N2']", " ") == cells.ids('["N1", "N2"]', " ") == ["N1", "N2"]


@pytest.mark.parametrize("zone", ["Z", " Z", " UTC", " GMT", "+00:00", " +0000", ".123456Z", ".5 UTC"])
def test_a_zone_has_many_forms(zone: str) -> None:
    assert cells.moment(f"2019-11-09 09:00:00{zone}", "s") == NINE
    assert cells.moment("2019-11-09T10:00:00 +0100", "s") == NINE


def test_seconds_that_are_read_as_milliseconds_are_told() -> None:
    assert cells.moment(1573290000000, "ms") == cells.moment(Decimal(1573290000), "s") == NINE
    with pytest.raises(cells.CellError, match=r'18 days after 1970; .* set time_unit = "s"'):
        cells.moment("1573290000", "ms")


def test_a_label_is_cut_off_once() -> None:
    columns = ImpressionColumns(user_id="reader", time="at", labelled="shown")
    row = SourceRow(Path("log.csv"), 1, {"shown": "a-1-0 b-0-1 c"})
    source = Source(Path(), Reading(), FaultPolicy())
    found = conversion.read_candidates(row, columns, source, labelled=False)
    assert (found, row.faults) == (["a-1", "b-0", "c"], [])
