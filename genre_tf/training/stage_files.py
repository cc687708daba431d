"""The files of one stage in a run folder (weights, unfinished state, result), and the lock of the folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from genre_tf.config import RunConfig
from genre_tf.data.prepared import COUNTERS_FILE, file_fingerprint, load_manifest
from genre_tf.data.preparing import OLDER_FOLDER, PREPARED_FOLDER
from genre_tf.errors import FailureError, InputError
from genre_tf.files import hold
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.models.text_model import frozen_parts, save_own_weights
from genre_tf.training.observers import Observers
from genre_tf.training.progress import FitResult, Progress

_FILE = ".lock"


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Lock a run folder, which is created if it is new; the kernel releases it however the process ends.

    If the input is rejected (`InputError`) before any weights or frozen states were written, everything that
    was put into the folder is removed again: a corrected command starts clean. Raises an `InputError` too if
    another process holds the folder, or it cannot be written or locked.
    """
    new, free = not run.exists(), not (run / _FILE).exists()
    file = run / _FILE
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = hold(file, create=True, wait=False)
        if lock is None:
            holder = file.read_bytes()[:32].decode("ascii", "replace").strip() if file.exists() else ""
            raise InputError(
                f"{run} is being trained by process {holder or 'unknown'}; wait for it or give another --run"
            )
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError:
            os.close(lock)
            raise
    except OSError as error:
        raise InputError(
            f"{run} cannot be written or locked ({error.strerror}); give another --run, on a disk that "
            "supports locks"
        ) from None
    try:
        # Listed while we hold the lock, so that no file of another process is taken for ours.
        there = {path.name for path in run.iterdir()} - ({_FILE} if free else set())
        try:
            yield
        except (InputError, OSError):  # a file that cannot be read is wrong input too
            _take_back(run, there, new)
            raise
    finally:
        os.close(lock)


def _take_back(run: Path, there: set[str], new: bool) -> None:
    """Remove what was not there before, unless that would lose work."""
    if any(run.rglob("*.weights.h5")) or any(run.glob("*/*/offsets.npy")):  # offsets.npy: frozen states
        return
    for path in [path for path in run.iterdir() if path.name not in there]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if new:
        with suppress(OSError):  # not empty: something could not be removed
            run.rmdir()


_PROGRESS, _VARIABLE = "progress", "variable_{:05d}"


def save_state(file: Path, variables: Sequence[Any], progress: dict[str, Any]) -> None:
    """Write variables and plain values completely or not at all; until then the previous file stays."""
    arrays: dict[str, Any] = {
        _VARIABLE.format(place): keras.ops.convert_to_numpy(each) for place, each in enumerate(variables)
    }
    arrays[_PROGRESS] = np.frombuffer(json.dumps(progress).encode("utf-8"), np.uint8)
    with _whole(file) as part, part.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path to write to, which then replaces the file.

    Unlike that of `whole_file`, its name is always the same: what a killed training leaves is overwritten.
    """
    part = file.with_name(f"part.{file.name}")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FailureError(
            f"{file} cannot be written ({error.strerror or error}); free some space, then repeat the "
            "command; it resumes from the last saved state"
        ) from None


def load_progress(file: Path) -> dict[str, Any] | None:
    """The saved progress, or None if there is none or it is damaged."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            progress: dict[str, Any] = json.loads(arrays[_PROGRESS].tobytes())
        return progress
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def load_variables(file: Path, variables: Sequence[Any]) -> None:
    """Assign what `save_state` wrote to the same variables; an `InputError` if they are not the same."""
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        shapes = [arrays[name].shape for name in arrays.files if name != _PROGRESS]
        if shapes != [tuple(variable.shape) for variable in variables]:
            raise InputError(f"{file} belongs to another model; delete it to train from the start")
        for place, variable in enumerate(variables):
            variable.assign(arrays[_VARIABLE.format(place)])


def check_room(folder: Path, variables: Sequence[Any]) -> None:
    """Refuse before any work a disk without room for two states (briefly) and the best weights."""
    needed = 0
    for variable in variables:
        kind = np.dtype(keras.backend.standardize_dtype(variable.dtype).replace("bfloat16", "float16"))
        needed += 3 * int(np.prod(variable.shape, dtype=np.int64)) * kind.itemsize
    try:
        probe = folder / ".probe"
        probe.write_bytes(b"\0")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another --run") from None
    if free < needed:
        raise InputError(
            f"{folder} has {free / 2**20:,.0f} MiB free, but this training needs {needed / 2**20:,.0f} MiB; "
            "free some space, or give a --run on another disk"
        )


