"""`genre evaluate` on a tiny run: the report of the contract, and plain words for what it cannot measure."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genre_tf.cli.evaluate import evaluate
from genre_tf.data.counters import COUNTERS
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation import EvaluationOptions
from genre_tf.evaluation.evaluate import evaluate_run
from genre_tf.evaluation.scored_log import read_log
from genre_tf.evaluation.scoring import load_scorers, open_run
from genre_tf.evaluation.writer_quality import cold_impressions, cold_start
from genre_tf.metrics.ranking import METRICS

SLICES = {"all", "no_history", "at_most_5_clicks", "unseen_reader", "unseen_article"}


def quiet(line: str) -> None:
    """Takes progress lines."""


def test_the_report_has_every_model_and_baseline_in_every_slice_before_and_after(
    tiny_run: Path, tiny_data: Path
) -> None:
    report = evaluate_run(tiny_run, tiny_data, "dev", say=quiet)
    assert (report["split"], report["impressions"]) == ("dev", 30)
    assert set(report["models"]) == {"two_tower", "ranker", "ranker_counters"}
    assert set(report["baselines"]) == {
        "random", "popularity", "click_through_rate", "category", "bm25", "untrained_embeddings",
    }  # fmt: skip
    for group in (report["models"], report["baselines"], report["before"]["models"]):
        for parts in group.values():
            assert set(parts) == SLICES
            assert set(parts["all"]) == set(METRICS)
            assert 0 <= parts["all"]["auc"] <= 1
    assert report["slices"]["all"] == 30
    assert report["slices"]["unseen_reader"] == 30
    assert 0 < report["slices"]["unseen_article"] < 30
    assert set(report["retrieval"]) == {"recall@10", "pool"}
    assert report["baselines"]["category"]["all"]["auc"] > 0.7  # readers click their own topic
    # Nothing was trained in this run, so after is before.
    assert report["models"] == report["before"]["models"]
    assert report["retrieval"] == report["before"]["retrieval"]
    assert report["before"]["pool"]["retrieval"]["all"] == report["pool"]["retrieval"]["all"]
    assert all(1 <= len(sample["from_pool"]) <= 5 for sample in report["recommended"])
    assert report["significance"]["ranker over its start"]["difference"] == 0


def test_counters_change_the_ranker_with_counters_only(tiny_run: Path, tiny_data: Path) -> None:
    log = read_log(tiny_run, open_run(tiny_run), tiny_data, "dev")
    scorers = load_scorers(tiny_run, ("ranker", "ranker_counters"), log.table)
    examples = log.examples
    more = list(log.examples)
    for example in more:
        clicked = np.zeros_like(example.counters)
        clicked[0, COUNTERS.index("clicks")] = 5
        example.counters = example.counters + clicked
    assert (scorers["ranker"](examples)[3] == scorers["ranker"](more)[3]).all()
    assert (scorers["ranker_counters"](examples)[3] != scorers["ranker_counters"](more)[3]).any()
    assert set(scorers) == {"ranker", "ranker_counters"}


def test_skipped_rows_are_told(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "dev", tmp_path / "dev")
    with (tmp_path / "dev" / "behaviors.tsv").open("a") as log:
        log.write("half a row\n")
    said: list[str] = []
    options = EvaluationOptions(models="two_tower", before=False, max_bad_rows=1, pool="none")
    evaluate_run(tiny_run, tmp_path, "dev", options, said.append)
    assert "30 impressions of dev (bad rows skipped: 1; first: " in said[0]
    assert "behaviors.tsv:31" in said[0]


def test_impressions_without_a_click_are_left_out_of_the_metrics_and_said(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "dev", tmp_path / "dev")
    shown = [line.split("\t") for line in (tmp_path / "dev" / "behaviors.tsv").read_text().splitlines()]
    with (tmp_path / "dev" / "behaviors.tsv").open("a") as log:
        for number, (_, user, _, history, candidates) in enumerate(shown[:5], start=31):
            passed_over = candidates.replace("-1", "-0")
            log.write(f"{number}\t{user}\t11/12/2019 11:00:00 PM\t{history}\t{passed_over}\n")
    options = EvaluationOptions(models="two_tower", before=False, pool="none")
    said: list[str] = []
    with_them = evaluate_run(tiny_run, tmp_path, "dev", options, said.append)
    without = evaluate_run(tiny_run, tiny_data, "dev", options, quiet)
    assert "5 impressions without a click count as views; AUC, MRR, nDCG and recall leave them out" in said
    assert (with_them["impressions"], with_them["without_click"], without["without_click"]) == (35, 5, 0)
    assert with_them["models"]["two_tower"]["all"] == without["models"]["two_tower"]["all"]
    assert with_them["retrieval"] == without["retrieval"]


def test_readers_for_whom_nothing_was_written_are_scored_as_they_are(tiny_run: Path, tiny_data: Path) -> None:
    log = read_log(tiny_run, open_run(tiny_run), tiny_data, "dev")
    scorers = load_scorers(tiny_run, ("two_tower", "ranker"), log.table)
    few, _ = cold_impressions(log)
    examples, clicked = [log.examples[at] for at in few], [log.clicked()[at] for at in few]
    found = cold_start(examples, clicked, scorers, len(log.table), lambda readers, n: [[]] * len(readers))
    assert found["written"] == 0
    for name in scorers:
        assert found[name]["auc"] == found[name]["auc_filled"]


def test_only_the_models_that_were_asked_for_are_measured(tiny_run: Path, tiny_data: Path) -> None:
    options = EvaluationOptions(models="ranker", before=False, pool="none")
    report = evaluate_run(tiny_run, tiny_data, "dev", options, say=quiet)
    assert set(report["models"]) == {"ranker"}
    assert report["before"] == {"models": {}, "retrieval": {}, "generation": {}, "pool": {}}
    assert report["retrieval"] == {}


def test_a_run_whose_backbone_is_wholly_trained_is_measured_too(
    build_run: Callable[[Path, str], Path], tiny_data: Path, tmp_path: Path
) -> None:
    options = EvaluationOptions(pool="none")
    report = evaluate_run(build_run(tmp_path, "all"), tiny_data, "dev", options, say=quiet)
    assert report["models"] == report["before"]["models"]


def test_the_verb_prints_json_keeps_it_and_logs_it(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tiny_run, data=tiny_data, models="two_tower", before=False, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tiny_run / "reports" / "evaluation-dev.json").read_text())
    assert list((tiny_run / "logs" / "evaluation" / "dev").glob("events*"))
    evaluate(tiny_run, data=tiny_data, models="two_tower", before=False)
    assert "AUC by slice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("models", "split", "message"),
    [
        ("oracle", "dev", "there is no model 'oracle'; known: two_tower"),
        ("", "test", "has no labels"),
        ("", "nowhere", "no split 'nowhere'"),
    ],
)
def test_what_cannot_be_measured_is_said_plainly(
    tiny_run: Path, tiny_data: Path, models: str, split: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(tiny_run, data=tiny_data, split=split, models=models)


def test_a_run_that_cannot_keep_an_evaluation_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "logs").write_text("")
    with pytest.raises(FailureError, match="logs cannot be written"):
        evaluate(tmp_path, data=tmp_path)


def test_a_folder_that_is_no_run_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        evaluate(tmp_path / "none", data=tiny_data)
    with pytest.raises(InputError, match="no configuration"):
        evaluate(tmp_path, data=tiny_data)


def test_a_stage_that_was_not_trained_is_named_with_its_remedy(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "ranking")
    with pytest.raises(InputError, match="genre train ranking"):
        evaluate_run(run, tiny_data, "dev", EvaluationOptions(models="ranker"), say=quiet)
    report = evaluate_run(run, tiny_data, "dev", EvaluationOptions(before=False, pool="none"), say=quiet)
    assert set(report["models"]) == {"two_tower"}
    shutil.rmtree(run / "retrieval")
    with pytest.raises(InputError, match="genre train all"):
        evaluate_run(run, tiny_data, "dev", say=quiet)
