"""`genre bench serve`: every row and the picture from a small live server; a naive export that must agree."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from genre_tf.backbones.bert import BERT, save_bert, tiny_vocabulary
from genre_tf.benchmarks import serve_bench
from genre_tf.benchmarks.latency_picture import Curve, check_picture, draw_latency
from genre_tf.benchmarks.load_generator import LoadResult
from genre_tf.benchmarks.serve_bench import SHARES, require_same_answers
from genre_tf.benchmarks.serve_requests import Readers
from genre_tf.cli import main
from genre_tf.errors import FailureError, InputError
from genre_tf.funnel.index import Catalogue
from genre_tf.text.wordpiece import WordPiece


@pytest.mark.proof
def test_json_has_every_row_and_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    save_bert(
        BERT.new(WordPiece(tiny_vocabulary()), layers=2, heads=2, hidden=16, max_tokens=128),
        tmp_path / "bert",
    )
    main._register("bench")
    main._register("synth")  # a single command would lose its name
    arguments = [
        "bench",
        "serve",
        "--quick",
        "--rounds",
        "2",
        "--json",
        "--picture",
        str(tmp_path / "latency.png"),
    ]
    answer = CliRunner().invoke(main.app, [*arguments, "--news-backbone", str(tmp_path / "bert")])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    rows = json.loads(answer.stdout)["rows"]
    by_rate = [
        f"{name}, p99 at {share:.0%} load" for name in ("recommend", "score", "generate") for share in SHARES
    ]
    assert [(row["case"], row["peer_name"]) for row in rows] == [
        ("recommend, lone", "bare session"),
        ("recommend, throughput", "naive"),
        ("score, throughput", "naive"),
        *((case, "lone request's median") for case in by_rate),
        ("recommend, memory of the long run", "before"),
    ]
    for row in rows:
        better = (
            (row["ours"], row["peer"]) if row["unit"] == "requests per second" else (row["peer"], row["ours"])
        )
        assert row["ratio"] == pytest.approx(better[0] / better[1], rel=0.01) and row["ours"] > 0
    assert "own cost" in rows[0]["note"]
    for row in rows[3:-1]:
        assert "p50/p95/p99" in row["note"] and " 0 of " in row["note"] and "saturates at" in row["note"]
    assert rows[-1]["note"].startswith("0 of 60 failed") and "kB per 1000 requests" in rows[-1]["note"]
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def run_at(rate):
    return LoadResult(rate, 50, np.linspace(1, rate, 50), {}, 5.0, 0.1, 0.1)


def test_curves_become_panels(tmp_path):
    pytest.importorskip("matplotlib")
    curves = [Curve(name, 2.0, 90.0, [run_at(10.0), run_at(80.0)]) for name in ("recommend", "score")]
    draw_latency(curves, tmp_path / "latency.svg")
    drawn = (tmp_path / "latency.svg").read_text("utf-8")
    assert drawn.count('<g id="axes_') == 2


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"ends in one of \.png"):
        check_picture(tmp_path / "latency.doc")
    with pytest.raises(InputError, match="no folder"):
        check_picture(tmp_path / "nowhere" / "latency.png")
    main._register("bench")
    main._register("synth")
    answer = CliRunner().invoke(main.app, ["bench", "retrieve", "--quick", "--picture", "x.png"])
    assert isinstance(answer.exception, InputError) and "leave it out" in str(answer.exception)


def test_readers_ask_the_naive_export_for_the_same_in_titles():
    number = 30
    ids, titles = (
        [f"N{row}" * (row > 0) for row in range(number)],
        [f"T{row}" * (row > 0) for row in range(number)],
    )
    vectors = np.zeros((number, 2), np.float32)
    readers = Readers.of(
        Catalogue(ids, titles, titles, vectors, vectors, np.zeros((number, 9), np.float32)), 4, 5
    )
    assert len(readers.histories) == len(readers.recommend()) == len(readers.naive_score())
    for history, clicked, shown in zip(readers.histories, readers.titles, readers.candidates, strict=True):
        assert [f"T{news_id[1:]}" for news_id in history] == clicked
        assert len(set(history) | set(shown)) == 9 and "" not in history


def test_a_naive_export_that_answers_otherwise_is_not_compared(monkeypatch):
    class Client:
        def __init__(self, address, timeout_s, recommender="ours"):
            self.score_given = 0.5 if recommender == "ours" else 0.6

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def recommend(self, histories):
            return [[SimpleNamespace(score=0.5)]]

        def score(self, histories, candidates):
            return [[SimpleNamespace(click_probability=self.score_given)]]

        recommend_text, score_text = recommend, score

    monkeypatch.setattr(serve_bench, "Client", Client)
    with pytest.raises(FailureError, match="score: ours and naive answer differently"):
        require_same_answers("127.0.0.1:1", Readers([["N1"]], [["T1"]], [["N2"]], [["T2"]]))
