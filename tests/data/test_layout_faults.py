"""A faulty row of another layout is named by file, row and column of the source; a faulty map by its key."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import typer

from genre_tf.cli.data_sets import convert as convert_verb
from genre_tf.data import lines
from genre_tf.data.checking import check_data
from genre_tf.data.layouts.column_map import read_map
from genre_tf.data.layouts.conversion import check_layout, convert
from genre_tf.data.layouts.tables import MAX_CELL_CHARACTERS
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError

MAP = """
[splits.train]
articles = ["articles.csv"]
impressions = ["log.*"]

[articles]
news_id = "id"
title = "headline"

[impressions]
impression_id = "impression"
user_id = "reader"
time = "at"
history = "read"
candidates = "shown"
clicked = "clicked"
dwell = "seconds"
"""
ARTICLES = "id,headline\nN1,One\nN2,Two\nN3,Three\n"
GOOD = {"impression": "1", "reader": "U1", "at": 1573290000, "read": ["N1"], "shown": ["N2", "N3"]}
GOOD |= {"clicked": ["N3"], "seconds": 5}
BAD = {
    "impression id twice": ({}, "impression", "'1' is also in an earlier row"),
    "no impression id": ({"impression": None}, "impression", "is empty"),
    "reader": ({"reader": "U 1"}, "reader", "'U 1' holds white space"),
    "reader is a list": ({"reader": ["U1"]}, "reader", "is neither a text nor a number"),
    "time": (
        {"at": "soon"},
        "at",
        "'soon' is not a time; write ISO 8601, MIND's form (11/9/2019 12:01:13 AM), or sec",
    ),
    "time is true": ({"at": True}, "at", "'true' is not a time"),
    "endless time": ({"at": 1e300}, "at", "is not a time"),
    "endless number": ({"at": 10**400}, "at", "is not a time"),
    "before all times": ({"at": "0001-01-01T00:00:00+10:00"}, "at", "is not a time"),
    "milliseconds": ({"at": 1573290000000}, "at", 'set time_unit = "ms" in [reading] if times are in milli'),
    "nanoseconds": ({"at": "1573290000000000000"}, "at", "is outside the years 1 to 9999"),
    "no zone of its own": ({"at": "2019-11-09 10:00:00 EST"}, "at", "is not a time"),
    "a label for a list": ({"shown": "['N2' 'N3']"}, "shown", "begins as a JSON array but is not one"),
    "endless dwell": ({"seconds": 10**400}, "seconds", "is not a number of seconds"),
    "unknown click": ({"read": ["N1", "N7"]}, "read", "'N7' is not in the split's news file"),
    "unknown candidate": ({"shown": ["N3", "N9"]}, "shown", "'N9' is not in"),
    "nothing shown": ({"shown": [], "clicked": []}, "shown", "is empty"),
    "click on what was not shown": ({"clicked": ["N1"]}, "clicked", "'N1' was clicked but is not among"),
    "shown twice": ({"shown": ["N3", "N3"]}, "shown", "'N3' is listed twice"),
    "dwell": ({"seconds": "long"}, "seconds", "'long' is not a number of seconds"),
    "negative dwell": ({"seconds": -3}, "seconds", "is not a finite number"),
    "a list that is none": ({"read": "[N1"}, "read", "begins as a JSON array but is not one"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "articles.csv").write_text(ARTICLES)
    (tmp_path / "map.toml").write_text(MAP)
    return folder


def write_log(source: Path, *rows: dict[str, Any] | str) -> Path:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (source / "log.jsonl").write_text("".join(f"{text}\n" for text in texts))
    return source


def column_map(source: Path) -> Any:
    return read_map(str(source.parent / "map.toml"))


@pytest.mark.parametrize("changes, column, message", BAD.values(), ids=BAD)
def test_a_bad_row_stops_or_is_skipped_whole(
    source: Path, tmp_path: Path, changes: dict[str, Any], column: str, message: str
) -> None:
    unlike = {} if "impression" in changes or not changes else {"impression": "2"}
    write_log(source, GOOD, {**GOOD, **unlike, **changes}, {**GOOD, "impression": "3"})
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "data", column_map(source))
    assert str(caught.value).startswith(f"{source / 'log.jsonl'}:2: {column}: ")
    assert message in str(caught.value)
    assert "--check lists every fault" in str(caught.value)
    splits = convert(source, tmp_path / "data", column_map(source), max_bad_rows=1)
    assert (splits["train"].impressions, splits["train"].bad_rows) == (2, 1)


@pytest.mark.parametrize("text", ["[1]", "3", "{", '{"a": ' * 5000, '{"impression": NaNa}', "\x00"])
def test_a_line_that_is_no_object_is_told(source: Path, text: str) -> None:
    splits, _ = check_layout(write_log(source, GOOD, text), column_map(source))
    assert [(fault.line, fault.field) for fault in splits["train"].faults] == [(2, "line")]


def test_csv_tells_rows_of_another_width_and_quotes_that_do_not_close(source: Path, tmp_path: Path) -> None:
    header = "impression,reader,at,read,shown,clicked,seconds\n"
    rows = ["1,U1,1573290000,,N1 N2,N1,\n", "2,U1,1573290000,N1\n", '3,"U"1,0,,N1,N1,\n', "\n"]
    (source / "log.csv").write_text(header + "".join(rows) + '4,U1,1573290000,"[""N1""]",N2,N2,7\n')
    splits, _ = check_layout(source, column_map(source))
    assert splits["train"].impressions == 2
    assert [(fault.line, fault.field) for fault in splits["train"].faults] == [(3, "columns"), (4, "line")]


def converted_titles(source: Path, name: str, text: str, reading: str = "") -> tuple[list[str], list[int]]:
    """Titles by the order of the file, and the lines of its faults."""
    (source / name).write_text(text)
    (source.parent / "map.toml").write_text(MAP.replace("articles.csv", name) + f"[reading]\n{reading}\n")
    known = column_map(write_log(source, {**GOOD, "read": [], "shown": ["N1"], "clicked": ["N1"]}))
    splits = convert(source, source.parent / "data", known, max_bad_rows=9, overwrite=True)
    articles = read_split(source.parent / "data", "train").articles
    return [each.title for each in articles.values()], [fault.line for fault in splits["train"].faults]


OPEN = 'id,headline\nN1,One\nN2,"Two\nN3,Three\nN4,Four of 85"\n'
LITERAL = ["One", '"Two', "Three", 'Four of 85"']


def test_a_quote_is_an_ordinary_character_where_tabs_separate_columns(source: Path) -> None:
    tabs = OPEN.replace(",", "\t")
    assert converted_titles(source, "articles.tsv", tabs) == (LITERAL, [])
    assert converted_titles(source, "tabs.csv", tabs, 'delimiter = "\\t"') == (LITERAL, [])
    quoted = 'id\theadline\nN1\t"One\tand ""two"""\n'
    assert converted_titles(source, "articles.tsv", quoted, 'quotes = "line"') == (['One and "two"'], [])


