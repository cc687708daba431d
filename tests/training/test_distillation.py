"""Learning from another run's ranker; and probabilities after a loss that knows none."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genre_tf.config import DataConfig, NewsConfig, OptimizerConfig, RankingConfig, RunConfig
from genre_tf.data.prepared import read_articles, read_examples
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import load_scorers
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_news_encoder, ranker_of
from genre_tf.models.text_model import save_own_weights
from genre_tf.training.ranking import check_teacher, teacher_identity, teacher_logits
from genre_tf.training.run_folder import open_run, stage_fingerprints, train
from genre_tf.training.stage_data import load_stage_data

MODELS = ("ranker", "ranker_counters")
TEACHER = RunConfig(
    data=DataConfig(max_history=4, validation_share=0.2),
    news=NewsConfig(backbone="tiny", trainable="last 1", max_title_tokens=8, interest_dimension=0),
    ranking=RankingConfig(optimizer=OptimizerConfig(steps=4, batch_size=8, validate_every=4)),
)


def _student(teacher: Path) -> RunConfig:
    """Other news settings than the teacher's, and the objective that leaves the bias alone."""
    ranking = dataclasses.replace(TEACHER.ranking, objective="softmax", teacher=str(teacher))
    return dataclasses.replace(TEACHER, news=NewsConfig(backbone="tiny", max_title_tokens=8), ranking=ranking)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """`data`, a `teacher` that knows what rankers begin with, and its trained `student`."""
    folder: Path = tmp_path_factory.mktemp("distillation")
    data = folder / "data" / "train"
    data.mkdir(parents=True)
    words = ["storm", "wins", "late", "goal", "budget", "soup", "vote", "cup"]
    news = [f"N{n}\tsports\ttennis\t{words[n - 1]} title {n}\t\t\t[]\t[]\n" for n in range(1, 9)]
    (data / "news.tsv").write_text("".join(news))
    line = "{n}\tU{n}\t11/9/2019 1:{n:02}:00 AM\tN1 N2\tN{a}-1 N{b}-0 N7-0\n"
    log = [line.format(n=n, a=3 + n % 4, b=3 + (n + 1) % 4) for n in range(1, 41)]
    (data / "behaviors.tsv").write_text("".join(log))
    open_run(folder / "teacher", data.parent, TEACHER, lambda _: None)
    (folder / "teacher" / "ranking").mkdir()
    teacher = ranker_of(load_news_encoder(folder / "teacher", TEACHER), TEACHER)
    save_own_weights(teacher, folder / "teacher" / "ranking" / WEIGHTS_FILE)
    train(["ranking"], data.parent, folder / "student", _student(folder / "teacher"), lambda _: None)
    return folder


def test_the_student_is_shown_the_teachers_own_logits(folder: Path) -> None:
    prepared = folder / "student" / "prepared"
    examples = read_examples(prepared, "train")
    scorers = load_scorers(folder / "teacher", MODELS, read_articles(prepared))
    (file,) = (folder / "student" / "cache").glob("teacher-*.npy")
    expected = [np.concatenate(scorers[name](examples)) for name in MODELS]
    np.testing.assert_allclose(np.load(file), np.stack(expected, 1), atol=2e-3)  # states are kept in float16


def test_after_a_softmax_the_probabilities_have_the_height_of_the_click_rate(folder: Path) -> None:
    student = folder / "student"
    examples = read_examples(student / "prepared", "train")
    clicks = sum(example.labels.sum() for example in examples)
    for scorer in load_scorers(student, MODELS, read_articles(student / "prepared")).values():
        logits = np.concatenate(scorer(examples))
        assert (1 / (1 + np.exp(-logits))).sum() == pytest.approx(clicks, rel=1e-3)


def test_a_teacher_is_what_it_knows_and_not_where_it_lies(folder: Path, tmp_path: Path) -> None:
    moved, student = tmp_path / "moved", folder / "student"
    shutil.copytree(folder / "teacher", moved)
    assert teacher_identity(str(moved)) == teacher_identity(str(folder / "teacher"))
    said: list[str] = []
    train(["ranking"], folder / "data", student, _student(moved), said.append)
    assert "kept" in said[-1]
    earlier = stage_fingerprints(student, _student(moved))
    with (moved / "ranking" / WEIGHTS_FILE).open("ab") as weights:
        weights.write(b"other weights")
    later = stage_fingerprints(student, _student(moved))
    assert later["ranking"] != earlier["ranking"] and later["retrieval"] == earlier["retrieval"]


def test_who_cannot_teach_is_told_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone has no trained ranker"):
        train(["ranking"], folder / "data", tmp_path / "run", _student(tmp_path / "gone"), print)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="cannot be its own teacher"):
        check_teacher(_student(folder / "teacher"), folder / "teacher")
    shutil.copytree(folder / "teacher", tmp_path / "plain")
    file = tmp_path / "plain" / "config.toml"
    file.write_text(file.read_text().replace("counters = true", "counters = false"))
    with pytest.raises(InputError, match="was trained without counters"):
        check_teacher(_student(tmp_path / "plain"), tmp_path / "run")


def test_refuses_a_damaged_teacher_before_any_work(folder: Path, tmp_path: Path) -> None:
    for name, said in (
        ("backbone/model.safetensors", "is damaged"),
        ("backbone/categories.json", "cannot be read"),
        (f"ranking/{WEIGHTS_FILE}", "is damaged"),
    ):
        teacher = tmp_path / Path(name).name
        shutil.copytree(folder / "teacher", teacher)
        (teacher / name).write_bytes(b"rubbish")
        with pytest.raises(InputError, match=said):
            check_teacher(_student(teacher), tmp_path / "run")


def test_logits_of_other_replayed_examples_are_not_taken_for_these(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, student = _student(folder / "teacher"), tmp_path / "student"
    shutil.copytree(folder / "student", student)
    data = load_stage_data(student, config, lambda _: None)
    # With --from the training examples are those of the log and older ones drawn by --replay.
    monkeypatch.setattr("genre_tf.training.ranking.start_fingerprint", lambda *_: ["older examples"])
    fewer = dataclasses.replace(data, train=data.train[:-3])
    logits = teacher_logits(fewer, lambda _: None)
    assert [len(each) for each in logits] == [len(example.labels) for example in fewer.train]
    assert len(list((student / "cache").glob("teacher-*.npy"))) == 2
