"""The files of one stage in a run folder, and what they were made from."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.training.progress import FitResult, Progress
from genre_tf.training.training_state import load_progress, load_variables, save_state

_STATE_FILE = "unfinished.npz"
_MADE_FROM = "made_from"


@dataclass(frozen=True)
class StageFiles:
    """Where a stage keeps its best weights, its unfinished state, its logs and what it came to.

    Args:
        run: the run folder.
        stage: "retrieval", "ranking" or "generation".
        made_from: fingerprint of the data and settings; what was made from others is not gone on with.
    """

    run: Path
    stage: str
    made_from: str

    @property
    def folder(self) -> Path:
        """Weights and state."""
        return self.run / self.stage

    @property
    def logs(self) -> Path:
        """TensorBoard logs."""
        return self.run / "logs" / self.stage

    @property
    def weights(self) -> Path:
        """The best weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def report(self) -> Path:
        """What the training came to."""
        return self.run / "reports" / f"training-{self.stage}.json"

    def save_best(self, model: Any) -> None:
        """Write a model's weights as the best, whole or not at all.

        Raises:
            FailureError: the disk is full or may not be written.
        """
        part = self.folder / f"part.{WEIGHTS_FILE}"
        try:
            model.save_weights(part)
            part.replace(self.weights)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise FailureError(
                f"{self.weights} cannot be written ({error.strerror or error}): make room, then give the "
                "same command again"
            ) from None

    def save_state(self, trainer: Any, progress: Progress) -> None:
        """Write the state of an unfinished training; raises as `save_state` does."""
        save_state(
            self.folder / _STATE_FILE,
            _variables(trainer),
            {_MADE_FROM: self.made_from, **asdict(progress)},
        )

    def resume(self, trainer: Any) -> Progress | None:
        """Bring a compiled trainer to where an unfinished training of the same data and settings stood.

        Returns:
            How far it had come; None where there is nothing to go on with. Then earlier results and states
            are forgotten, for the weights that they tell of are about to be overwritten.
        """
        state = self.folder / _STATE_FILE
        found = load_progress(state)
        if found is None or found.pop(_MADE_FROM, None) != self.made_from or not self.weights.is_file():
            self.forget()
            return None
        load_variables(state, _variables(trainer))
        return Progress(**found)

    def finished(self) -> FitResult | None:
        """What an earlier training of the same data and settings came to, if its weights are still there."""
        try:
            found = json.loads(self.report.read_text("utf-8"))
            if found.pop(_MADE_FROM, None) != self.made_from or not self.weights.is_file():
                return None
            return FitResult(**found)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def forget(self) -> None:
        """Remove the state and the result of earlier trainings, not the weights."""
        for file in (self.folder / _STATE_FILE, self.report):
            file.unlink(missing_ok=True)

    def finish(self, result: FitResult) -> None:
        """Write what the training came to; its unfinished state is no longer needed then."""
        self.report.parent.mkdir(parents=True, exist_ok=True)
        found = {**result.as_dict(), _MADE_FROM: self.made_from}
        self.report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (self.folder / _STATE_FILE).unlink(missing_ok=True)


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain values, shortened to 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _variables(trainer: Any) -> list[Any]:
    """All that the next step depends on, in an order that stays: weights, random states, the optimizer."""
    passing = {id(variable) for variable in trainer.metrics_variables}
    kept = [variable for variable in trainer.variables if id(variable) not in passing]
    return [*kept, *trainer.optimizer.variables]