def test_a_quoted_cell_with_a_tab_is_told_with_the_key_that_reads_it(source: Path) -> None:
    (source.parent / "map.toml").write_text(MAP.replace("articles.csv", "articles.tsv"))
    (source / "articles.tsv").write_text('id\theadline\nN1\t"One\ttwo"\n')
    with pytest.raises(InputError, match=r'3 received, 2 in the header; .* set quotes = "line"'):
        convert(write_log(source, GOOD), source.parent / "data", column_map(source))


def test_a_quote_that_is_left_open_never_joins_rows_in_silence(source: Path) -> None:
    kept = ["One", "Three", 'Four of 85"']
    assert converted_titles(source, "articles.csv", OPEN) == (kept, [3])
    assert converted_titles(source, "articles.csv", OPEN, 'quotes = "none"') == (LITERAL, [])
    assert converted_titles(source, "articles.csv", OPEN, 'quotes = "line"') == (kept, [3])


def test_a_quoted_cell_may_span_lines_that_are_no_rows_or_if_the_map_says_so(source: Path) -> None:
    text = 'id,headline\nN1,"One\ntwo, three, four"\n'
    assert converted_titles(source, "articles.csv", text) == (["One two, three, four"], [])
    joined = ["One", "Two N3,Three N4,Four of 85"]
    assert converted_titles(source, "articles.csv", OPEN, 'quotes = "lines"') == (joined, [])


