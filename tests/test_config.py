"""Settings: round trip, and errors that name the place."""

import dataclasses

import pytest

from genre_tf.config import (
    GenerationConfig,
    OptimizerConfig,
    RankingConfig,
    RunConfig,
    WritingConfig,
    optimizer_of,
    read_config,
    with_optimizer,
    write_config,
)
from genre_tf.errors import InputError


def test_settings_survive_a_file(tmp_path):
    optimizer = OptimizerConfig(optimizer="sgd", epochs=9)
    writing = WritingConfig(strategy="beam", forbidden_words=("one", "two words"))
    config = RunConfig(
        seed=3,
        ranking=RankingConfig(optimizer=optimizer, position_propensities=(1.0, 0.5, 0.25)),
        generation=GenerationConfig(writing=writing),
    )
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == config


def test_what_a_file_leaves_out_keeps_the_default_of_its_stage(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[ranking.optimizer]\nepochs = 5\n[generation.optimizer]\nsteps = 700\n")
    found, default = read_config(file), RunConfig()
    assert found.ranking.optimizer == dataclasses.replace(default.ranking.optimizer, epochs=5)
    assert found.generation.optimizer == dataclasses.replace(default.generation.optimizer, steps=700)


def test_a_small_corpus_gets_fewer_steps_and_a_large_one_the_most():
    settings = OptimizerConfig(epochs=12, most_steps=6000)
    assert [settings.steps_of(batches) for batches in (10, 400, 9000)] == [120, 4800, 6000]
    every = [settings.of_epoch(batches).validate_every for batches in (10, 400, 9000)]
    assert every == [10, 400, 1500]  # twelve validations, or four if the training is less than an epoch
    assert dataclasses.replace(settings, steps=1200).of_epoch(9000).validate_every == 300


def test_an_epoch_has_four_validations_and_a_training_at_most_twelve():
    assert OptimizerConfig(epochs=3).of_epoch(40).validate_every == 10
    assert OptimizerConfig(epochs=30).of_epoch(40).validate_every == 100
    assert OptimizerConfig(epochs=30, validate_every=7).of_epoch(40).validate_every == 7


def test_steps_are_updates_of_the_weights():
    assert OptimizerConfig(epochs=3).steps_of(10) == 30
    assert OptimizerConfig(epochs=3, accumulate=4).steps_of(10) == 8
    assert OptimizerConfig(epochs=3, accumulate=4, steps=5).steps_of(10) == 5


def test_a_pretrained_writer_is_adapted_and_not_trained_as_one_from_scratch():
    scratch, pretrained = GenerationConfig(backbone="new"), GenerationConfig(backbone="hf://gpt2")
    assert optimizer_of(scratch) is scratch.optimizer and optimizer_of(pretrained) is pretrained.adaptation
    assert optimizer_of(pretrained).learning_rate < optimizer_of(scratch).learning_rate
    changed = with_optimizer(pretrained, {"steps": 3})
    assert (changed.adaptation.steps, changed.optimizer) == (3, pretrained.optimizer)
    either = with_optimizer(GenerationConfig(), {"steps": 3})
    assert (either.adaptation.steps, either.optimizer.steps) == (3, 3), "auto may become one or the other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead = 1", "unknown key 'sead'"),
        ("[ranking.optimizer]\nepoch = 1", "ranking: optimizer: unknown key 'epoch'"),
        ("seed = 'one'", "seed must be of type int"),
        ("seed = true", "seed must be of type int"),
        ("news = 1", "news must be a table"),
        ("seed = ", "cannot be read as TOML"),
        ("[ranking]\nobjective = 'hinge'", "objective must be one of click, softmax, click"),
        ("[ranking]\nlabel_smoothing = 1", "ranking.label_smoothing must be between 0 and 0.99; got 1"),
        ("[ranking]\nposition_propensities = [1.0, 0.0]", "propensities must be between 0.001 and 1; got 0"),
        ("[generation]\ncontext_weight = 1", "generation.context_weight must be between 0 and 0.99; got 1"),
        (
            "[generation.writing]\nstrategy = 'best'",
            "writing: strategy must be one of sample, greedy, beam; got 'best'",
        ),
        ("[generation.writing]\ntop_p = 0.0", "generation.writing.top_p must be between 0.01 and 1; got 0"),
        ("[generation.writing]\nsamples = 0", "generation.writing.samples must be between 1 and 64; got 0"),
        ("[generation.writing]\ntop_q = 1", "generation: writing: unknown key 'top_q'"),
        (
            "[generation.writing]\nstrategy = 'beam'\nbeam_width = 3",
            r"beam_width must be at least samples \(8\) and a multiple of beam_groups \(1\); got 3",
        ),
        ("[generation.writing]\nstrategy = 'beam'\ndraft_tokens = 2", "must be 0 for strategy beam; got 2"),
        ("[generation.writing]\nforbidden_words = [' ']", "forbidden_words holds an empty word"),
        (
            "[generation.writing]\nforbidden_words = ['ai']\nrequired_words = ['AI']",
            "both requires and forbids 'AI'",
        ),
        ("[generation.tasks]\nbody = -1", "generation.tasks.body must be at least 0; got -1"),
        ("[news]\nprecision = 'float8'", "precision must be one of float32, .*; got 'float8'"),
        ("[data]\nmax_history = 0", "data.max_history must be at least 1; got 0"),
        ("[news]\ncategory_dimension = 0", "news.category_dimension must be at least 1; got 0"),
        ("[news]\ndropout = 1.0", "news.dropout must be between 0 and 0.9; got 1"),
        ("[retrieval]\nheads = 0", "retrieval.heads must be at least 1; got 0"),
        ("[retrieval]\ndimension = -1", "retrieval.dimension must be at least 0; got -1"),
        ("[retrieval]\npool_negatives = 0", "retrieval.pool_negatives must be at least 1; got 0"),
        ("[retrieval]\nmost_clicks = 0", "retrieval.most_clicks must be at least 1; got 0"),
        ("[retrieval]\ntemperature = 0.1", "retrieval: unknown key 'temperature'"),
        ("[ranking.optimizer]\nbatch_size = 0", "optimizer.batch_size must be at least 1; got 0"),
        ("[ranking.optimizer]\naccumulate = 0", "optimizer.accumulate must be at least 1; got 0"),
        ("[ranking.optimizer]\nsteps_per_execution = 0", "optimizer.steps_per_execution must be at least 1"),
        ("[ranking.optimizer]\nlearning_rate = -1", "optimizer.learning_rate must be at least 0"),
        ("[ranking.optimizer]\nmomentum = nan", "optimizer.momentum must be between 0 and 1; got nan"),
        ("[generation]\nlayers = 0", "generation.layers must be at least 1; got 0"),
        ("[continual]\nreplay_share = 1", "continual.replay_share must be between 0 and 0.99; got 1"),
        ("[ranking]\nposition_propensities = 0.5", "position_propensities must be a list; got 0.5"),
        ("[ranking]\nposition_propensities = ['a']", "position_propensities must be of type float"),
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


def test_a_run_of_an_earlier_version_is_to_be_trained_again(tmp_path):
    (tmp_path / "config.toml").write_text("[generation]\nprefix_tokens = 4\n")
    with pytest.raises(InputError, match=r"unknown key 'prefix_tokens'; .* trained this run, train it again"):
        read_config(tmp_path / "config.toml")
