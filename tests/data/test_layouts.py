"""Logs of other layouts become the same examples as MIND's files."""

import csv
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from genre_tf.data.layouts import conversion
from genre_tf.data.layouts.column_map import read_map
from genre_tf.data.layouts.conversion import check_layout, convert
from genre_tf.data.mind import parse_time, read_split
from genre_tf.data.preparing import prepare
from genre_tf.errors import InputError

IMPRESSIONS = 300
ARTICLES = ["id", "category", "subcategory", "headline", "lead"]
LOG = ["impression", "reader", "at", "read", "shown", "signals"]
MAP = """
[splits.train]
articles = ["articles.*"]
impressions = ["log.*"]
{splits}
[articles]
news_id = "id"
title = "headline"
abstract = "lead"
category = "category"
subcategory = "subcategory"

[impressions]
impression_id = "impression"
user_id = "reader"
time = "at"
history = "read"
{clicks}
"""
IN_ONE = 'labelled = "shown"'
APART = 'candidates = "shown"\nclicked = "clicked"'
FLAGS = 'candidates = "shown"\nlabels = "flags"'


@pytest.fixture(scope="session")
def mind(mind_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some rows of the sample and their articles, and the examples made of them."""
    data = tmp_path_factory.mktemp("mind")
    (data / "train").mkdir()
    news, log = (
        [f"{line}\n" for line in (mind_sample / "train" / name).read_text("utf-8").split("\n") if line]
        for name in ("news.tsv", "behaviors.tsv")
    )
    named = {
        token.removesuffix("-0").removesuffix("-1") for line in log[:IMPRESSIONS] for token in line.split()
    }
    known = [line for line in news if line.partition("\t")[0] in named]
    (data / "train" / "news.tsv").write_text("".join(known), "utf-8")
    (data / "train" / "behaviors.tsv").write_text("".join(log[:IMPRESSIONS]), "utf-8")
    prepare(data, data / "prepared")
    return data


def rows_of(file: Path) -> list[list[str]]:
    return [line.split("\t") for line in file.read_text("utf-8").splitlines()]


def articles_of(data: Path) -> list[dict[str, Any]]:
    return [dict(zip(ARTICLES, row[:5], strict=True)) for row in rows_of(data / "train" / "news.tsv")]


def log_of(data: Path) -> list[dict[str, Any]]:
    return [dict(zip(LOG, row, strict=False)) for row in rows_of(data / "train" / "behaviors.tsv")]


def with_lists(row: dict[str, Any]) -> dict[str, Any]:
    """Typed as a program would: times, lists, clicks apart from what was shown."""
    tokens = row["shown"].split()
    clicked = [token[:-2] for token in tokens if token.endswith("-1")]
    return {
        **row,
        "impression": int(row["impression"]),
        "at": parse_time(row["at"]),
        "read": row["read"].split(),
        "shown": [token[:-2] for token in tokens],
        "clicked": clicked,
        "flags": [token.endswith("-1") for token in tokens],
    }


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting: Any = {"quoting": csv.QUOTE_NONE, "quotechar": None} if delimiter == "\t" else {}
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, **quoting)
        writer.writeheader()
        writer.writerows(rows)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, default=datetime.isoformat) + "\n" for row in rows)
    path.write_bytes(gzip.compress("".join(lines).encode()))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)


def map_file(folder: Path, clicks: str, splits: str = "") -> str:
    file = folder.parent / f"{folder.name}.toml"
    file.write_text(MAP.format(clicks=clicks, splits=splits))
    return str(file)


@pytest.fixture(params=["csv", "tsv", "jsonl.gz", "parquet"])
def foreign(request: pytest.FixtureRequest, mind: Path, tmp_path: Path) -> tuple[Path, str]:
    """The same logs in another format, and the map of them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    articles, log = articles_of(mind), log_of(mind)
    typed = [with_lists(row) for row in log]
    if request.param in ("csv", "tsv"):
        for name, rows in (("articles", articles), ("log", log)):
            write_csv(folder / f"{name}.{request.param}", rows, "," if request.param == "csv" else "\t")
        return folder, map_file(folder, IN_ONE)
    write, clicks = (write_parquet, FLAGS) if request.param == "parquet" else (write_json_lines, APART)
    write(folder / f"articles.{request.param}", articles)
    write(folder / f"log.{request.param}", typed)
    return folder, map_file(folder, clicks)


def test_the_same_logs_in_another_format_give_the_same_examples_byte_for_byte(
    foreign: tuple[Path, str], mind: Path, tmp_path: Path
) -> None:
    source, column_map = foreign
    splits = convert(source, tmp_path / "data", read_map(column_map))
    assert splits["train"].impressions == IMPRESSIONS
    assert splits["train"].bad_rows == 0
    again = prepare(tmp_path / "data", tmp_path / "prepared").manifest
    assert again["outputs"] == prepare(mind, mind / "prepared").manifest["outputs"]


def test_equal_logs_become_files_with_equal_bytes(mind: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write_parquet(tmp_path / "logs" / "articles.parquet", articles_of(mind))
    write_parquet(tmp_path / "logs" / "log.parquet", [with_lists(row) for row in log_of(mind)])
    column_map = read_map(map_file(tmp_path / "logs", APART))
    for name in ("one", "two"):
        convert(tmp_path / "logs", tmp_path / name, column_map)
    written = [tmp_path / name / "train" / "behaviors.tsv" for name in ("one", "two")]
    assert written[0].read_bytes() == written[1].read_bytes()
    assert read_split(tmp_path / "one", "train").impressions == read_split(mind, "train").impressions


def test_signals_histories_in_files_of_their_own_and_an_unlabelled_split(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article(f"N{number}") for number in range(1, 5)])
    shown = {"impression": 1, "reader": "U1", "at": 1573290000, "read": "N2", "shown": "N3 N4"}
    write_csv(source / "log.csv", [{**shown, "clicked": "N4", "seconds": 12.5}])
    write_csv(source / "new.csv", [shown])
    write_json_lines(
        source / "before.jsonl.gz", [{"who": "U1", "ids": ["N1", "N9", "N1"], "s": [5, 1, None]}]
    )
    test = '[splits.test]\narticles = ["articles.csv"]\nimpressions = ["new.csv"]\nlabelled = false\n'
    histories = '[histories]\nuser_id = "who"\nhistory = "ids"\ndwell = "s"\n'
    clicks = f'{APART}\ndwell = "seconds"\ndrop_unknown_history = true\n{histories}'
    column_map = map_file(source, clicks, 'histories = ["before.*"]\n' + test)
    splits = convert(source, tmp_path / "data", read_map(column_map))
    assert splits["train"].dropped == 1
    (trained,) = read_split(tmp_path / "data", "train").impressions
    assert trained.time == datetime(2019, 11, 9, 9)
    assert trained.history == ("N1", "N1", "N2")
    assert trained.clicked == (False, True)
    assert [(signal.news_id, signal.dwell) for signal in trained.signals or ()] == [("N1", 5), ("N4", 12.5)]
    (asked,) = read_split(tmp_path / "data", "test").impressions
    assert (asked.history, asked.clicked) == (("N2",), None)


def test_a_row_for_each_shown_article_gives_the_same_impressions(mind: Path, tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", articles_of(mind))
    rows = [
        {**row, "shown": token[:-2], "flag": token[-1]}
        for row in log_of(mind)
        for token in row["shown"].split()
    ]
    write_csv(source / "log.csv", rows)
    clicks = 'candidates = "shown"\nlabels = "flag"\nrow_per_candidate = true'
    convert(source, tmp_path / "data", read_map(map_file(source, clicks)))
    assert read_split(tmp_path / "data", "train").impressions == read_split(mind, "train").impressions


HOURS = [("N1 N2", "N2"), ("N3 N1", "N1 N3"), ("N4 N2", ""), ("N2 N4", "N2")]


def log_without_histories(source: Path, row_per_candidate: bool) -> list[dict[str, Any]]:
    """Two days of two readers, the second of whom comes at 12 o'clock; a single click is read for 10 s."""
    source.mkdir()
    write_csv(source / "articles.csv", [article(f"N{number}") for number in range(1, 5)])
    rows = []
    for number, ((shown, clicked), day) in enumerate(zip(HOURS * 2, [9] * 4 + [10] * 4, strict=True)):
        at = f"2019-11-{day:02d}T{9 + number % 4:02d}:00:00"
        row = {
            "impression": number,
            "reader": f"U{number % 4 // 3}",
            "at": at,
            "shown": shown,
            "clicked": clicked,
        }
        rows.append({**row, "s": 10 if len(clicked) == 2 else ""})
    if not row_per_candidate:
        return rows
    return [
        {**row, "shown": news_id, "flag": int(news_id in row["clicked"])}
        for row in rows
        for news_id in row["shown"].split()
    ]


@pytest.mark.parametrize("row_per_candidate", [False, True])
def test_without_histories_they_are_made_of_earlier_clicks_of_all_splits(
    tmp_path: Path, row_per_candidate: bool
) -> None:
    source = tmp_path / "logs"
    rows = log_without_histories(source, row_per_candidate)
    for name, day in (("log", "-09T"), ("later", "-10T")):  # the newest rows first
        write_csv(source / f"{name}.csv", [row for row in rows[::-1] if day in row["at"]])
    dev = '[splits.dev]\narticles = ["articles.*"]\nimpressions = ["later.csv"]\n'
    dev += dev.replace("dev", "test") + "labelled = false\n"
    clicks = FLAGS.replace("flags", "flag") + "\nrow_per_candidate = true" if row_per_candidate else APART
    file = Path(map_file(source, f'{clicks}\ndwell = "s"\nnewest = 2', dev))
    file.write_text(file.read_text().replace('history = "read"\n', ""))
    splits = convert(source, tmp_path / "data", read_map(str(file)))
    assert {name: (each.without_click, each.made_histories) for name, each in splits.items()} == {
        "train": (1, True),
        "dev": (1, True),
        "test": (0, True),  # its clicks are unknown
    }
    found = {
        name: {each.impression_id: each for each in read_split(tmp_path / "data", name).impressions}
        for name in ("train", "dev", "test")
    }
    assert {name: each.history for name, each in found["test"].items()} == {
        name: each.history for name, each in found["dev"].items()
    }
    histories = [found["train"][str(number)].history for number in range(4)]
    assert [sorted(history) for history in histories] == [[], ["N2"], ["N1", "N3"], []]  # the newest two
    assert found["dev"]["7"].history == ("N2",)  # the other reader's, from train
    known = [(signal.news_id, signal.dwell) for signal in found["dev"]["4"].signals or ()]
    assert known == [("N2", 10)]  # the new click's; the history's two newest have none


def test_a_made_history_leaves_out_articles_that_the_split_does_not_have(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    rows = log_without_histories(source, False)
    write_csv(source / "log.csv", rows[:2])  # clicks on N2, N1 and N3
    write_csv(source / "later.csv", [{**rows[4], "clicked": ""}])
    write_csv(source / "fewer.csv", [article("N1"), article("N2")])
    dev = '[splits.dev]\narticles = ["fewer.csv"]\nimpressions = ["later.csv"]\n'
    file = Path(map_file(source, APART, dev))
    file.write_text(file.read_text().replace('history = "read"\n', ""))
    summary = convert(source, tmp_path / "data", read_map(str(file)))["dev"]
    (found,) = read_split(tmp_path / "data", "dev").impressions
    assert (set(found.history), summary.dropped) == ({"N1", "N2"}, 1)


def test_a_history_is_not_made_where_the_map_names_one(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    rows = [{**row, "read": ""} for row in log_without_histories(source, False)]
    write_csv(source / "log.csv", rows)
    splits = convert(source, tmp_path / "data", read_map(map_file(source, APART)))
    assert splits["train"].without_history == splits["train"].impressions == 8
    assert (
        splits["train"].warnings[0].startswith("no reader has a history: nobody clicked before an impression")
    )


def test_a_log_without_a_click_is_converted_with_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    rows = [{**row, "clicked": "", "read": "N1"} for row in log_without_histories(source, False)]
    write_csv(source / "log.csv", rows)
    summary = convert(source, tmp_path / "data", read_map(map_file(source, APART)))["train"]
    assert (summary.clicks, summary.without_click) == (0, 8)
    assert summary.warnings[0].startswith("no impression has a click; do the columns and values")


def test_a_faulty_row_of_many_rejects_its_impression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article("N1"), article("N2")])
    row = {"impression": 1, "reader": "U1", "at": "2019-11-09", "read": "", "shown": "N1", "flag": 1, "s": ""}
    others = [{**row, "shown": "N2", "flag": "0"}, {**row, "impression": 2}]
    more = [{**row, "impression": 2, "shown": "N2", "flag": "no"}, {**row, "impression": 3, "s": 12}]
    write_csv(source / "log.csv", [row, *others, *more, {**row, "impression": 3, "shown": "N2", "flag": 0}])
    clicks = 'candidates = "shown"\nlabels = "flag"\nrow_per_candidate = true\ndwell = "s"'
    splits, _ = check_layout(source, read_map(map_file(source, clicks)))
    (fault,) = splits["train"].faults
    assert (fault.line, fault.field) == (4, "flag")
    convert(source, tmp_path / "data", read_map(map_file(source, clicks)), max_bad_rows=1)
    monkeypatch.setattr(conversion, "MAX_CANDIDATES", 1)
    splits, _ = check_layout(source, read_map(map_file(source, clicks)))
    assert [fault.line for fault in splits["train"].faults if "more than 1 consecutive" in fault.message] == [
        2,
        4,
        6,
    ]
    first, last = read_split(tmp_path / "data", "train").impressions
    assert (first.candidates, first.clicked, first.signals) == (("N1", "N2"), (True, False), ())
    assert [(signal.news_id, signal.dwell) for signal in last.signals or ()] == [("N1", 12)]


def article(news_id: str, title: str = "Storm nears the coast") -> dict[str, Any]:
    return {"id": news_id, "category": "news", "subcategory": "local", "headline": title, "lead": ""}


def test_what_would_break_a_line_of_mind_becomes_a_space(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article("N1", 'A "tab\there,\nand a line'), article("N2", "b")])
    row = {
        "impression": 1,
        "reader": "U1",
        "at": "2019-11-09T10:00:00+01:00",
        "read": "",
        "shown": "N1-1 N2-0",
    }
    write_csv(source / "log.csv", [row])
    convert(source, tmp_path / "data", read_map(map_file(source, IN_ONE)))
    split = read_split(tmp_path / "data", "train")
    assert split.articles["N1"].title == 'A "tab here, and a line'
    assert split.impressions[0].time == datetime(2019, 11, 9, 9)


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl.gz", "parquet"])
def test_a_rule_for_empty_cells_skips_empty_lists_in_any_format(tmp_path: Path, name: str) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article("N1"), article("N2")])
    row = {"reader": "U1", "at": "2019-11-09", "read": None, "shown": ["N1", "N2"]}
    clicks: list[Any] = [["N1"], [], None]
    if name in ("csv", "tsv"):
        row["shown"], clicks = "N1 N2", ["N1", "[]", "[ ]", "", " "]
    rows = [{"impression": number, **row, "clicked": each} for number, each in enumerate(clicks, 1)]
    if name in ("csv", "tsv"):
        write_csv(source / f"log.{name}", rows, "," if name == "csv" else "\t")
    else:
        (write_parquet if name == "parquet" else write_json_lines)(source / f"log.{name}", rows)
    skip = 'skip = [{ column = "clicked" }]'
    splits, _ = check_layout(source, read_map(map_file(source, f"{APART}\n{skip}")))
    counts = splits["train"]
    assert (counts.impressions, counts.left_out, counts.bad_rows) == (1, len(clicks) - 1, 0)