@pytest.mark.parametrize(
    "rows",
    {
        "closed by a quoted cell": 'N2,"Two\nN3,Three\nN4,"Four, too"\n',
        "never closed": 'N2,"Two\nN3,Three\nN4,"Four, too"\n'.replace('"Four, too"', "Four"),
        "closed in a cell of its own": 'N2,"Two\nN3,Three\nN4,",x"\n',
        "in the last line": 'N3,Three\nN4,Four\nN2,"Two',
    }.values(),
)
def test_a_quote_that_is_left_open_costs_no_row_but_its_own(source: Path, rows: str) -> None:
    titles, lines_of = converted_titles(source, "articles.csv", f"id,headline\nN1,One\n{rows}")
    assert "Three" in titles
    assert not any("Two" in title for title in titles)
    assert lines_of[0] == 3 + ("N2" not in rows[:2]) * 2


def test_a_quoted_cell_with_quotes_inside_is_read_in_tab_separated_files_too(source: Path) -> None:
    quoted = 'id\theadline\nN1\tOne\nN2\t"The ""late"" goal"\nN3\t"Three"\n'
    assert converted_titles(source, "articles.tsv", quoted) == (["One", 'The "late" goal', '"Three"'], [])
    read = ["One", 'The "late" goal', "Three"]
    assert converted_titles(source, "articles.tsv", quoted, 'quotes = "line"') == (read, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    {
        "semicolons": ("a.csv", b"id;headline\nN1;One\n", 'set delimiter = ";" in [reading]'),
        "tabs": ("a.csv", b"id\theadline\nN1\tOne\n", 'set delimiter = "\\t" in [reading]'),
        "spaces": ("a.csv", b"id, headline\nN1, One\n", "is ' headline' meant?"),
        "case": ("a.csv", b"id,Headline\nN1,One\n", "is 'Headline' meant?"),
        "quoted header": ("a.tsv", b'"id"\t"headline"\n"N1"\t"One"\n', 'set quotes = "line" in [reading]'),
        "twice": ("a.csv", b"id,headline,id\nN1,One,N1\n", "'id' more than once"),
        "empty": ("a.csv", b"", "is empty"),
        "blank": ("a.csv", b"\n\r\n\n", "is empty"),
        "header only": ("a.csv", b"id,headline\n", "is empty"),
        "bad header": ("a.csv", b"id,h\xe4dline\nid,headline\nN1,One\n", "is not UTF-8"),
        "open quote in the header": ("a.csv", b'id,"headline\nN1,One\n', "the header cannot be read"),
        "carriage returns": ("a.csv", b"id,headline\rN1,One\r", "carriage return"),
        "UTF-16": ("a.csv", "id,headline\nN1,One\n".encode("utf-16"), "was it Latin-1 or UTF-16"),
        "zero bytes": ("a.csv", b"id,headline\nN1,O\0ne\n", "zero byte"),
        "no gzip": ("a.csv.gz", b"id,headline\nN1,One\n", "remove .gz from its name"),
        "cut gzip": (
            "a.csv.gz",
            gzip.compress(b"id,headline\nN1,One\n", mtime=0)[:-9],
            "cannot be decompressed",
        ),
        "gzip without its ending": (
            "a.csv",
            gzip.compress(b"id,headline\n", mtime=0),
            "a name that ends in .gz",
        ),
        "an array": ("a.json", b'[\n{"id": "N1", "headline": "One"}]', "holds one JSON array; write one obj"),
        "objects of lines": ("a.json", b'{\n "id": "N1",\n "headline": "One"\n}\n', "one object a line"),
        "a key twice": (
            "a.json",
            b'{"id": "N1", "id": "N2", "headline": "x"}',
            "'id' is there more than onc",
        ),
    }.values(),
)
def test_a_file_of_another_form_is_refused_with_what_to_do(
    source: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (source / name).write_bytes(content)
    (tmp_path / "map.toml").write_text(MAP.replace("articles.csv", name))
    with pytest.raises(InputError, match=re.escape(message)):
        convert(write_log(source, GOOD), tmp_path / "data", column_map(source))
    check_layout(source, column_map(source))


def test_endings_may_be_in_capitals_and_begin_with_a_byte_order_mark(source: Path) -> None:
    text = '\ufeffid,headline\r\nN1,"One\r\ntwo"\r\n'
    assert converted_titles(source, "articles.CSV", text) == (["One two"], [])


def write_articles(source: Path, name: str, titles: list[str]) -> None:
    rows = [{"id": f"N{number}", "headline": title} for number, title in enumerate(titles, 1)]
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source / name)
    elif name.endswith("jsonl"):
        (source / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        tab = "\t" if name.endswith("tsv") else ","
        lines_of = [tab.join(rows[0]), *(tab.join(row.values()) for row in rows)]
        (source / name).write_text("\n".join(lines_of) + "\n")
    (source.parent / "map.toml").write_text(MAP.replace("articles.csv", name))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_cell_has_one_limit_in_all_formats(source: Path, tmp_path: Path, name: str) -> None:
    most = MAX_CELL_CHARACTERS
    write_articles(source, name, ["1" * most, "2" * (most + 1), "Three"])
    write_log(source, {**GOOD, "shown": ["N1", "N3"], "clicked": ["N3"]})
    splits = convert(source, tmp_path / "data", column_map(source), max_bad_rows=1)
    assert list(read_split(tmp_path / "data", "train").articles) == ["N1", "N3"]
    (fault,) = splits["train"].faults
    assert (fault.field, fault.message[:34]) == ("headline", "holds more than 250,000 characters")


def test_an_article_that_no_line_of_mind_holds_is_told(source: Path) -> None:
    rows = [{"id": f"N{row}", "headline": "\U0001f600" * count} for row, count in enumerate((1, 250_000), 1)]
    rows = [{**row, "lead": row["headline"]} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source / "a.parquet")
    text = MAP.replace("articles.csv", "a.parquet").replace('"headline"', '"headline"\nabstract = "lead"')
    (source.parent / "map.toml").write_text(text)
    splits, _ = check_layout(write_log(source), column_map(source))
    assert [(each.line, each.field) for each in splits["train"].faults if each.line] == [(2, "line")]


def test_articles_are_told_too(source: Path) -> None:
    (source / "articles.csv").write_text(ARTICLES + "N1,Again\nN 4,Four\nN5,\n")
    splits, _ = check_layout(write_log(source, GOOD), column_map(source))
    assert [(fault.line, fault.field) for fault in splits["train"].faults] == [
        (5, "id"),
        (6, "id"),
        (7, "headline"),
    ]


def test_a_column_that_is_not_there_names_those_that_are(source: Path, tmp_path: Path) -> None:
    write_log(source, GOOD)
    (source / "articles.csv").write_text("id,title\nN1,One\n")
    with pytest.raises(
        InputError, match=r"articles.csv: file: has no column 'headline'; its columns: id, title"
    ):
        convert(source, tmp_path / "data", column_map(source), max_bad_rows=1000)
    (source / "articles.csv").write_text("id,headline,headline\nN1,One,One\n")
    with pytest.raises(InputError, match="'headline' more than once"):
        convert(source, tmp_path / "data", column_map(source))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "no rows"])
