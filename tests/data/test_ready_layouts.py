"""The ready maps read EB-NeRD's and Adressa's layouts; impressions are made of clicks."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from genre_tf.cli.data_sets import convert as convert_verb
from genre_tf.data.checking import check_data
from genre_tf.data.layouts.column_map import ColumnMap, read_map
from genre_tf.data.layouts.conversion import check_layout, convert
from genre_tf.data.mind import read_split
from genre_tf.errors import InputError

MONDAY = datetime(2023, 5, 22, 7, 30)
DAY_ONE = 1483225200  # 2016-12-31 23:00 UTC, when Adressa's week begins


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def ebnerd(tmp_path: Path) -> Path:
    bundle = tmp_path / "ebnerd_demo"
    articles = [
        {
            "article_id": number,
            "title": f"Nyhed {number}",
            "subtitle": "Et par ord.",
            "category": 142,
            "category_str": "sport",
            "subcategory": [196, 271],
            "published_time": MONDAY,
        }
        for number in (9_770_001, 9_770_002, 9_770_003)
    ]
    write_parquet(bundle / "articles.parquet", articles)
    for split, impression in (("train", 153), ("validation", 154)):
        shown = [9_770_002, 9_770_003, 9_770_002]
        behaviors = {
            "impression_id": impression,
            "article_id": None,
            "impression_time": MONDAY,
            "read_time": 13.0,
            "article_ids_inview": shown,
            "article_ids_clicked": [9_770_002],
            "user_id": 44_038,
            "next_read_time": 8.0,
            "is_beyond_accuracy": False,
        }
        beyond = {**behaviors, "impression_id": 0, "is_beyond_accuracy": True}
        write_parquet(bundle / split / "behaviors.parquet", [behaviors, beyond, beyond])
        history = {
            "user_id": 44_038,
            "impression_time_fixed": [MONDAY, MONDAY],
            "article_id_fixed": [9_770_001, 8_000_000],  # the second was taken down
            "read_time_fixed": [35.0, 2.0],
        }
        write_parquet(bundle / split / "history.parquet", [history])
    return bundle


def test_ebnerd_becomes_train_and_dev(ebnerd: Path, tmp_path: Path) -> None:
    splits = convert(ebnerd, tmp_path / "data", read_map("ebnerd"))
    assert check_data(tmp_path / "data").passed
    assert list(splits) == ["train", "dev"]
    assert (splits["dev"].left_out, splits["dev"].dropped) == (2, 1)
    split = read_split(tmp_path / "data", "dev")
    article = split.articles["9770001"]
    assert (article.title, article.abstract) == ("Nyhed 9770001", "Et par ord.")
    assert (article.category, article.subcategory) == ("sport", "196")
    (impression,) = split.impressions
    assert (impression.impression_id, impression.user_id, impression.time) == ("154", "44038", MONDAY)
    assert impression.history == ("9770001",)
    assert impression.candidates == ("9770002", "9770003")
    assert impression.clicked == (True, False)
    told = {signal.news_id: signal.dwell for signal in impression.signals or ()}
    assert told == {"9770001": 35, "9770002": 8}


def event(user: str, article: int | None, seconds: int, **more: Any) -> dict[str, Any]:
    told = {"eventId": seconds, "userId": user, "time": DAY_ONE + seconds, "url": "http://adressa.no", **more}
    if article is None:
        return told  # the front page
    return {**told, "id": f"a{article}", "title": f"Nyhet {article}", "category1": "nyheter|trondheim|by"}


def write_events(folder: Path, events: Iterable[dict[str, Any]]) -> Path:
    """A file a day, as Adressa has them, in no order within it."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in sorted(events, key=lambda one: (-one["time"], one["userId"])):
        day = datetime(2017, 1, 1) + timedelta(seconds=one["time"] - DAY_ONE)
        with (folder / day.strftime("%Y%m%d")).open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")
    return folder


