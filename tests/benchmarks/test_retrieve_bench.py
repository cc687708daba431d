"""`genre bench retrieve`: its output, its peer, and sides that must find the same articles."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from genre_tf.benchmarks.retrieve_bench import _QUICK, clustered, recall, require_same_articles
from genre_tf.cli import main
from genre_tf.errors import FailureError


def test_json_has_every_case_and_the_recall():
    pytest.importorskip("faiss")
    main._register("bench")
    main._register("synth")  # a single command would lose its name
    answer = CliRunner().invoke(main.app, ["bench", "retrieve", "--quick", "--rounds", "2", "--json"])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    found = json.loads(answer.stdout)
    cases = [(row["case"], row["peer_name"]) for row in found["rows"]]
    assert cases == [
        *((f"batch {batch}", "faiss") for batch in (1, 8, 64)),
        ("partitioned, batch 1", "exact in the graph"),
        ("partitioned, batch 1", "faiss"),
    ]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.01) and row["rounds"] == 2
        assert row["ours"] > 0 and row["unit"] == "readers per second"
    assert float(found["rows"][3]["note"].removeprefix("recall@10 ")) >= 0.95
    assert "note" not in found["rows"][0]


def test_sides_that_find_different_articles_are_not_compared():
    vectors, readers = clustered(_QUICK)
    readers = readers[:2]
    best = np.argsort(-(readers @ vectors.T), axis=1)[:, :10]
    require_same_articles("batch 2", vectors, readers, best, "faiss", best.copy())
    others = best.copy()
    others[1, 9] = np.argmin(readers[1] @ vectors.T)
    with pytest.raises(FailureError, match="ours and faiss find different articles"):
        require_same_articles("batch 2", vectors, readers, best, "faiss", others)


def test_recall_is_the_share_that_was_found():
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall(np.array([[4, 3, 2, 1], [5, 6, 0, 9]]), exact) == 0.75