def written_log(source: Path, name: str, rows: list[dict[str, Any]], clicks: str) -> Any:
    """The one impression of a log that has articles with the ids 101 and 102."""
    source.mkdir(exist_ok=True)
    write_csv(source / "articles.csv", [article("101"), article("102")])
    write = {"csv": write_csv, "jsonl.gz": write_json_lines, "parquet": write_parquet}[name]
    write(source / f"log.{name}", rows)
    convert(source, source.parent / "data", read_map(map_file(source, clicks)), overwrite=True)
    (impression,) = read_split(source.parent / "data", "train").impressions
    return impression


@pytest.mark.parametrize("name", ["csv", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("labels", [(0.0, 1.0), (0, 1), (False, True), ("0", " 1"), ("0.0", "1.00")])
def test_one_rule_for_a_label_gives_the_click_its_dwell_time(
    tmp_path: Path, name: str, labels: tuple[Any, Any]
) -> None:
    row = {"reader": 7.0, "at": "2019-11-09", "read": ""}
    rows = [
        {**row, "impression": impression, "shown": shown, "flag": label, "s": seconds}
        for impression, shown, label, seconds in zip((1, 1), (101.0, 102.0), labels, (0, 35), strict=True)
    ]
    if name != "parquet":
        rows[1]["impression"] = 1.0
    clicks = 'candidates = "shown"\nlabels = "flag"\nrow_per_candidate = true\ndwell = "s"'
    found = written_log(tmp_path / "logs", name, rows, clicks)
    assert (found.impression_id, found.user_id, found.candidates) == ("1", "7", ("101", "102"))
    assert found.clicked == (False, True)
    assert [(signal.news_id, signal.dwell) for signal in found.signals] == [("102", 35)]


@pytest.mark.parametrize("form", ["101.0-0 102.0-1", "101.0-0.0 102-1.0"])
def test_ids_with_labels_and_signals_may_be_whole_numbers_written_as_floats(
    tmp_path: Path, form: str
) -> None:
    row = {"impression": 1, "reader": "U1", "at": "2019-11-09", "read": "101.0", "shown": form}
    clicks = f'{IN_ONE}\nsignals = "signals"'
    found = written_log(tmp_path / "logs", "csv", [{**row, "signals": "102.0:dwell=35"}], clicks)
    assert (found.history, found.candidates, found.clicked) == (("101",), ("101", "102"), (False, True))
    assert [(signal.news_id, signal.dwell) for signal in found.signals] == [("102", 35)]


def test_signals_that_are_no_text_are_a_fault_of_their_row(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article("N1")])
    row = {"impression": 1, "reader": "U1", "at": "2019-11-09", "shown": "N1-1", "signals": {"N1": 3}}
    write_json_lines(source / "log.jsonl.gz", [row])
    column_map = read_map(map_file(source, f'{IN_ONE}\nsignals = "signals"'))
    faults = check_layout(source, column_map)[0]["train"].faults
    assert "is neither a text nor a number" in faults[0].message


STATUS = 'published = "out"\nwithdrawn = "gone"\n[reading]\ntime_unit = "ms"\n\n[impressions]'
NINE = datetime(2019, 11, 9, 9)


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("csv", [("2019-11-09T10:00:00+01:00", "withdrawn"), ("", "false")], [(NINE, True), (None, False)]),
        ("csv", [(1573290000000, ""), ("", 1), ("soon", ""), ("", "perhaps")], [(NINE, False), (None, True)]),
        ("parquet", [(NINE, True), (None, None)], [(NINE, True), (None, False)]),
        ("parquet", [(None, False), (None, None)], [(None, False), (None, False)]),
    ],
)
def test_publishing_times_and_states_are_carried_over(
    tmp_path: Path, name: str, cells: list[tuple[Any, Any]], expected: list[tuple[datetime | None, bool]]
) -> None:
    source, data = tmp_path / "logs", tmp_path / "data"
    source.mkdir()
    rows = [{**article(f"N{row}"), "out": out, "gone": gone} for row, (out, gone) in enumerate(cells, 1)]
    (write_csv if name == "csv" else write_parquet)(source / f"articles.{name}", rows)
    log = {"impression": 1, "reader": "U1", "at": "2019-11-09", "read": "", "shown": "N1-1 N2-0"}
    write_csv(source / "log.csv", [log])
    file = Path(map_file(source, IN_ONE))
    file.write_text(file.read_text().replace("[impressions]", STATUS))
    splits = convert(source, data, read_map(str(file)), max_bad_rows=2)
    told = read_split(data, "train").articles.values()
    assert [(one.published, one.withdrawn) for one in told] == expected
    # The two columns are written where any article has one of them, and only there.
    columns = 10 if any(published or withdrawn for published, withdrawn in expected) else 5
    assert {len(row) for row in rows_of(data / "train" / "news.tsv")} == {columns}
    faults = [(fault.line, fault.field) for fault in splits["train"].faults]
    assert faults == [(4, "out"), (5, "gone")][: len(cells) - 2]


def test_a_taken_folder_is_left_alone_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    write_csv(source / "articles.csv", [article("N1"), article("N2")])
    write_csv(
        source / "log.csv", [{"impression": 1, "reader": "U", "at": "never", "read": "", "shown": "N1-1"}]
    )
    column_map = read_map(map_file(source, IN_ONE))
    with pytest.raises(InputError, match=r"log.csv:2: at: 'never' is not a time"):
        convert(source, tmp_path / "data", column_map)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "logs.toml"]
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="already exists"):
        convert(source, tmp_path / "data", column_map)
    for out in (source, tmp_path):
        with pytest.raises(InputError, match="holds the files that are read"):
            convert(source, out, column_map, overwrite=True)
