"""`genre bench`: the contract of its output, peers that are told when missing, sides that must agree."""

import json
import re
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from genre_tf.backbones.bert import BERT, save_bert, tiny_vocabulary
from genre_tf.benchmarks.conventional import each_article_again
from genre_tf.benchmarks.encode_bench import _require_equal
from genre_tf.benchmarks.generate_bench import require_same_tokens
from genre_tf.benchmarks.measuring import BenchOptions, compare, medians_in_turns_ms
from genre_tf.benchmarks.peers import peer_module
from genre_tf.cli import main
from genre_tf.data.batches import impression_batches
from genre_tf.data.columns import ImpressionExample
from genre_tf.errors import FailureError, InputError
from genre_tf.text.wordpiece import WordPiece

GENERATED = (
    *(f"{name}batch {size}" for name in ("", "SmolLM2 135M, ") for size in (1, 4, 8)),
    "copied, batch 1",
)
ENCODED = ("forward", "forward, full", "titles", "train step", "train step, full")


@pytest.fixture
def options(tmp_path):
    bert = BERT.new(WordPiece(tiny_vocabulary()), layers=2, heads=2, hidden=16, max_tokens=128)
    save_bert(bert, tmp_path / "bert")
    return BenchOptions(
        rounds=1, quick=True, data=None, news_backbone=str(tmp_path / "bert"), say=lambda line: None
    )


def _printed(options, name):
    main._register("bench")
    main._register("synth")  # a single command would lose its name
    arguments = [
        "bench",
        name,
        "--quick",
        "--rounds",
        "2",
        "--json",
        "--news-backbone",
        options.news_backbone,
    ]
    answer = CliRunner().invoke(main.app, arguments)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return json.loads(answer.stdout)


def test_without_a_checkout_it_says_where_it_runs(monkeypatch):
    main._register("bench")
    main._register("synth")
    monkeypatch.setitem(sys.modules, "genre_tf.benchmarks", None)
    error = CliRunner().invoke(main.app, ["bench", "encode"]).exception
    assert isinstance(error, InputError) and "runs from a checkout of genre_tf" in str(error)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("encode", [(case, "torch") for case in ENCODED]),
        ("generate", [(case, peer) for case in GENERATED for peer in ("torch", "ctranslate2")]),
        ("train", [(case, peer) for case in ("frozen", "last 2") for peer in ("torch", "conventional")]),
    ],
)
def test_json_has_every_case_and_its_ratio(options, name, cases):
    for peer in {peer for _, peer in cases} - {"conventional"}:
        pytest.importorskip(peer)
    found = _printed(options, name)
    assert found["bench"] == name and found["machine"]["threads"] >= 1
    assert [(row["case"], row["peer_name"]) for row in found["rows"]] == cases
    for row in found["rows"]:
        assert set(row) == {"case", "ours", "peer", "peer_name", "ratio", "unit", "rounds"}
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.01) and row["rounds"] == 2
        assert row["ours"] > 0 and re.fullmatch(r"(titles|impressions|tokens) per second", row["unit"])


def test_sides_take_turns_and_the_median_counts(options):
    turns, said = [], []
    rates = {"ours": iter([9.0, 1.0, 2.0, 30.0]), "peer": iter([9.0, 1.0, 4.0, 1.0])}

    def side(name):
        return lambda: turns.append(name) or next(rates[name])

    three = BenchOptions(rounds=3, quick=True, data=None, news_backbone="", say=said.append)
    [row] = compare("case", "things per second", side("ours"), {"peer": side("peer")}, three)
    assert turns == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert (row.ours, row.peer, row.ratio, row.rounds) == (2.0, 1.0, 2.0, 3)
    assert len(said) == 3


def test_a_missing_peer_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[bench\]'") as told:
        peer_module("torch")
    assert "\n" not in str(told.value)


def test_lone_requests_of_both_sides_come_in_short_turns():
    asked = []

    def side(name, seconds):
        return lambda number: (asked.append((name, number)), time.sleep(seconds))

    fast, slow = medians_in_turns_ms((side("a", 0.0), side("b", 0.002)), times=5, turn=2)
    assert [name for name, _ in asked] == list("aabbaabbab")
    assert [number for name, number in asked if name == "b"] == list(range(5))
    assert fast < 2 <= slow


def test_sides_that_compute_different_things_are_not_compared():
    tokens = np.array([[1, 2, 3]])
    require_same_tokens("batch 1", tokens, "torch", tokens.copy())
    for other in (np.array([[1, 2, 4]]), tokens[:, :2]):
        with pytest.raises(FailureError, match="different tokens"):
            require_same_tokens("batch 1", tokens, "torch", other)
    values = np.ones((2, 2), np.float32)
    _require_equal("forward", values, values + 5e-5)
    for other in (values + 2e-4, np.full_like(values, np.nan)):
        with pytest.raises(FailureError, match="differ"):
            _require_equal("forward", values, other)


def test_the_conventional_batch_reads_every_article_again_and_says_the_same():
    def example(history, candidates):
        size = len(candidates)
        rows = [np.asarray(part, np.int32) for part in (history, candidates)]
        return ImpressionExample(0, "", 0.0, *rows, np.eye(1, size)[0], np.zeros((size, 9)))

    examples = [example([3, 4], [5, 6, 3]), example([], [5, 4]), example([4], [6, 5, 3])]
    batch = next(iter(impression_batches(examples, batch_size=3)))
    again = each_article_again(batch)
    assert len(batch["articles"]) == 5 and len(again["articles"]) == 1 + 8 + 3
    for name in ("history", "candidates"):
        np.testing.assert_array_equal(
            tf.gather(again["articles"], again[name]), tf.gather(batch["articles"], batch[name])
        )
    used = np.concatenate([np.ravel(again[name]) for name in ("history", "candidates")])
    assert sorted(used[used > 0]) == list(range(1, 12)), "no position is shared"
