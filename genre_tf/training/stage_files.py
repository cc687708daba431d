"""The files of one stage in a run folder, and a fingerprint of what they were made from."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.models.text_model import frozen_parts, save_own_weights
from genre_tf.training.observers import Observers, ScalarLog
from genre_tf.training.progress import FitResult, Progress
from genre_tf.training.training_state import load_progress, load_variables, save_state

_STATE_FILE = "unfinished.npz"
_MADE_FROM = "made_from"
_NOT_LEARNED = ("writing", "shown_readers")  # how a writer is used; does not change what it learns


@dataclass(frozen=True)
class StageFiles:
    """Where a stage keeps its best weights, its unfinished state, its logs and its result.

    Args:
        run: the run folder.
        stage: "retrieval", "ranking" or "generation".
        made_from: fingerprint of data and settings; a training with another fingerprint is not resumed.
        start: run whose weights are the initial weights; None: start from the beginning.
        observers: further observers of the training.
    """

    run: Path
    stage: str
    made_from: str
    start: Path | None = None
    observers: Observers = Observers()  # noqa: RUF009  (frozen)

    @property
    def folder(self) -> Path:
        """The folder of weights and state."""
        return self.run / self.stage

    @property
    def logs(self) -> Path:
        """The folder of TensorBoard logs."""
        return self.run / "logs" / self.stage

    def scalar_log(self, *, resumed: bool) -> ScalarLog | None:
        """The receiver of the training's scalars besides TensorBoard."""
        return self.observers.scalar_log(self.run, self.stage, resumed)

    @property
    def weights(self) -> Path:
        """The best weights of the training; if it continues from a run, nothing uses them before `finish`."""
        return self.trained if self.start is None else self.folder / f"unjudged.{WEIGHTS_FILE}"

    @property
    def trained(self) -> Path:
        """The weights that the other verbs use."""
        return self.folder / WEIGHTS_FILE

    @property
    def new(self) -> Path:
        """Files that belong to weights which do not exist yet, such as a vocabulary.

        They move into `folder` when these weights become `trained`, not before: until then, the weights of an
        earlier training keep their own files.
        """
        return self.folder / "new"

    @property
    def start_weights(self) -> Path | None:
        """The weights of the run to start from."""
        return None if self.start is None else self.start / self.stage / WEIGHTS_FILE

    @property
    def unfinished(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.folder / _STATE_FILE).is_file()

    @property
    def resumable(self) -> bool:
        """Whether there is a state of a training with the same data and settings."""
        return (load_progress(self.folder / _STATE_FILE) or {}).get(_MADE_FROM) == self.made_from

    @property
    def report(self) -> Path:
        """The result of the training."""
        return self.run / "reports" / f"training-{self.stage}.json"

    def save_best(self, model: Any) -> None:
        """Write a model's weights as the best, completely or not at all.

        Raises:
            FailureError: the disk is full or may not be written.
        """
        part = self.folder / f"part.{WEIGHTS_FILE}"
        try:
            save_own_weights(model, part)
            if self.start is None:
                self._take_over(part)
            else:
                part.replace(self.weights)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _unwritable(self.weights, error) from None

    def save_state(self, trainer: Any, progress: Progress) -> None:
        """Write the state of an unfinished training; raises the same as `save_state`."""
        save_state(
            self.folder / _STATE_FILE,
            lasting_variables(trainer),
            {_MADE_FROM: self.made_from, **asdict(progress)},
        )

    def resume(self, trainer: Any) -> Progress | None:
        """Restore a compiled trainer from an unfinished training with the same data and settings.

        Returns:
            Its progress; None if there is nothing to resume. Then earlier results and states are deleted,
                because the weights that they describe will be overwritten.
        """
        state = self.folder / _STATE_FILE
        found = load_progress(state)
        if found is None or found.pop(_MADE_FROM, None) != self.made_from or not self.weights.is_file():
            self.forget()
            return None
        load_variables(state, lasting_variables(trainer))
        if self.start is None:  # its files are beside the weights already
            shutil.rmtree(self.new, ignore_errors=True)
        return Progress(**found)

    def finished(self) -> FitResult | None:
        """The result of a finished training with the same data and settings, if its weights still exist."""
        try:
            found = json.loads(self.report.read_text("utf-8"))
            if found.pop(_MADE_FROM, None) != self.made_from or not self.trained.is_file():
                return None
            return FitResult.from_dict(found)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def forget(self) -> None:
        """Delete the state and the result of earlier trainings, but not the weights."""
        for file in (self.folder / _STATE_FILE, self.report):
            file.unlink(missing_ok=True)

    def finish(self, result: FitResult) -> None:
        """Write the result of the training and delete its unfinished state.

        Raises:
            FailureError: the disk is full or may not be written.
        """
        if self.start is not None:
            part = self.folder / f"part.{WEIGHTS_FILE}"
            try:
                # A copy: if interrupted here, the training is judged again, not repeated.
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
        """Make these weights the trained ones, together with their files."""
        if self.new.is_dir():
            # First: if interrupted here, there are no weights, but never old weights with new files.
            self.trained.unlink(missing_ok=True)
            for file in sorted(self.new.iterdir()):
                file.replace(self.folder / file.name)
            self.new.rmdir()
        part.replace(self.trained)

    def refuse(self, result: FitResult) -> None:
        """Remove the stage's weights from the run and write why; the state stays, to be judged again."""
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
    """The settings that determine what a stage learns; how and for whom a writer writes is not among them."""
    return {name: value for name, value in asdict(settings).items() if name not in _NOT_LEARNED}


def _unwritable(file: Path, error: OSError) -> FailureError:
    return FailureError(
        f"{file} cannot be written ({error.strerror or error}); free some space, then repeat the command"
    )


def lasting_variables(trainer: Any) -> list[Any]:
    """Everything that the next step depends on, in a fixed order: weights, random states, the optimizer."""
    frozen = (variable for layer in frozen_parts(trainer.model) for variable in layer.variables)
    passing = {id(variable) for variable in (*trainer.model.metrics_variables, *frozen)}
    kept = [variable for variable in trainer.model.variables if id(variable) not in passing]
    return [*kept, *trainer.optimizer.variables]