def test_a_damaged_parquet_file_is_refused(source: Path, tmp_path: Path, damage: str) -> None:
    path = source / "log.parquet"
    rows = [GOOD] * (damage != "no rows")
    schema = pyarrow.Table.from_pylist([GOOD]).schema
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    content = bytearray(path.read_bytes())
    damaged = {"cut": content[:-20], "text": b"plain text\n", "empty": b"", "no rows": content}
    content[4:120] = bytes(116)
    path.write_bytes(damaged.get(damage, content))
    with pytest.raises(InputError, match=r"log.parquet: file: .*(cannot be read as Parquet|is empty)"):
        convert(source, tmp_path / "data", column_map(source), max_bad_rows=1000)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("key", ["reader", "at", "shown", "clicked", "read", "seconds"])
def test_a_key_that_no_json_row_has_names_those_that_are(source: Path, tmp_path: Path, key: str) -> None:
    rows = [{**GOOD, "impression": number, "other": 1} for number in (1, 2)]
    write_log(source, *({("no" + name if name == key else name): row[name] for name in row} for row in rows))
    keys = ", ".join("no" + name if name == key else name for name in rows[0])
    with pytest.raises(InputError, match=f"no row up to here has {key}; keys found: {keys}"):
        convert(source, tmp_path / "data", column_map(source))
    assert check_layout(source, column_map(source))[1]


