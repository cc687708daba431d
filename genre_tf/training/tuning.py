"""Hyper-parameter search: Bayesian optimisation by keras-tuner over named settings of a stage."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import tensorflow as tf

from genre_tf.config import Objective, RunConfig, with_optimizer, write_config
from genre_tf.errors import InputError, StoppedError
from genre_tf.training.distribution import Distribution
from genre_tf.training.progress import FitResult, Report
from genre_tf.training.run_folder import STAGES, check_stages, open_run, stage_fingerprints
from genre_tf.training.stage_data import StageData, load_stage_data
from genre_tf.training.stage_files import StageFiles, fingerprint, run_lock

FOLDER = "tuning"
_STAGE, _OPTIMIZER, _NEWS = "stage", "optimizer", "news"


@dataclass(frozen=True)
class HyperParameter:
    """A setting that can be searched.

    Attributes:
        place: which settings it belongs to: "stage", "optimizer" or "news".
        low: least value.
        high: greatest value.
        log: whether values are drawn evenly on a logarithmic scale.
        choices: the allowed values, instead of a range.
        stages: the stages that have it; empty: all.
    """

    place: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    stages: tuple[str, ...] = ()


HYPER_PARAMETERS: Mapping[str, HyperParameter] = {
    "learning_rate": HyperParameter(_OPTIMIZER, 1e-5, 1e-2, log=True),
    "weight_decay": HyperParameter(_OPTIMIZER, 1e-4, 0.3, log=True),
    "warmup_share": HyperParameter(_OPTIMIZER, 0.0, 0.3),
    "clip_norm": HyperParameter(_OPTIMIZER, 0.1, 10.0, log=True),
    "batch_size": HyperParameter(_OPTIMIZER, choices=(8, 16, 32, 64, 160)),
    "dropout": HyperParameter(_NEWS, 0.0, 0.5, stages=("retrieval", "ranking")),
    "negatives": HyperParameter(_STAGE, choices=(0, 2, 4, 8), stages=("retrieval",)),
    "pool_negatives": HyperParameter(_STAGE, choices=(30, 60, 120), stages=("retrieval",)),
    "dimension": HyperParameter(_STAGE, choices=(64, 128, 256), stages=("retrieval",)),
    "objective": HyperParameter(_STAGE, choices=get_args(Objective), stages=("ranking",)),
    "popularity_debias": HyperParameter(_STAGE, 0.0, 1.0, stages=("ranking",)),
    "label_smoothing": HyperParameter(_STAGE, 0.0, 0.2, stages=("ranking",)),
    "contrastive": HyperParameter(_STAGE, 0.0, 0.5, stages=("ranking",)),
    "prefix_tokens": HyperParameter(_STAGE, choices=(1, 2, 4, 8), stages=("generation",)),
}


@dataclass(frozen=True)
class Tuned:
    """The result of a search.

    Attributes:
        best: settings of the best trial.
        value: its validation metric.
        metric: name of the metric.
        trials: number, settings, metric and weights of every trial, best first.
        file: settings for `genre train --config`.
    """

    best: dict[str, Any]
    value: float
    metric: str
    trials: list[dict[str, Any]]
    file: Path


def known_names(stage: str) -> list[str]:
    """Names of the hyper-parameters that a stage has."""
    return [name for name, each in HYPER_PARAMETERS.items() if not each.stages or stage in each.stages]


def tune(
    stage: str,
    data: Path,
    run: Path,
    config: RunConfig,
    names: Sequence[str],
    trials: int,
    report: Report,
) -> Tuned:
    """Search settings of a stage; the metric is measured on the validation part of the training days.

    Trials share the prepared data and the frozen states of the run folder. An interrupted search resumes
    where it stopped, even inside a trial; a finished one continues if more trials are requested.

    Args:
        stage: "retrieval", "ranking" or "generation" (which needs trained retrieval in the run folder).
        data: a data set with a labelled `train` split.
        run: the run folder; trials and their weights go to its `tuning/STAGE`.
        config: the settings that are not searched.
        names: some of `HYPER_PARAMETERS`.
        trials: total number of trials.
        report: takes a line of progress.

    Raises:
        InputError: a name is unknown, keras-tuner is not installed, or training rejects its input.
        StoppedError: SIGTERM or Ctrl-C; everything was saved.
    """
    _check(stage, names)
    tuner = _keras_tuner()
    check_stages((stage,), run, config)
    with run_lock(run):
        open_run(run, data, config, report)
        stage_data = load_stage_data(run, config, report)
        search = _Search(stage, stage_data, config, tuple(names), trials, report)
        return search.go(tuner)


def _check(stage: str, names: Sequence[str]) -> None:
    known = known_names(stage)
    for name in names:
        if name not in known:
            raise InputError(f"{stage} has no hyper-parameter {name!r}; use one of {', '.join(known)}")
    if not names:
        raise InputError(f"no hyper-parameter given; use some of {', '.join(known)}")


class _Search:
    def __init__(
        self,
        stage: str,
        data: StageData,
        config: RunConfig,
        names: tuple[str, ...],
        trials: int,
        report: Report,
    ) -> None:
        self.stage, self.data, self.config = stage, data, config
        self.names, self.trials, self.report = names, trials, report
        # A different search gets a different folder, because keras-tuner resumes whatever it finds in its
        # folder.
        searched = fingerprint(names, stage_fingerprints(data.run, config)[stage])
        self.folder = data.run / FOLDER / stage / searched[:12]

    def go(self, tuner: Any) -> Tuned:
        space = tuner.HyperParameters()
        for name in self.names:
            _declare(space, name)
        oracle = tuner.oracles.BayesianOptimizationOracle(
            # Every trial is trained completely, so its best value with the right sign is the score.
            objective=tuner.Objective("value", "max"),
            max_trials=self.trials,
            seed=self.config.seed,
            hyperparameters=space,
            allow_new_entries=False,
            tune_new_entries=False,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it resumes; stdout is for results
            search = _tuner_class(tuner, self._train)(oracle, self.folder.parent, self.folder.name)
        oracle.verbose = 0
        try:
            search.search()
        except tuner.errors.FatalError as error:
            raise error.__cause__ or error from None
        return self._result(oracle)

    def _train(self, trial_id: str, values: dict[str, Any]) -> float:
        config = with_values(self.config, self.stage, values)
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
        self.report(f"trial {int(trial_id) + 1} of {self.trials}: {shown}")
        made_from = stage_fingerprints(self.data.run, config)[self.stage]
        files = StageFiles(self.folder / f"run_{trial_id}", self.stage, made_from)
        result = files.finished()
        if result is None:
            data = dataclasses.replace(self.data, config=config)
            training = STAGES[self.stage](data, config, files, self.report, Distribution.one())
            result = training.fit(files, self.report)
            files.finish(result)
        self._log(trial_id, values, result)
        return _sign(result) * result.best

    def _log(self, trial_id: str, values: dict[str, Any], result: FitResult) -> None:
        """For TensorBoard's HParams."""
        from tensorboard.plugins.hparams import api

        logs = self.data.run / "logs" / FOLDER / self.stage / f"{self.folder.name}_{trial_id}"
        writer = tf.summary.create_file_writer(str(logs))
        with writer.as_default(step=result.best_step):
            api.hparams(values, trial_id=f"{self.folder.name}_{trial_id}")
            tf.summary.scalar(f"tuning/{result.metric}", result.best)
        writer.close()

    def _result(self, oracle: Any) -> Tuned:
        found = oracle.get_best_trials(self.trials)
        if not found:
            raise InputError(f"no trial of {self.folder} finished; see its messages above")
        listed = []
        for trial in found:
            files = StageFiles(self.folder / f"run_{trial.trial_id}", self.stage, "")
            came_to = json.loads(files.report.read_text("utf-8"))
            listed.append(
                {
                    "trial": int(trial.trial_id) + 1,
                    "settings": dict(trial.hyperparameters.values),
                    "metric": came_to["metric"],
                    "value": came_to["best"],
                    "weights": str(files.weights),
                }
            )
        best = listed[0]
        file = self.folder / "best.toml"
        write_config(with_values(self.config, self.stage, best["settings"]), file)
        return Tuned(best["settings"], best["value"], best["metric"], listed, file)