@pytest.fixture
def adressa(tmp_path: Path) -> Path:
    def week() -> Iterable[dict[str, Any]]:
        for hour in range(7 * 24):
            yield event(f"u{hour % 5}", hour // 2, hour * 3600, activeTime=hour % 40)
            yield event(f"u{hour % 5}", None, hour * 3600 + 5)
        yield event("u0", 99, 7 * 24 * 3600 - 30)

    return write_events(tmp_path / "one_week", week())


def test_adressa_becomes_impressions_of_clicks_and_articles_that_were_about(
    adressa: Path, tmp_path: Path
) -> None:
    splits = convert(adressa, tmp_path / "data", read_map("adressa"))
    assert check_data(tmp_path / "data").passed
    assert splits["dev"].impressions == splits["dev"].clicks
    for name in ("train", "dev"):
        split = read_split(tmp_path / "data", name)
        assert split.articles["a0"].category == "nyheter"
        assert split.articles["a0"].subcategory == "trondheim"
        times = [impression.time for impression in split.impressions]
        assert times == sorted(times)
        for impression in split.impressions:
            assert sum(impression.clicked or ()) == 1
            assert not {*impression.history} & {*impression.candidates}
            assert 2 <= len(impression.candidates) <= 21
    train, dev = (read_split(tmp_path / "data", name).impressions for name in ("train", "dev"))
    assert train[-1].time <= dev[0].time - timedelta(minutes=1)
    assert dev[-1].time - dev[0].time < timedelta(days=1)
    assert len(dev[-1].history) > len(train[0].history) > 0


def test_only_what_somebody_clicked_in_the_hours_before_and_the_reader_never_did_is_drawn(
    tmp_path: Path,
) -> None:
    hour = 3600
    clicks = [
        event("old", 1, 0, activeTime=5),
        event("older", 7, hour),  # more than 24 hours before
        event("b", 2, 30 * hour),
        event("c", 3, 31 * hour),
        event("a", 4, 32 * hour),  # the reader's own
        event("b", 6, 40 * hour),  # the very second of the click
        event("a", 5, 40 * hour),
        event("a", 3, 50 * hour),  # he clicks it later
        event("a", 4, 51 * hour),  # again: no new choice
    ]
    source = write_events(tmp_path / "log", clicks)
    column_map = of_clicks(train_days=0.0, dev_days=0.9)
    convert(source, tmp_path / "data", column_map)
    made = {(each.user_id, each.time.hour): each for each in read_split(tmp_path / "data", "dev").impressions}
    click = made["a", (23 + 40) % 24]
    assert set(click.candidates) == {"a5", "a2"}
    assert click.history == ("a4",)
    assert len([each for each in made.values() if each.user_id == "a"]) == 3


@pytest.mark.parametrize("pool", ["articles", "clicks"])
def test_equal_seeds_draw_equally_and_at_most_what_was_asked_for(
    adressa: Path, tmp_path: Path, pool: str
) -> None:
    logs = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        convert(adressa, tmp_path / name, of_clicks(pool=pool, negatives=3, train_days=1.0, seed=seed))
        logs.append(read_split(tmp_path / name, "train").impressions)
    assert logs[0] == logs[1] != logs[2]
    assert {len(impression.candidates) for impression in logs[0]} == {4}
    convert(adressa, tmp_path / "short", of_clicks(pool=pool, negatives=3, train_days=1.0, seed=1, newest=2))
    shortened = read_split(tmp_path / "short", "train").impressions
    assert [each.history for each in shortened] == [each.history[-2:] for each in logs[0]]


def of_clicks(**changes: Any) -> ColumnMap:
    ready = read_map("adressa")
    assert ready.clicks is not None
    return replace(ready, clicks=replace(ready.clicks, **changes))


def test_a_faulty_event_is_told_once_by_file_line_and_column(adressa: Path, tmp_path: Path) -> None:
    with (adressa / "20170101").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
        file.write(json.dumps({**event("u 1", 3, 10), "time": "soon", "activeTime": -4}) + "\n")
    splits, unusable = check_layout(adressa, read_map("adressa"))
    assert not unusable
    assert splits["dev"].bad_rows == 2
    told = [(Path(fault.file).name, fault.line, fault.field) for fault in splits["dev"].faults]
    line = len((adressa / "20170101").read_text().splitlines())
    columns = ["userId", "time", "activeTime"]
    assert told == [("20170101", line - 1, "line"), *(("20170101", line, column) for column in columns)]
    convert(adressa, tmp_path / "data", read_map("adressa"), max_bad_rows=2)


def test_a_key_that_no_event_has_names_those_that_are(adressa: Path, tmp_path: Path) -> None:
    ready = read_map("adressa")
    misspelt = replace(ready, articles=replace(ready.articles, title="titel"))
    with pytest.raises(
        InputError, match="no row up to here has titel; keys found: eventId, userId, time, url"
    ):
        convert(adressa, tmp_path / "data", misspelt)


def test_the_verb_says_what_it_wrote(
    ebnerd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_verb(ebnerd, tmp_path / "data", column_map="ebnerd")
    assert (
        "dev: 3 articles, 1 impressions, 1 clicks; rows left out by the map: 2; clicks or"
        in capsys.readouterr().out
    )
    convert_verb(ebnerd, tmp_path / "nothing", column_map="ebnerd", check=True, json=True)
    assert json.loads(capsys.readouterr().out)["passed"]
    assert not (tmp_path / "nothing").exists()