def test_a_key_may_be_left_out_of_a_split_that_is_read_after_one_with_it(
    source: Path, tmp_path: Path
) -> None:
    dev = '[splits.dev]\narticles = ["articles.csv"]\nimpressions = ["dev.jsonl"]\n'
    short = {name: value for name, value in GOOD.items() if name != "seconds"}
    write_log(source, {**GOOD, "seconds": None})
    (source / "dev.jsonl").write_text(json.dumps(short))
    (tmp_path / "map.toml").write_text(MAP + dev)
    assert convert(source, tmp_path / "data", column_map(source))["dev"].impressions == 1


def test_a_key_may_be_left_out_of_some_rows(source: Path, tmp_path: Path) -> None:
    short = {name: value for name, value in GOOD.items() if name not in ("read", "seconds")}
    write_log(source, {**short, "impression": 2}, GOOD)
    assert convert(source, tmp_path / "data", column_map(source))["train"].impressions == 2


def test_all_columns_of_a_wide_file_are_listed(source: Path, tmp_path: Path) -> None:
    names = [f"a_rather_long_column_{number}" for number in range(30)]
    (source / "articles.csv").write_text(",".join(names) + "\n")
    with pytest.raises(InputError, match="its columns: " + ", ".join(names)):
        convert(write_log(source, GOOD), tmp_path / "data", column_map(source))


def test_a_rule_for_empty_cells_of_a_column_that_is_not_there_is_told(source: Path, tmp_path: Path) -> None:
    (source.parent / "map.toml").write_text(
        MAP.replace('"headline"', '"headline"\nskip = [{ column = "lead" }]')
    )
    with pytest.raises(InputError, match="has no column 'lead'; its columns: id, headline"):
        convert(write_log(source, GOOD), tmp_path / "data", column_map(source))


def test_files_in_a_folder_of_the_same_name_are_named(source: Path, tmp_path: Path) -> None:
    inner = write_log(source, GOOD).rename(tmp_path / "inner")
    source.mkdir()
    inner = inner.rename(source / "logs")
    with pytest.raises(InputError, match=re.escape(f"names; {inner} does: give that folder")):
        convert(source, tmp_path / "data", column_map(source))