def with_values(config: RunConfig, stage: str, values: Mapping[str, Any]) -> RunConfig:
    """The settings with named hyper-parameters of a stage replaced."""
    placed: dict[str, dict[str, Any]] = {_STAGE: {}, _OPTIMIZER: {}, _NEWS: {}}
    for name, value in values.items():
        placed[HYPER_PARAMETERS[name].place][name] = value
    settings = with_optimizer(getattr(config, stage), placed[_OPTIMIZER])
    settings = dataclasses.replace(settings, **placed[_STAGE])
    news = dataclasses.replace(config.news, **placed[_NEWS])
    return dataclasses.replace(config, news=news, **{stage: settings})


def _declare(space: Any, name: str) -> None:
    each = HYPER_PARAMETERS[name]
    if each.choices:
        space.Choice(name, list(each.choices))
    else:
        space.Float(name, each.low, each.high, sampling="log" if each.log else "linear")


def _sign(result: FitResult) -> float:
    return -1.0 if result.metric == "perplexity" else 1.0


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _keras_tuner() -> Any:
    try:
        import keras_tuner
    except ImportError:
        raise InputError("tuning needs keras-tuner; run: pip install 'genre-tf[tune]'") from None
    return keras_tuner


def _tuner_class(tuner: Any, train: Callable[[str, dict[str, Any]], float]) -> Callable[..., Any]:
    """A tuner whose trials are our trainings; keras-tuner is only imported when it is needed."""

    class StageTuner(tuner.engine.base_tuner.BaseTuner):  # type: ignore[misc, name-defined]
        def __init__(self, oracle: Any, folder: Path, name: str) -> None:
            super().__init__(oracle, directory=str(folder), project_name=name, overwrite=False)

        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            try:
                return {"value": train(trial.trial_id, dict(trial.hyperparameters.values))}
            except (InputError, StoppedError) as error:
                # Anything else is a failed trial, which the search can handle.
                raise tuner.errors.FatalError from error

    return StageTuner
