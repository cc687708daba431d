"""Training of the two towers: each click against the pool of its moment."""

import keras
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.moment_pool import draw_from_pool
from genre_tf.errors import InputError
from genre_tf.losses.clicks import sampled_softmax_loss
from genre_tf.models.checkpoint import two_tower_of
from genre_tf.models.two_tower import DRAWN
from genre_tf.training.click_training import Validation, click_training
from genre_tf.training.distribution import Distribution
from genre_tf.training.fitted_weights import start_towers
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Report
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles


class RetrievalTrainer(Learner):
    """Sampled softmax over the pool of the moment of each click.

    The candidates of a row are a click, some articles shown with it and some of the rest of the pool, each
    with its counters at that moment. The log of the probability that a candidate was drawn is subtracted from
    its logit (logQ): a candidate drawn with probability 1/50 stands for 50 articles of the pool.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019;
    Bengio and Senécal, "Adaptive Importance Sampling", 2008.
    """

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []; with several replicas this replica's share.

        If the batch has weights from signals, each row is weighted by its click.
        """
        logits = self.model.corrected(self.model(batch, training=training), batch)
        return sampled_softmax_loss(logits, batch["labels"], batch["mask"], batch.get("label_weights"))


def ready_retrieval(
    data: StageData, config: RunConfig, files: StageFiles, report: Report, devices: Distribution
) -> Training:
    """The training of new towers, or of the earlier run's."""
    stage = config.retrieval
    examples, probabilities = draw_from_pool(
        data.train,
        data.pool,
        shown=stage.negatives,
        drawn=stage.pool_negatives,
        seed=config.seed,
        most=stage.most_clicks,
    )
    if not examples:
        raise InputError(
            f"{len(data.train)} impressions cannot be used for training: none has a click and another article"
        )
    keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        towers = two_tower_of(data.news_encoder(stage.dimension), config)
        trainer = RetrievalTrainer(towers)

    def start() -> None:
        towers.news.adapt(data.interest)
        start_towers(towers, data, examples, probabilities, config.seed)

    return click_training(
        trainer,
        data,
        config,
        stage.optimizer,
        files,
        devices,
        examples=ImpressionColumns.of(examples),
        columns={DRAWN: probabilities},
        metric="pool_ndcg",
        measure=Validation.retrieval,
        judge=Validation.retrieval_quality,
        start=start,
    )
