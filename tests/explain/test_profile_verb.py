"""`genre profile` on a tiny run: readers by ids, by titles and out of a log."""

import json
from pathlib import Path

import numpy as np
import pytest

from genre_tf.cli.explain import profile
from genre_tf.data.articles import ArticleTable
from genre_tf.data.prepared import read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import TwoTowerScorer
from genre_tf.models.checkpoint import load_two_tower


def test_a_reader_by_ids(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(tiny_run, history="N3  N6 N9 N12 N404")  # every third article is about sports
    printed = capsys.readouterr()
    told = "Likes sports (4 of 4 clicks); several of the titles name sports."
    assert printed.out == f"{told} Not counted: 1 click on unknown articles.\n"
    assert printed.err == "ignored 1 of 5 ids in --history, which are not in the run: N404\n"


def test_a_reader_by_titles(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = "Bread is back\\nBread is gone\\nRain today\\nWind tomorrow"
    profile(tiny_run, history_text=titles, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["sentence"] == "Of 4 clicked articles several of the titles name Bread."
    assert found["words"] == [{"text": "Bread", "news_ids": ["1", "2"]}]
    profile(tiny_run, history_text="")
    assert capsys.readouterr().out == "Has clicked nothing yet.\n"


def test_every_reader_of_a_log(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(tiny_run, log=tiny_data / "test", as_json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["reader"] for row in found) == [f"U{at}-1" for at in range(7)]
    assert all(row["sentence"] for row in found)
    profile(tiny_run, log=tiny_data / "test", user="U3-1")
    assert capsys.readouterr().out.startswith("U3-1: ")
    with pytest.raises(InputError, match="no reader 'nobody'; it has 7 readers, such as U0-1"):
        profile(tiny_run, log=tiny_data / "test", user="nobody")


def test_clicks_are_weighed_by_the_user_tower(tiny_run: Path) -> None:
    towers = load_two_tower(tiny_run)
    table: ArticleTable = read_articles(tiny_run / "prepared")
    scorer = TwoTowerScorer(towers, towers.news.embed(towers.news.features(table)))
    histories = [np.array(rows, np.int32) for rows in ((), (1, 2, 3), (4,))]
    for shares, history in zip(scorer.click_shares(histories), histories, strict=True):
        np.testing.assert_allclose(shares, np.full(len(history), 1 / max(len(history), 1)), atol=1e-6)
    bias = towers.user_tower.pooling.recency_bias
    bias.assign([np.log(3.0), *np.zeros(bias.shape[0] - 1)])  # the newest click counts three times
    (shares,) = TwoTowerScorer(towers, scorer.vectors).click_shares(histories[1:2])
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.6], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --history"),
        ({"history": "N1", "history_text": "a"}, "only one of"),
        ({"history": "N1", "user": "U1"}, "only one of"),
        ({"history": "N404 N405"}, r"the run contains none of the ids in --history \(N404, N405\)"),
        ({"history": "U1"}, "these look like reader ids: give --user with --log"),
    ],
)
def test_what_cannot_be_described_is_refused(
    options: dict[str, object], message: str, tiny_run: Path
) -> None:
    with pytest.raises(InputError, match=message):
        profile(tiny_run, **options)  # type: ignore[arg-type]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        profile(tmp_path / "none", history="N1")