def test_what_is_too_large_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genre_tf.data.layouts import conversion, tables

    row = {**GOOD, "read": ["N1"] * 200}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), source / "log.parquet")
    with monkeypatch.context() as limits:
        limits.setattr(tables, "MAX_FILE_BYTES", 100)
        with pytest.raises(InputError, match="holds more than"):
            convert(source, tmp_path / "data", column_map(source))
    monkeypatch.setattr(conversion, "MAX_LINE_BYTES", 600)
    with pytest.raises(InputError, match=r"log.parquet:1: line: is longer"):
        convert(source, tmp_path / "data", column_map(source))
    (source / "log.parquet").unlink()
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 60)
    with pytest.raises(InputError, match=r"log.jsonl:1: line: longer than"):
        convert(write_log(source, GOOD), tmp_path / "data", column_map(source))


@pytest.mark.parametrize(
    "old, new, message",
    {
        "unknown key": ('title = "headline"', 'title = "headline"\nteaser = "x"', "unknown key 'teaser'"),
        "unknown table": ("[articles]", "[authors]", "unknown key 'authors'"),
        "rule without column": (
            'title = "headline"',
            'title = "headline"\nskip = [{ value = "x" }]',
            "articles: skip: column is missing",
        ),
        "missing key": ('title = "headline"', "", "articles: title is missing; keys given: news_id"),
        "of another type": ('user_id = "reader"', "user_id = 3", "must be of type str"),
        "both labels": ('clicked = "clicked"', 'clicked = "clicked"\nlabels = "l"', "only one of `clicked`"),
        "no candidates": ('candidates = "shown"\n', "", "either `candidates` or `labelled`"),
        "no splits": ("[splits.train]", "[files]\nclicks = []", "unknown key 'impressions'"),
        "name of a split": ("[splits.train]", '[splits."../x"]', "cannot be the name of a split"),
        "both kinds": (
            "[impressions]",
            '[clicks]\nuser_id = "a"\nnews_id = "b"\ntime = "c"\n[impressions]',
            r"give one of .* got impressions and clicks",
        ),
        "no TOML": ("[articles]", "[articles", "cannot be read as TOML"),
        "out of the folder": ('"log.*"', '"../log.*"', "is not a path inside"),
        "quotes": ("[articles]", '[reading]\nquotes = "all"\n[articles]', "must be one of none, line, lines"),
        "no such file": ('"log.*"', '"day.*"', "holds no file day"),
        "no known ending": ('"log.*"', '"log.txt"', "not clear from the ending"),
    }.values(),
)
def test_a_wrong_map_is_told(source: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    (source / "log.txt").write_text("")
    file = tmp_path / "map.toml"
    file.write_text(MAP.replace(old, new))
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "data", read_map(str(file)))


def test_a_map_that_is_not_there_names_the_ready_ones() -> None:
    with pytest.raises(InputError, match="adressa or ebnerd"):
        read_map("mindlarge")


def test_a_check_with_faults_exits_with_1(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(source, GOOD, {**GOOD, "impression": 2, "at": "soon"})
    with pytest.raises(typer.Exit):
        convert_verb(source, tmp_path / "data", column_map=str(tmp_path / "map.toml"), check=True)
    assert "log.jsonl:2: at: 'soon' is not a time" in capsys.readouterr().out


ODD = [
    None,
    True,
    "",
    " ",
    "N1",
    "N1 N2",
    0,
    -1.5,
    1e308,
    [],
    [None],
    ["N1", "N1"],
    [["N2"]],
    {},
    "[",
    "\ud800",
    "a\tb",
]


@pytest.mark.parametrize("seed", range(30))
def test_odd_values_are_faults_and_never_break_what_is_written(
    source: Path, tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    rows = []
    for number in range(40):
        row: dict[str, Any] = {**GOOD, "impression": number}
        for column in generator.sample(list(row), generator.randint(0, 3)):
            row[column] = generator.choice(ODD)
        rows.append(row)
    splits = convert(write_log(source, *rows), tmp_path / "data", column_map(source), max_bad_rows=39)
    report = check_data(tmp_path / "data")
    assert report.passed and not report.fault_count
    assert report.splits[0].impressions == splits["train"].impressions == 40 - splits["train"].bad_rows
