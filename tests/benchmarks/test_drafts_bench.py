"""`genre bench drafts`: its output, and texts that drafts must not change."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from genre_tf.benchmarks.drafts_bench import abstracts, require_same_texts
from genre_tf.cli import main
from genre_tf.errors import FailureError, InputError


def run_bench(*options: str):
    main._register("bench")
    main._register("synth")  # a single command would lose its name
    return CliRunner().invoke(main.app, ["bench", *options])


@pytest.mark.proof
def test_json_has_every_case():
    answer = run_bench("drafts", "--quick", "--rounds", "1", "--json")
    assert answer.exit_code == 0, (answer.output, answer.exception)
    rows = json.loads(answer.stdout)["rows"]
    cases = [f"random {shape}, batch 1, 3 ahead" for shape in ("3 x 192", "6 x 384")]
    assert [row["case"] for row in rows] == cases
    assert {row["peer_name"] for row in rows} == {"plain decoding"}
    assert all(row["ours"] > 0 and row["unit"] == "texts per second" for row in rows)


def test_a_run_is_for_drafts_alone():
    answer = run_bench("encode", "--run", "x")
    assert isinstance(answer.exception, InputError) and "--run is for `genre bench drafts`" in str(
        answer.exception
    )


def test_abstracts_begin_with_the_newest_and_are_taken_again(tmp_path):
    (tmp_path / "dev").mkdir()
    lines = [
        f"N{at}\tc\ts\tTitle {at}\t{words}\t\t[]\t[]"
        for at, words in enumerate(["word " * 8, "too short", "news " * 9])
    ]
    (tmp_path / "dev" / "news.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    log = "1\tU1\t11/11/2019 1:00:00 AM\t\tN0-1\n"
    (tmp_path / "dev" / "behaviors.tsv").write_text(log, "utf-8")
    assert [text.split()[0] for text in abstracts(tmp_path, 3)] == ["news", "word", "news"]
    (tmp_path / "dev" / "news.tsv").write_text(lines[1].replace("N1", "N0") + "\n", "utf-8")
    with pytest.raises(InputError, match="no abstract of 8 words or more"):
        abstracts(tmp_path, 3)


def test_other_texts_are_not_compared():
    texts = np.array([[[1, 2, 0], [3, 0, -1]]])
    require_same_texts("a case", texts, texts.copy())
    with pytest.raises(FailureError, match="drafts changed the written texts"):
        require_same_texts("a case", texts, texts[:, ::-1])
    with pytest.raises(FailureError, match="drafts changed the written texts"):
        require_same_texts("a case", texts, texts[:, :, :2])
