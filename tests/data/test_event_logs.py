"""A log with one row per event becomes impressions, with histories that know only the past."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from genre_tf.cli.data_sets import convert as convert_verb
from genre_tf.data.checking import check_data
from genre_tf.data.layouts.column_map import EVENTS, EventColumns, read_map
from genre_tf.data.layouts.conversion import check_layout, convert
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError

from .test_layouts import write_csv, write_json_lines, write_parquet

MAP = """
[files]
articles = ["articles.*"]
events = ["events.*"]

[articles]
news_id = "slug"
title = "headline"
published = "published_at"

[events]
user_id = "user"
news_id = "article"
event = "event"
time = "time"
"""
COLUMNS = ("user", "article", "event", "time", "position", "page", "seconds")
WRITE: dict[str, Callable[..., None]] = {
    "csv": write_csv,
    "jsonl.gz": write_json_lines,
    "parquet": write_parquet,
}
Event = tuple[Any, ...]


def articles(names: str = "A B C D E") -> list[dict[str, Any]]:
    published = "2026-03-02T07:30:00+01:00"
    return [
        {"slug": name, "headline": f"About {name}", "published_at": published if name == "A" else ""}
        for name in names.split()
    ]


def event(
    user: str,
    clock: str,
    kind: str | None,
    article: str,
    position: Any = None,
    page: Any = None,
    seconds: Any = None,
) -> dict[str, Any]:
    values = (user, article, kind, f"2026-03-02T{clock}", position, page, seconds)
    return dict(zip(COLUMNS, values, strict=True))


def write_site(
    folder: Path, events: list[dict[str, Any]], name: str = "csv", keys: str = ""
) -> tuple[Path, Path]:
    """The files of a site, and its map."""
    source = folder / "logs"
    source.mkdir(exist_ok=True)
    WRITE[name](source / f"articles.{name}", articles())
    WRITE[name](source / f"events.{name}", events)
    (folder / "map.toml").write_text(f"{MAP}{keys}\n")
    return source, folder / "map.toml"


def lines_of(
    folder: Path, events: list[dict[str, Any]], name: str = "csv", keys: str = ""
) -> dict[str, list[str]]:
    """The lines of each split's log, which MIND's rules accept."""
    source, file = write_site(folder, events, name, keys)
    convert(source, folder / "data", read_map(str(file)), overwrite=True)
    assert check_data(folder / "data").passed
    splits = ("train", "dev")
    return {split: (folder / "data" / split / "behaviors.tsv").read_text().splitlines() for split in splits}


SITE = [
    event("u1", "09:00:00", "view", "C", 2),  # rows come in any order
    event("u1", "09:00:00", "view", "A", 1),
    event("u1", "09:00:20", "view", "A", 9),  # again: it counts once, at its first place
    event("u1", "09:00:00", "view", "B", 5),
    event("u1", "08:00:00", "view", "A", 1),
    event("u1", "08:00:03", "view", "B", 2),
    event("u1", "08:00:30", "click", "B", seconds=20),
    event("u1", "09:05:00", "Click", "A"),  # minutes after its view
    event("u1", "09:20:00", "click", "D"),  # never shown to this reader: only history
    event("u1", "09:30:00", "comment", "A"),
    event("u2", "08:30:00", "view", "C"),
    event("u2", "08:31:00", "view", "D"),  # one minute later: another page
    event("u2", "08:40:00", "hide", "D"),
    event("u2", "09:10:00", "share", "C"),  # not clicked: left out
    event("u2", "09:11:00", "hide", "E"),  # not shown: left out
    event("u1", "10:00:00", "click", "E"),  # in the second of its view
    event("u1", "10:00:00", "view", "E", 1),
    event("u1", "10:00:00", "view", "D", 2),
    event("u1", "10:30:00", "share", "A"),  # later than the last impression
]
WITH_ALL = 'position = "position"\ndwell = "seconds"\ndev_days = 0.03'
TRAIN = [
    "1\tu1\t3/2/2026 8:00:00 AM\t\tA-0 B-1\tB:dwell=20",
    "2\tu2\t3/2/2026 8:30:00 AM\t\tC-0\t",
    "3\tu2\t3/2/2026 8:31:00 AM\t\tD-0\t",
    "4\tu1\t3/2/2026 9:00:00 AM\tB\tA-1 C-0 B-0\tB:dwell=20 A:comments=1,shares=1",
]
DEV = ["1\tu1\t3/2/2026 10:00:00 AM\tB A D\tE-1 D-0\tB:dwell=20 A:comments=1"]


@pytest.mark.parametrize("name", WRITE)
def test_events_of_any_format_become_exactly_these_lines(tmp_path: Path, name: str) -> None:
    assert lines_of(tmp_path, SITE, name, WITH_ALL) == {"train": TRAIN, "dev": DEV}
    known = read_split(tmp_path / "data", "dev").articles
    assert list(known) == ["A", "B", "D", "E"]  # those that its lines name
    assert known["A"].published == datetime(2026, 3, 2, 6, 30)


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    mixed = random.Random(3).sample(SITE, len(SITE))
    assert lines_of(tmp_path, mixed, keys=WITH_ALL) == {"train": TRAIN, "dev": DEV}


def test_the_verb_says_what_became_of_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file = write_site(tmp_path, SITE, keys=WITH_ALL)
    convert_verb(source, tmp_path / "data", column_map=str(file))
    said = capsys.readouterr().out
    assert "train: 4 articles, 4 impressions (2 without a click), 2 clicks; " in said
    assert "clicks without a view, kept as history only: 1; " in said
    assert "other events without a view or click before them, left out: 2\n" in said
    assert "warning" not in said


def test_rows_with_the_same_page_and_reader_are_one_impression_wherever_they_are(tmp_path: Path) -> None:
    events = [
        event("u9", "06:00:00", "view", "A"),
        event("u1", "08:00:00", "view", "A", page="p1"),
        event("u2", "08:00:00", "view", "C", page="p1"),  # another reader
        event("u1", "08:00:05", "view", "D", page="p2"),
        event("u1", "08:00:05", "view", "A", page="p2"),  # later, but the click names its page
        event("u1", "08:20:00", "view", "B", page="p1"),
        event("u1", "08:21:00", "click", "A", page="p1"),
        event("u1", "08:21:00", "click", "D", page="p3"),  # the id of the article's own page
        event("u1", "08:22:00", "click", "B"),
        event("u1", "07:59:00", "click", "E", page="p4"),  # it is logged before its view
        event("u1", "08:30:00", "view", "E", page="p4"),
    ]
    assert lines_of(tmp_path, events, keys='impression_id = "page"\ndev_days = 0.05')["dev"] == [
        "1\tu1\t3/2/2026 7:59:00 AM\t\tE-1",  # not in its own history
        "2\tu1\t3/2/2026 8:00:00 AM\tE\tA-1 B-1",
        "3\tu2\t3/2/2026 8:00:00 AM\t\tC-0",
        "4\tu1\t3/2/2026 8:00:05 AM\tE\tD-1 A-0",
    ]


def test_a_click_belongs_to_the_latest_page_that_showed_its_article_if_that_is_recent(tmp_path: Path) -> None:
    views = [event("u1", clock, "view", "A") for clock in ("08:00:00", "08:10:00", "09:00:00")]
    clicks = [event("u1", "08:15:00", "click", "A"), event("u1", "09:31:00", "click", "A")]
    found = lines_of(tmp_path, [*clicks, *views], keys="dev_days = 0.03")
    assert [line.split("\t")[4] for line in (*found["train"], *found["dev"])] == ["A-0", "A-1", "A-0"]
    longer = lines_of(tmp_path, [*clicks, *views], keys="dev_days = 0.03\nclick_minutes = 31")
    assert longer["dev"][0].endswith("A-1")


def test_views_without_a_position_come_last_and_gaps_in_positions_are_closed(tmp_path: Path) -> None:
    places = {"A": 5, "B": "", "C": 1, "D": 2.0}
    views = [
        event("u1", f"08:00:0{at}", "view", name, place) for at, (name, place) in enumerate(places.items())
    ]
    early = event("u1", "06:00:00", "view", "E")
    found = lines_of(tmp_path, [early, *views], keys='position = "position"\ndev_days = 0.05')
    assert found["dev"][0].split("\t")[4] == "C-0 D-0 A-0 B-0"


def test_a_reading_time_in_a_row_of_its_own_counts_once_it_is_over(tmp_path: Path) -> None:
    events = [
        event("u1", "08:00:00", "view", "A"),
        event("u1", "08:00:01", "click", "A", seconds=10),
        event("u1", "08:05:00", "view", "B"),
        event("u1", "08:06:00", "dwell", "A", seconds=30.5),
        event("u1", "08:06:00", "view", "D"),  # in the second in which it is over: not yet known
        event("u1", "08:07:30", "view", "C"),
    ]
    found = lines_of(tmp_path, events, keys='dwell = "seconds"\ndev_days = 0.0001')
    assert [line.split("\t")[3:] for line in (*found["train"], *found["dev"])] == [
        ["", "A-1", "A:dwell=40.5"],
        ["A", "B-0", "A:dwell=10"],
        ["A", "D-0", "A:dwell=10"],
        ["A", "C-0", "A:dwell=40.5"],
    ]


def test_a_reading_time_of_a_click_is_known_when_it_is_over_and_a_new_click_does_not_change_it(
    tmp_path: Path,
) -> None:
    events = [
        event("u1", "08:00:00", "view", "A"),
        event("u1", "08:00:01", "click", "A", seconds=299),
        event("u1", "08:05:00", "view", "B"),  # in the second in which it is over
        event("u1", "09:00:00", "view", "A"),
        event("u1", "09:00:01", "click", "A", seconds=50),
    ]
    found = lines_of(tmp_path, events, keys='dwell = "seconds"\ndev_days = 0.0001')
    assert [line.split("\t")[3:] for line in (*found["train"], *found["dev"])] == [
        ["", "A-1", "A:dwell=299"],
        ["A", "B-0", ""],
        ["A", "A-1", "A:dwell=299"],
    ]


def test_impressions_of_one_second_are_in_the_order_of_their_rows(tmp_path: Path) -> None:
    views = [
        event("u1", "06:00:00", "view", "A"),
        *(event(user, "08:00:00", "view", "A") for user in ("u2", "u1")),
    ]
    found = lines_of(tmp_path, views, keys="dev_days = 0.05")
    assert [line.split("\t")[1] for line in found["dev"]] == ["u2", "u1"]


def test_days_and_the_length_of_histories_are_as_the_map_says(tmp_path: Path) -> None:
    found = lines_of(tmp_path, SITE, keys=f"{WITH_ALL}\ntrain_days = 0.03\nnewest = 2")
    assert [line.split("\t")[2:5] for line in found["train"]] == [["3/2/2026 9:00:00 AM", "B", "A-1 C-0 B-0"]]
    assert [line.split("\t")[3] for line in found["dev"]] == ["A D"]


def test_an_empty_split_names_the_time_that_the_log_covers(tmp_path: Path) -> None:
    source, file = write_site(tmp_path, SITE)
    times = r"from 2026-03-02 08:00:00 to 2026-03-02 10:00:00, and the newest 1 days are dev \(dev_days\)"
    with pytest.raises(InputError, match=f"train: no impression in this part of the log: it reaches {times}"):
        convert(source, tmp_path / "data", read_map(str(file)))
    source, file = write_site(tmp_path, [event("u1", "08:00:00", "click", "A")])
    with pytest.raises(InputError, match="no row of it shows an article"):
        convert(source, tmp_path / "data", read_map(str(file)))


def test_values_of_events_are_those_of_the_map_and_a_given_value_is_no_longer_a_default() -> None:
    columns = EventColumns(user_id="u", news_id="n", time="t", event="e")
    assert set(columns.kinds().values()) == set(EVENTS)
    assert columns.kinds()["read"] == "dwells"
    own = replace(columns, clicks=("Read", "page_view"))
    assert [own.kinds().get(value) for value in ("read", "page_view", "click", "view")] == [
        "clicks",
        "clicks",
        None,
        "views",
    ]


GOOD = event("u1", "08:00:00", "view", "A")
BAD = {
    "reader": ({"user": "u 1"}, "user", "'u 1' holds white space"),
    "unknown article": ({"article": "Z"}, "article", "'Z' is not among the articles"),
    "time": ({"time": "soon"}, "time", "'soon' is not a time"),
    "no event": (
        {"event": ""},
        "event",
        "is empty; known events: view, impression, shown, click, open, dwell",
    ),
    "unknown event": ({"event": "scroll"}, "event", "'scroll' is not a known event; known events: view"),
    "position": ({"position": "top"}, "position", "'top' is not a position"),
    "endless position": ({"position": "inf"}, "position", "inf is not a position"),
    "page": ({"page": "p 1"}, "page", "'p 1' holds white space"),
    "negative seconds": (
        {"event": "click", "seconds": -1},
        "seconds",
        "-1.0 is not a finite number of seconds",
    ),
    "no seconds": ({"event": "dwell"}, "seconds", "is empty; a reading time needs a number of seconds"),
}


@pytest.mark.parametrize(("changes", "column", "message"), BAD.values(), ids=BAD)
def test_a_faulty_event_is_named_by_file_row_and_column(
    tmp_path: Path, changes: dict[str, Any], column: str, message: str
) -> None:
    rows = [GOOD, {**GOOD, **changes}, {**GOOD, "time": "2026-03-03T08:00:01"}]
    keys = 'dwell = "seconds"\nposition = "position"\nimpression_id = "page"'
    source, file = write_site(tmp_path, rows, keys=keys)
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "data", read_map(str(file)))
    assert str(caught.value).startswith(f"{source / 'events.csv'}:3: {column}: {message}")
    splits = convert(source, tmp_path / "data", read_map(str(file)), max_bad_rows=1)
    assert [(split.impressions, split.bad_rows) for split in splits.values()] == [(1, 1), (1, 1)]


def test_a_reading_time_without_a_column_of_seconds_names_the_key(tmp_path: Path) -> None:
    source, file = write_site(tmp_path, [GOOD, event("u1", "08:01:00", "read", "A")])
    splits, _ = check_layout(source, read_map(str(file)))
    assert "names no column of seconds (dwell)" in splits["train"].faults[0].message


def test_skip_rules_and_drop_unknown_leave_rows_out_and_count_them(tmp_path: Path) -> None:
    others = [{**GOOD, "event": "scroll"}, {**GOOD, "article": "Z"}]
    keys = 'drop_unknown = true\nskip = [{ column = "event", value = "scroll" }]'
    source, file = write_site(tmp_path, [GOOD, *others, {**GOOD, "time": "2026-03-03T08:00:01"}], keys=keys)
    train = convert(source, tmp_path / "data", read_map(str(file)))["train"]
    assert (train.impressions, train.left_out, train.dropped, train.bad_rows) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    {
        "missing key": (
            'event = "event"\n',
            "",
            r"events: event is missing; keys given: user_id, news_id, time",
        ),
        "empty key": ('"event"\ntime', '""\ntime', "events.event must name a column"),
        "misspelt key": (
            'event = "event"',
            'events = "event"',
            r"events: unknown key 'events'; known keys: user_id, n",
        ),
        "misspelt column": (
            '"article"',
            '"artikel"',
            r"no column 'artikel'; its columns: user, article, event, time",
        ),
        "no files": ('events = ["events.*"]', "", r"\[events\] needs \[files\] with articles and events"),
        "two kinds": (
            "[events]",
            '[clicks]\nuser_id = "a"\nnews_id = "b"\ntime = "c"\n[events]',
            "give one of",
        ),
        "value twice": (
            "[events]",
            '[events]\nviews = ["x"]\nclicks = ["X"]',
            "events.views and events.clicks hold",
        ),
        "gap": ("[events]", "[events]\ngap_minutes = 0", "events.gap_minutes must be above 0"),
        "days": ("[events]", "[events]\ndev_days = 0", "events.dev_days must be above 0"),
        "newest": ("[events]", "[events]\nnewest = -1", "newest must be at least 0"),
        "type": ("[events]", '[events]\nclicks = "click"', "clicks must be a list"),
    }.values(),
)
def test_a_wrong_map_of_events_says_what_to_change(tmp_path: Path, old: str, new: str, message: str) -> None:
    source, file = write_site(tmp_path, SITE)
    file.write_text(MAP.replace(old, new))
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "data", read_map(str(file)))


def random_events(seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    kinds = ["view"] * 6 + ["click"] * 3 + ["dwell", "share", "comment", "hide"]
    return [
        event(
            f"u{generator.randrange(3)}",
            f"0{generator.choice((8, 9))}:{generator.randrange(20):02d}:{generator.choice(('00', '07'))}",
            generator.choice(kinds),
            generator.choice("ABCDE"),
            generator.choice([None, 1, 2]),
            generator.choice([None, None, "p", "q"]),
            generator.randrange(90),
        )
        for _ in range(150)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_history_holds_exactly_what_the_reader_clicked_before(tmp_path: Path, seed: int) -> None:
    events = random_events(seed)
    keys = 'dwell = "seconds"\nposition = "position"\nimpression_id = "page"\ndev_days = 0.02'
    lines_of(tmp_path, events, keys=keys)
    first: dict[tuple[str, str], datetime] = {}
    for each in events:
        if each["event"] == "click":
            key, time = (each["user"], each["article"]), datetime.fromisoformat(each["time"])
            first[key] = min(time, first.get(key, time))
    for split in ("train", "dev"):
        for one in read_split(tmp_path / "data", split).impressions:
            before = {name: at for (user, name), at in first.items() if user == one.user_id and at < one.time}
            assert set(one.history) == set(before) and len(one.history) == len(before)
            assert [before[name] for name in one.history] == sorted(before.values())
            assert len(set(one.candidates)) == len(one.candidates)
