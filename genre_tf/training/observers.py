"""Who is told of a training beside TensorBoard's logs. Nothing here changes what is learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ScalarLog(Protocol):
    """Takes what TensorBoard's scalars get."""

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Take scalars of a step; `part` is "train" or "validation"."""

    def close(self) -> None:
        """The training ended, or stopped."""


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Who is told.

    Attributes:
        wandb: project of Weights & Biases, which gets the scalars of each stage as one run; None: none.
        profile: first and last step that are traced for TensorBoard's Profile tab; None: none.
    """

    wandb: str | None = None
    profile: tuple[int, int] | None = None

    def scalar_log(self, run: Path, stage: str, resumed: bool) -> ScalarLog | None:
        """What takes the scalars of a stage.

        Args:
            run: the run folder.
            stage: its name.
            resumed: whether the training goes on with what was begun before.
        """
        if self.wandb is None:
            return None
        # Here: an extra, and it takes a second to import.
        from genre_tf.training.weights_and_biases import WeightsAndBiases

        return WeightsAndBiases(self.wandb, run, stage, resumed)
