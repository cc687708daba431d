"""What observes a training besides TensorBoard's logs. Nothing here changes what is learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ScalarLog(Protocol):
    """Receives the scalars that TensorBoard gets."""

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Receive the scalars of a step; `part` is "train" or "validation"."""

    def close(self) -> None:
        """The training ended or was stopped."""


@dataclass(frozen=True, kw_only=True)
class Observers:
    """The observers of a training.

    Attributes:
        wandb: Weights & Biases project, in which each stage becomes one run; None: not used.
        profile: first and last step to trace for TensorBoard's Profile tab; None: no trace.
    """

    wandb: str | None = None
    profile: tuple[int, int] | None = None

    def scalar_log(self, run: Path, stage: str, resumed: bool) -> ScalarLog | None:
        """The receiver of a stage's scalars.

        Args:
            run: the run folder.
            stage: its name.
            resumed: whether an earlier training is resumed.
        """
        if self.wandb is None:
            return None
        # Imported here: it is optional and takes a second to import.
        from genre_tf.training.weights_and_biases import WeightsAndBiases

        return WeightsAndBiases(self.wandb, run, stage, resumed)