_STATE_FILE = "unfinished.npz"
_MADE_FROM = "made_from"
_NOT_LEARNED = ("writing", "gate", "shown_readers")  # how a writer is used; does not change what it learns


@dataclass(frozen=True)
class StageFiles:
    """Where a stage keeps its best weights, its unfinished state, its logs and its result.

    A training with another fingerprint `made_from` is not resumed.
    """

    run: Path
    stage: str
    made_from: str  # fingerprint of data and settings
    start: Path | None = None  # run whose weights are the initial weights; None: start from the beginning
    observers: Observers = Observers()  # noqa: RUF009  (frozen)

    @property
    def folder(self) -> Path:
        """The folder of weights and state."""
        return self.run / self.stage

    @property
    def logs(self) -> Path:
        """The folder of TensorBoard logs."""
        return self.run / "logs" / self.stage

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
        """Write a model's weights as the best, completely or not at all."""
        with _whole(self.weights) as part:
            save_own_weights(model, part)
            if self.start is None:
                self._take_new_files()

    def save_state(self, trainer: Any, progress: Progress) -> None:
        """Write the state of an unfinished training."""
        save_state(
            self.folder / _STATE_FILE,
            lasting_variables(trainer),
            {_MADE_FROM: self.made_from, **asdict(progress)},
        )

    def resume(self, trainer: Any) -> Progress | None:
        """Restore a compiled trainer from an unfinished training with the same data and settings.

        If there is none, earlier results and states are deleted: the weights that they describe will be
        overwritten.
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
        """Write the result of the training and delete its unfinished state."""
        if self.start is not None:
            with _whole(self.trained) as part:
                # A copy: if interrupted here, the training is judged again, not repeated.
                shutil.copyfile(self.weights, part)
                self._take_new_files()
        self._write_report(asdict(result))
        (self.folder / _STATE_FILE).unlink(missing_ok=True)
        if self.start is not None:
            self.weights.unlink(missing_ok=True)

    def _take_new_files(self) -> None:
        """Put the files of new weights beside them, just before they become the trained ones."""
        if self.new.is_dir():
            # First: if interrupted here, there are no weights, but never old weights with new files.
            self.trained.unlink(missing_ok=True)
            for file in sorted(self.new.iterdir()):
                file.replace(self.folder / file.name)
            self.new.rmdir()

    def refuse(self, result: FitResult) -> None:
        """Remove the stage's weights from the run and write why; the state stays, to be judged again."""
        self.trained.unlink(missing_ok=True)
        self._write_report({**asdict(result), "refused": True})

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


def lasting_variables(trainer: Any) -> list[Any]:
    """Everything that the next step depends on, in a fixed order: weights, random states, the optimizer, and
    the importance of ranks.
    """
    frozen = (variable for layer in frozen_parts(trainer.model) for variable in layer.variables)
    passing = {id(variable) for variable in (*trainer.model.metrics_variables, *frozen)}
    kept = [variable for variable in trainer.model.variables if id(variable) not in passing]
    budget = trainer.rank_budget
    return [*kept, *trainer.optimizer.variables, *([] if budget is None else budget.variables)]


def start_run(config: RunConfig) -> Path | None:
    """The run that this training continues from, or None."""
    return Path(config.continual.from_run) if config.continual.from_run else None


def counters_of_start(config: RunConfig) -> Path | None:
    """The counters at the end of the earlier run's log."""
    start = start_run(config)
    return None if start is None else start / PREPARED_FOLDER / COUNTERS_FILE


def start_fingerprint(run: Path, config: RunConfig, stage: str) -> list[Any]:
    """What a stage takes from the earlier run (weights and examples); nothing if there is no such run."""
    start = start_run(config)
    if start is None:
        return []
    weights = StageFiles(start, stage, "").trained
    return [
        file_fingerprint(weights) if weights.is_file() else None,
        load_manifest(run / OLDER_FOLDER)["outputs"],
    ]
