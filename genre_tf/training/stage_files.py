"""The files of one stage in a run folder, and what they were made from."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.training.observers import Observers, ScalarLog
from genre_tf.training.progress import FitResult, Progress
from genre_tf.training.training_state import load_progress, load_variables, save_state

_STATE_FILE = "unfinished.npz"
_MADE_FROM = "made_from"
_NOT_LEARNED = ("writing", "shown_readers")  # what is done with a writer, and not what it learns


@dataclass(frozen=True)
class StageFiles:
    """Where a stage keeps its best weights, its unfinished state, its logs and what it came to.

    Args:
        run: the run folder.
        stage: "retrieval", "ranking" or "generation".
        made_from: fingerprint of the data and settings; what was made from others is not gone on with.
        start: run whose weights the training starts from; None: it starts from the beginning.
        observers: who else is told of the training.
    """

    run: Path
    stage: str
    made_from: str
    start: Path | None = None
    observers: Observers = Observers()  # noqa: RUF009  (frozen)

    @property
    def folder(self) -> Path:
        """Weights and state."""
        return self.run / self.stage

    @property
    def logs(self) -> Path:
        """TensorBoard logs."""
        return self.run / "logs" / self.stage

    def scalar_log(self, *, resumed: bool) -> ScalarLog | None:
        """What takes the scalars of the training beside TensorBoard."""
        return self.observers.scalar_log(self.run, self.stage, resumed)

    @property
    def weights(self) -> Path:
        """The best weights of the training; where it goes on from a run, nobody uses them before `finish`."""
        return self.trained if self.start is None else self.folder / f"unjudged.{WEIGHTS_FILE}"

    @property
    def trained(self) -> Path:
        """The weights that the other verbs use."""
        return self.folder / WEIGHTS_FILE

    @property
    def new(self) -> Path:
        """Files that belong to weights which are still to come, such as a vocabulary.

        They are moved into `folder` when these weights become `trained`, never before: an earlier training's
        weights keep their own ones.
        """
        return self.folder / "new"

    @property
    def start_weights(self) -> Path | None:
        """Those of the run to start from."""
        return None if self.start is None else self.start / self.stage / WEIGHTS_FILE

    @property
    def unfinished(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.folder / _STATE_FILE).is_file()

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
            if self.start is None:
                self._take_over(part)
            else:
                part.replace(self.weights)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _unwritable(self.weights, error) from None

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
        if self.start is None:  # they are beside the weights already
            shutil.rmtree(self.new, ignore_errors=True)
        return Progress(**found)

    def finished(self) -> FitResult | None:
        """What an earlier training of the same data and settings came to, if its weights are still there."""
        try:
            found = json.loads(self.report.read_text("utf-8"))
            if found.pop(_MADE_FROM, None) != self.made_from or not self.trained.is_file():
                return None
            return FitResult(**found)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def forget(self) -> None:
        """Remove the state and the result of earlier trainings, not the weights."""
        for file in (self.folder / _STATE_FILE, self.report):
            file.unlink(missing_ok=True)

    def finish(self, result: FitResult) -> None:
        """Write what the training came to; its unfinished state is no longer needed then.

        Raises:
            FailureError: the disk is full or may not be written.
        """
        if self.start is not None:
            part = self.folder / f"part.{WEIGHTS_FILE}"
            try:
                # A copy: ended in the midst of this, the training is judged again and not done again.
                shutil.copyfile(self.weights, part)
                self._take_over(part)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise _unwritable(self.trained, error) from None
        self._write_report(result.as_dict())
        (self.folder / _STATE_FILE).unlink(missing_ok=True)
        if self.start is not None:
            self.weights.unlink(missing_ok=True)

    def _take_over(self, part: Path) -> None:
        """Make weights the trained ones, with what belongs to them."""
        if self.new.is_dir():
            # First: ended in the midst of this, there are no weights, and never old ones among new files.
            self.trained.unlink(missing_ok=True)
            for file in sorted(self.new.iterdir()):
                file.replace(self.folder / file.name)
            self.new.rmdir()
        part.replace(self.trained)

    def refuse(self, result: FitResult) -> None:
        """Leave the run without weights of this stage, and write why; the state stays, to be judged again."""
        self.trained.unlink(missing_ok=True)
        self._write_report({**result.as_dict(), "refused": True})

    def _write_report(self, found: dict[str, Any]) -> None:
        self.report.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**found, _MADE_FROM: self.made_from}, indent=2) + "\n"
        self.report.write_text(text, encoding="utf-8")


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain values, shortened to 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def learned_settings(settings: Any) -> dict[str, Any]:
    """Those of a stage that decide what it becomes; how a writer writes, and for whom, is none of them."""
    return {name: value for name, value in asdict(settings).items() if name not in _NOT_LEARNED}


def _unwritable(file: Path, error: OSError) -> FailureError:
    return FailureError(
        f"{file} cannot be written ({error.strerror or error}): make room, then give the same command again"
    )


def _variables(trainer: Any) -> list[Any]:
    """All that the next step depends on, in an order that stays: weights, random states, the optimizer."""
    passing = {id(variable) for variable in trainer.metrics_variables}
    kept = [variable for variable in trainer.variables if id(variable) not in passing]
    return [*kept, *trainer.optimizer.variables]
