"""Settings: round trip, and errors that name the place."""

import pytest

from genre_tf.config import OptimizerConfig, RankingConfig, RunConfig, read_config, write_config
from genre_tf.errors import InputError


def test_settings_survive_a_file(tmp_path):
    config = RunConfig(seed=3, ranking=RankingConfig(optimizer=OptimizerConfig(optimizer="sgd", epochs=9)))
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


def test_steps_are_updates_of_the_weights():
    assert OptimizerConfig(epochs=3).steps_of(10) == 30
    assert OptimizerConfig(epochs=3, accumulate=4).steps_of(10) == 8
    assert OptimizerConfig(epochs=3, accumulate=4, steps=5).steps_of(10) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead = 1", "unknown key 'sead'"),
        ("[ranking.optimizer]\nepoch = 1", "ranking: optimizer: unknown key 'epoch'"),
        ("seed = 'one'", "seed takes a value of type int"),
        ("seed = true", "seed takes a value of type int"),
        ("news = 1", "news is a table"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, text, said):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        read_config(file)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no configuration at .*gone\.toml"):
        read_config(tmp_path / "gone.toml")
