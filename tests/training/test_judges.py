"""The click models of two halves of the readers."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from genre_tf.config import read_config, write_config
from genre_tf.errors import InputError
from genre_tf.models.checkpoint import CHOOSER, JUDGE, load_half
from genre_tf.training.judges import half_of, of_half, readers_of_half, train_halves
from genre_tf.training.stage_data import load_stage_data

from ..evaluation.conftest import build_run, tiny_data, tiny_run  # noqa: F401  (fixtures)


def quiet(line: str) -> None:
    pass


def test_every_reader_belongs_to_one_half_and_always_to_the_same() -> None:
    halves = [half_of(f"U{at}") for at in range(1000)]
    assert halves == [half_of(f"U{at}") for at in range(1000)]
    assert {*halves} == {CHOOSER, JUDGE} and 400 < halves.count(JUDGE) < 600


@pytest.mark.proof
def test_chooser_and_judge_learn_from_different_readers_and_are_trained_once(
    tiny_run: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = read_config(run / "config.toml")
    data = load_stage_data(run, config, quiet)
    users = [{one.user_id for one in readers_of_half(data, half).train} for half in (CHOOSER, JUDGE)]
    assert users[0] and users[1] and not users[0] & users[1]
    assert users[0] | users[1] == {one.user_id for one in data.train}
    said: list[str] = []
    train_halves(run, said.append)
    chooser, judge = (load_half(run, half) for half in (CHOOSER, JUDGE))
    pairs = zip(chooser.get_weights(), judge.get_weights(), strict=True)
    assert any(not np.array_equal(ours, theirs) for ours, theirs in pairs)
    assert sum("training the" in line for line in said) == 2
    train_halves(run, said.append)
    assert sum("training the" in line for line in said) == 2
    write_config(dataclasses.replace(config, seed=config.seed + 1), run / "config.toml")
    train_halves(run, said.append, (JUDGE,))  # with another seed it is another judge
    assert sum("training the" in line for line in said) == 3


def test_a_log_whose_half_has_no_clicks_is_refused(tiny_run: Path) -> None:  # noqa: F811
    data = load_stage_data(tiny_run, read_config(tiny_run / "config.toml"), quiet)
    alone = dataclasses.replace(data, train=data.train[of_half(data.train, JUDGE)])
    with pytest.raises(InputError, match="use a larger log"):
        readers_of_half(alone, CHOOSER)
