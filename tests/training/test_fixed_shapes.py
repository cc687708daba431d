"""Batches of fixed shape: the same losses, and a step that XLA compiles once, as a TPU asks for it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import (
    DataConfig,
    GenerationConfig,
    NewsConfig,
    RankingConfig,
    RetrievalConfig,
    RunConfig,
)
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.batches import WHOLE, BatchLayout, FixedShape, impression_batches
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.data.learning_texts import TextExample, article_examples
from genre_tf.data.moment_pool import MomentPool, draw_from_pool
from genre_tf.models.checkpoint import news_encoder_of, ranker_of, two_tower_of
from genre_tf.models.new_writer import new_generator
from genre_tf.models.news_encoder import Categories, NewsEncoder
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.training.distribution import Distribution
from genre_tf.training.generation import GenerationTrainer
from genre_tf.training.learner import Learner
from genre_tf.training.ranking import CLICK_WEIGHT, TEACHER, ClickWeights, RankingTrainer
from genre_tf.training.retrieval import DRAWN, RetrievalTrainer

STAGES = ("retrieval", "ranking", "generation")
ROWS = 4
CONFIG = RunConfig(
    data=DataConfig(max_history=3),
    news=NewsConfig(backbone="tiny", trainable="last 1", dropout=0.0, max_title_tokens=10),
    retrieval=RetrievalConfig(heads=2, dimension=16, negatives=2, pool_negatives=3),
    ranking=RankingConfig(counters=True),
    generation=GenerationConfig(
        backbone="new", vocabulary_size=300, layers=1, heads=2, hidden=16, max_tokens=48
    ),
)
OBJECTIVES = "all objectives of ranking"
ALL_OBJECTIVES = RankingConfig(
    objective="softmax", label_smoothing=0.1, popularity_debias=0.5, contrastive=0.1, teacher="another run"
)
TABLE = ArticleTable(
    [
        Article(f"N{n}", "abc"[n % 3], "xy"[n % 2], "late goal wins " * (1 + n % 3), "it was late " * (n % 2))
        for n in range(20)
    ]
)
# Host work and what only the host can do; and what makes shapes depend on values.
NOT_FOR_A_DEVICE = {"PyFunc", "EagerPyFunc", "LookupTableFindV2", "StringJoin", "Where", "Unique", "UniqueV2"}


@pytest.fixture(scope="module")
def backbone() -> NewsEncoder:
    categories = Categories.of(TABLE.categories, TABLE.subcategories)
    return news_encoder_of("tiny", CONFIG.news, categories)


def impressions() -> list[ImpressionExample]:
    random = np.random.default_rng(1)
    found = []
    for number in range(16):
        shown = random.choice(20, random.integers(2, 6), replace=False).astype(np.int32) + 1
        found.append(
            ImpressionExample(
                impression=number,
                user_id="U",
                time_hours=0.0,
                history=random.integers(1, 21, number % 4).astype(np.int32),
                candidates=shown,
                labels=np.eye(len(shown), dtype=np.float32)[number % 2],
                counters=random.integers(0, 9, (len(shown), len(COUNTERS))).astype(np.float32),
                history_weights=np.linspace(0.25, 4, number % 4, dtype=np.float32),
                label_weights=np.linspace(0.5, 2, len(shown), dtype=np.float32),
            )
        )
    return found


def clicks(stage: str, backbone: NewsEncoder) -> tuple[Learner, tf.data.Dataset, tf.data.Dataset]:
    examples, columns = impressions(), {}
    if stage == "retrieval":
        pool = MomentPool(examples, len(TABLE))
        examples, chances = draw_from_pool(examples, pool, shown=2, drawn=3, seed=1, most=99)
        columns = {DRAWN: chances}
    if stage == OBJECTIVES:
        random = np.random.default_rng(2)
        logits = [random.normal(size=(len(each.labels), 2)).astype(np.float32) for each in impressions()]
        columns = {TEACHER: logits, CLICK_WEIGHT: ClickWeights(impressions(), ALL_OBJECTIVES)}
    features = backbone.features(TABLE)

    def batches(layout: BatchLayout) -> tf.data.Dataset:
        options: dict[str, Any] = {"seed": 1, "layout": layout, "columns": columns}
        logs = impression_batches(examples, batch_size=ROWS, max_history=3, **options)
        return features.pipeline(logs, 10 if layout.fixed else None)

    widest = max(len(each.candidates) for each in examples)
    shape = FixedShape.of(ROWS, 3, widest + (stage == "retrieval"), len(TABLE))
    if stage == "retrieval":
        trainer: Learner = RetrievalTrainer(two_tower_of(backbone, CONFIG))
    else:
        trainer = RankingTrainer(ranker_of(backbone, CONFIG), ALL_OBJECTIVES if columns else CONFIG.ranking)
    return trainer, batches(BatchLayout(fixed=shape)), batches(WHOLE)


def texts(folder: Any) -> tuple[Learner, tf.data.Dataset, tf.data.Dataset]:
    parts = new_generator(CONFIG.generation, TABLE, folder)
    clicks = [impression.history for impression in impressions() if len(impression.history)]
    examples = article_examples(TABLE, range(1, 17))
    examples += [TextExample("title", history, "", TABLE.titles[1], 1) for history in clicks]
    examples = examples[: len(examples) // ROWS * ROWS]
    fixed = TextRows(examples, TABLE, parts.prompts).batches(TextBatching(rows=ROWS), seed=2)
    loose = fixed.map(lambda batch: {name: without_padding(name, batch) for name in batch})
    return GenerationTrainer(parts, fixed_shapes=True), fixed, loose


def without_padding(name: str, batch: dict[str, tf.Tensor]) -> tf.Tensor:
    longest = tf.reduce_max(tf.math.count_nonzero(batch["token_ids"], 1))
    return batch[name][:, :longest] if name in ("token_ids", "labels", "label_weight") else batch[name]


@pytest.fixture(scope="module", params=STAGES)
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stage(
    name: str, backbone: NewsEncoder, tmp_path_factory: Any
) -> tuple[Learner, tf.data.Dataset, tf.data.Dataset]:
    keras.utils.set_random_seed(3)
    return texts(tmp_path_factory.mktemp("generation")) if name == "generation" else clicks(name, backbone)


def test_the_loss_does_not_depend_on_the_padding(stage: Any) -> None:
    trainer, fixed, loose = stage
    pairs = list(zip(fixed, loose, strict=True))
    assert len(pairs) >= 3
    for padded, plain in pairs:
        np.testing.assert_allclose(trainer(padded, training=False), trainer(plain, training=False), rtol=2e-5)
    sizes = [name for name in padded if padded[name].shape != plain[name].shape]
    assert sizes, "nothing was padded"


@pytest.fixture(scope="module")
def objectives(backbone: NewsEncoder) -> tuple[Learner, tf.data.Dataset, tf.data.Dataset]:
    return clicks(OBJECTIVES, backbone)


def operations(step: Any, batch: Any) -> set[str]:
    graph = step.get_concrete_function(batch).graph.as_graph_def()
    inner = [node for function in graph.library.function for node in function.node_def]
    return {node.op for node in (*graph.node, *inner)}


def compiled_step(trainer: Learner) -> Any:
    if trainer.optimizer is None:
        trainer.prepare(keras.optimizers.SGD(0.002, global_clipnorm=1.0), jit_compile=True)
    return tf.function(trainer.learn, jit_compile=True, autograph=False)


def test_one_program_serves_every_batch_of_fixed_shape_and_no_other(stage: Any) -> None:
    trainer, fixed, loose = stage
    step = compiled_step(trainer)
    for batch in fixed:
        assert not NOT_FOR_A_DEVICE & operations(step, batch)
    assert step.experimental_get_tracing_count() == 1
    step.get_concrete_function(next(iter(loose)))  # another shape is another program
    assert step.experimental_get_tracing_count() == 2


def test_a_loss_of_selected_tokens_is_seen_to_depend_on_values(tmp_path: Any) -> None:
    trainer, fixed, _ = texts(tmp_path)
    trainer.fixed_shapes = False  # the way that is quicker on CPU and GPU
    loss = tf.function(lambda batch: trainer.loss_of(batch, True), autograph=False)
    assert "Where" in operations(loss, next(iter(fixed)))


@pytest.mark.proof
def test_xla_compiles_the_whole_step_and_it_learns(stage: Any) -> None:
    trainer, fixed, _ = stage
    step, losses = compiled_step(trainer), []
    batch = next(iter(fixed))
    expected = trainer(batch, training=False)
    for _ in range(4):
        loss, _ = step(batch)
        losses.append(float(loss))
    # A writer has dropout.
    np.testing.assert_allclose(losses[0], expected + sum(trainer.model.losses), rtol=5e-3)
    assert losses[-1] < losses[0]
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("ranking", "without"),
    [
        (RankingConfig(), {CLICK_WEIGHT, TEACHER}),
        (RankingConfig(objective="softmax"), {CLICK_WEIGHT, TEACHER}),
        (RankingConfig(objective="click"), {CLICK_WEIGHT, TEACHER}),
        (RankingConfig(label_smoothing=0.2), {CLICK_WEIGHT, TEACHER}),
        (RankingConfig(contrastive=10.0), {CLICK_WEIGHT, TEACHER}),
        (RankingConfig(), {TEACHER}),
        (RankingConfig(distillation_weight=1.0), {CLICK_WEIGHT}),
    ],
)
def test_each_objective_of_the_ranker_is_learned(
    ranking: RankingConfig, without: set[str], backbone: NewsEncoder, objectives: Any
) -> None:
    trainer, losses = RankingTrainer(ranker_of(backbone, CONFIG), ranking), []
    batch = {name: value for name, value in next(iter(objectives[2])).items() if name not in without}
    trainer.prepare(keras.optimizers.SGD(0.0005, global_clipnorm=1.0), jit_compile=False)
    for _ in range(3):
        loss, _ = trainer.learn(batch)
        losses.append(float(loss))
    assert losses[0] > losses[1] > losses[2]


def test_all_objectives_together_do_not_depend_on_the_padding(objectives: Any) -> None:
    trainer, fixed, loose = objectives
    for padded, plain in zip(fixed, loose, strict=True):
        assert padded["articles"].shape != plain["articles"].shape
        np.testing.assert_allclose(trainer(padded, training=False), trainer(plain, training=False), rtol=2e-5)


def test_a_pipeline_whose_shapes_are_not_fixed_is_refused() -> None:
    fixed = tf.data.Dataset.from_tensors({"a": tf.zeros([2, 3]), "b": tf.zeros([2])})
    loose = fixed.map(lambda batch: {**batch, "b": tf.boolean_mask(batch["b"], batch["b"] > 0)})
    distribution = Distribution(tf.distribute.get_strategy(), fixed_shapes=True)
    assert distribution.distribute(lambda layout: fixed) is fixed
    with pytest.raises(ValueError, match="shapes of b are not fixed"):
        distribution.distribute(lambda layout: loose)


def test_bfloat16_towers_give_nearly_the_same_loss(name: str, stage: Any, tmp_path: Any) -> None:
    """What a TPU computes in: set by Keras' policy before the models are made; losses stay float32."""
    losses = {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            keras.utils.set_random_seed(3)
            trainer, batch = _of_policy(name, stage, tmp_path / policy)
            losses[policy] = trainer(batch, training=False)
            assert losses[policy].dtype == tf.float32
            if policy != "float32":  # a test above traces the step of that
                compiled_step(trainer).get_concrete_function(batch)
        finally:
            keras.config.set_dtype_policy("float32")
    assert losses["mixed_bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["mixed_bfloat16"], losses["float32"], rtol=0.02)


def _of_policy(name: str, stage: Any, folder: Path) -> tuple[Learner, dict[str, tf.Tensor]]:
    if name == "generation":  # whose rows are the same under every policy
        parts = new_generator(CONFIG.generation, TABLE, folder)
        return GenerationTrainer(parts, fixed_shapes=True), next(iter(stage[1]))
    categories = Categories.of(TABLE.categories, TABLE.subcategories)
    towers, fixed, _ = clicks(name, news_encoder_of("tiny", CONFIG.news, categories))
    return towers, next(iter(fixed))
