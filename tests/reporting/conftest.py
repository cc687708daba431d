"""A tiny run that was trained for a look, evaluated, and kept with samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from genre_tf.evaluation import EvaluationOptions
from genre_tf.evaluation.evaluate import evaluate_run
from genre_tf.evaluation.scoring import Measured
from genre_tf.reporting.board import keep_evaluation, log_models
from genre_tf.reporting.figures import as_png, lengths
from genre_tf.training.observers import StageBoard

from ..evaluation.conftest import build_run, tiny_data, tiny_run, writing_run  # noqa: F401  (fixtures)
from ..world import built

EVIL = "<script>alert('x')</script> & “Larry”"
WRITTEN = {
    "titles": ["Earlier <b>title</b>"],
    "source": "A source about nobody.",
    "title": EVIL,
    "clicked": "What was clicked",
    "clicked_interest": 0.3,
    "written": [
        {
            "text": "Lerry <i>wins</i> 1,200",
            "interest": 0.2,
            "log_probability": -1.0,
            "grounding": 0.5,
            "unsupported": "Lerry\n1200",
            "safe": True,
        }
    ],
    "for_other_reader": {"text": "Another", "interest": 0.1},
}


@pytest.fixture(scope="session")
def kept(tiny_run: Path, tiny_data: Path) -> tuple[Path, dict[str, Any]]:  # noqa: F811
    """The run folder, which nobody changes, and the report as `evaluate_run` gave it."""
    folder = built("kept", lambda folder: _keep(folder, tiny_run, tiny_data))
    return folder / "run", json.loads((folder / "report.json").read_text("utf-8"))


def _keep(folder: Path, tiny_run: Path, tiny_data: Path) -> None:  # noqa: F811
    run = folder / "run"
    shutil.copytree(tiny_run, run)
    board = StageBoard(run / "logs" / "ranking", "ranking")
    for step in (0, 10, 20):
        board.scalars("validation", step, {"auc": 0.5 + step / 100, "ndcg@10": 0.3})
        board.scalars("train", step, {"loss": 1.0 - step / 100, "gradient_norm": 0.5})
    board.close()
    trial = tf.summary.create_file_writer(str(run / "logs" / "tuning" / "ranking" / "search_0"))
    with trial.as_default(step=10):  # as `genre tune` leaves one
        hparams.hparams({"learning_rate": 0.001}, trial_id="search_0")
        tf.summary.scalar("tuning/auc", 0.6)
    trial.close()

    def look(measured: Measured) -> None:
        log_models(measured, run, "dev")

    report = evaluate_run(run, tiny_data, "dev", EvaluationOptions(), lambda line: None, look)
    report["samples"] = [{**WRITTEN, "reader": report["recommended"][0]["reader"]}]
    (run / "reports").mkdir()
    picture = as_png(lengths({"as `genre bench serve --picture` leaves one": [1, 2]}))
    (run / "reports" / "latency.png").write_bytes(picture)
    keep_evaluation(report, run)
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
