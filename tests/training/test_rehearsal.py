"""What a training will take is found out before it begins, and leaves nothing behind."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from genre_tf.config import GenerationConfig, OptimizerConfig, RankingConfig
from genre_tf.training.distribution import Distribution
from genre_tf.training.run_folder import foretell
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles

STEPS = OptimizerConfig(steps=40, batch_size=8, validate_every=10)
WRITER = GenerationConfig(
    backbone="new",
    vocabulary_size=300,
    layers=1,
    heads=2,
    hidden=16,
    max_tokens=48,
    max_examples=40,
    optimizer=STEPS,
)


def test_every_stage_is_timed_before_the_first_begins(
    pool_world: StageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genre_tf.training.progress._ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr("genre_tf.training.fitted_weights._FEW", 2)
    data = replace(pool_world, run=tmp_path, validation=pool_world.validation[:25])
    config = replace(data.config, ranking=RankingConfig(optimizer=STEPS), generation=WRITER)
    files = [StageFiles(tmp_path, stage, "") for stage in ("ranking", "generation")]
    said: list[str] = []
    ranking, generation = foretell(files, data, config, said.append, Distribution.one())
    assert (ranking.steps, ranking.validations) == (generation.steps, generation.validations) == (40, 5)
    assert 0 < generation.step_seconds < 1 and ranking.other_seconds > 0
    assert re.match(r"  ranking +40 steps, .* per second, 5 validations of .* s, .*: about \d+ s$", said[1])
    assert said[2].startswith("  generation  40 steps") and "in all, less where a stage stops" in said[3]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("why", ["one stage", "few steps", "XLA"])
def test_nothing_is_timed_where_it_is_not_worth_it(pool_world: StageData, tmp_path: Path, why: str) -> None:
    few = RankingConfig(optimizer=replace(STEPS, steps=20 if why == "few steps" else 40))
    config = replace(pool_world.config, ranking=few)  # whose retrieval has 4 steps
    files = [StageFiles(tmp_path, stage, "") for stage in ("retrieval", "ranking")]
    devices = Distribution(None, fixed_shapes=True) if why == "XLA" else Distribution.one()
    said: list[str] = []
    assert foretell(files[why == "one stage" :], pool_world, config, said.append, devices) == []
    assert not said
