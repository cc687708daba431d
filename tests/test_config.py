"""Settings: round trip, and errors that name the place."""

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


def test_steps_are_updates_of_the_weights():
    assert OptimizerConfig(epochs=3).steps_of(10) == 30
    assert OptimizerConfig(epochs=3, accumulate=4).steps_of(10) == 8
    assert OptimizerConfig(epochs=3, accumulate=4, steps=5).steps_of(10) == 5


def test_a_pretrained_writer_is_adapted_and_not_trained_as_one_from_scratch():
    scratch, pretrained = GenerationConfig(), GenerationConfig(backbone="hf://gpt2")
    assert optimizer_of(scratch) is scratch.optimizer and optimizer_of(pretrained) is pretrained.adaptation
    assert optimizer_of(pretrained).learning_rate < optimizer_of(scratch).learning_rate
    changed = with_optimizer(pretrained, {"steps": 3})
    assert (changed.adaptation.steps, changed.optimizer) == (3, pretrained.optimizer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead = 1", "unknown key 'sead'"),
        ("[ranking.optimizer]\nepoch = 1", "ranking: optimizer: unknown key 'epoch'"),
        ("seed = 'one'", "seed takes a value of type int"),
        ("seed = true", "seed takes a value of type int"),
        ("news = 1", "news is a table"),
        ("seed = ", "cannot be read as TOML"),
        ("[ranking]\nobjective = 'hinge'", "no ranking.objective 'hinge': use one of click, softmax, click"),
        ("[ranking]\nlabel_smoothing = 1", "ranking.label_smoothing lies within 0 and 0.99, not at 1"),
        ("[ranking]\nposition_propensities = [1.0, 0.0]", "position_propensities lies within 0.001 and 1"),
        ("[generation]\ncontext_weight = 1", "generation.context_weight lies within 0 and 0.99, not at 1"),
        (
            "[generation.writing]\nstrategy = 'best'",
            "writing.strategy 'best': use one of sample, greedy, beam",
        ),
        ("[generation.writing]\ntop_p = 0.0", "generation.writing.top_p lies within 0.01 and 1, not at 0"),
        ("[generation.writing]\nsamples = 0", "generation.writing.samples lies within 1 and 64, not at 0"),
        ("[generation.writing]\ntop_q = 1", "generation: writing: unknown key 'top_q'"),
        (
            "[generation.writing]\nstrategy = 'beam'\nbeam_width = 3",
            r"beam_width is at least samples \(4\) and a multiple of beam_groups \(1\), not 3",
        ),
        ("[generation.writing]\nstrategy = 'beam'\ndraft_tokens = 2", "a beam takes no drafts"),
        ("[generation.writing]\nforbidden_words = [' ']", "forbidden_words holds an empty word"),
        (
            "[generation.writing]\nforbidden_words = ['ai']\nrequired_words = ['AI']",
            "both requires and forbids 'AI'",
        ),
        ("[generation.tasks]\nbody = -1", "generation.tasks.body lies within 0 and inf, not at -1"),
        ("[data]\nmax_history = 0", "data.max_history lies within 1 and inf, not at 0"),
        ("[news]\ncategory_dimension = 0", "news.category_dimension lies within 1 and inf, not at 0"),
        ("[news]\ndropout = 1.0", "news.dropout lies within 0 and 0.9, not at 1"),
        ("[retrieval]\nheads = 0", "retrieval.heads lies within 1 and inf, not at 0"),
        ("[retrieval]\ndimension = -1", "retrieval.dimension lies within 0 and inf, not at -1"),
        ("[retrieval]\npool_negatives = 0", "retrieval.pool_negatives lies within 1 and inf, not at 0"),
        ("[retrieval]\nmost_clicks = 0", "retrieval.most_clicks lies within 1 and inf, not at 0"),
        ("[retrieval]\ntemperature = 0.1", "retrieval: unknown key 'temperature'"),
        ("[ranking.optimizer]\nbatch_size = 0", "optimizer.batch_size lies within 1 and inf, not at 0"),
        ("[ranking.optimizer]\naccumulate = 0", "optimizer.accumulate lies within 1 and inf, not at 0"),
        ("[ranking.optimizer]\nsteps_per_execution = 0", "optimizer.steps_per_execution lies within 1"),
        ("[ranking.optimizer]\nlearning_rate = -1", "optimizer.learning_rate lies within 0 and inf"),
        ("[ranking.optimizer]\nmomentum = nan", "optimizer.momentum lies within 0 and 1, not at nan"),
        ("[generation]\nlayers = 0", "generation.layers lies within 1 and inf, not at 0"),
        ("[continual]\nreplay_share = 1", "continual.replay_share lies within 0 and 0.99, not at 1"),
        ("[ranking]\nposition_propensities = 0.5", "position_propensities takes a list, and 0.5"),
        ("[ranking]\nposition_propensities = ['a']", "position_propensities takes a value of type float"),
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
