"""Hyper-parameter search: Bayesian optimisation by keras-tuner over named settings of a stage."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tensorflow as tf

from genre_tf.config import Objective, RunConfig, with_optimizer, write_config
from genre_tf.errors import InputError, StoppedError
from genre_tf.training.distribution import Distribution
from genre_tf.training.progress import Report
from genre_tf.training.run_folder import STAGES, check_stages, open_run, stage_fingerprints, with_writer
from genre_tf.training.stage_data import StageData, load_stage_data
from genre_tf.training.stage_files import StageFiles, fingerprint, run_lock

FOLDER = "tuning"


@dataclass(frozen=True)
class HyperParameter:
    """A setting that can be searched: a range, or `choices` instead."""

    place: Literal["stage", "optimizer", "news"]  # which settings it belongs to
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # whether values are drawn evenly on a logarithmic scale
    choices: tuple[Any, ...] = ()
    stages: tuple[str, ...] = ()  # the stages that have it; empty: all


HYPER_PARAMETERS: Mapping[str, HyperParameter] = {
    "learning_rate": HyperParameter("optimizer", 1e-5, 1e-2, log=True),
    "weight_decay": HyperParameter("optimizer", 1e-4, 0.3, log=True),
    "warmup_share": HyperParameter("optimizer", 0.0, 0.3),
    "clip_norm": HyperParameter("optimizer", 0.1, 10.0, log=True),
    "batch_size": HyperParameter("optimizer", choices=(8, 16, 32, 64, 160)),
    "dropout": HyperParameter("news", 0.0, 0.5, stages=("retrieval", "ranking")),
    "negatives": HyperParameter("stage", choices=(0, 2, 4, 8), stages=("retrieval",)),
    "pool_negatives": HyperParameter("stage", choices=(30, 60, 120), stages=("retrieval",)),
    "dimension": HyperParameter("stage", choices=(64, 128, 256), stages=("retrieval",)),
    "objective": HyperParameter("stage", choices=get_args(Objective), stages=("ranking",)),
    "popularity_debias": HyperParameter("stage", 0.0, 1.0, stages=("ranking",)),
    "label_smoothing": HyperParameter("stage", 0.0, 0.2, stages=("ranking",)),
    "contrastive": HyperParameter("stage", 0.0, 0.5, stages=("ranking",)),
}


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    best: dict[str, Any]  # settings of the best trial
    value: float  # its validation metric
    metric: str
    trials: list[dict[str, Any]]  # number, settings, metric and weights of every trial, best first
    file: Path  # settings for `genre train --config`


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

    The stage, "retrieval", "ranking" or "generation" (which needs trained retrieval in the run folder), is
    searched over some of `HYPER_PARAMETERS`; the other settings are those of `config`. Trials and their
    weights go to `RUN/tuning/STAGE`.
    """
    known = known_names(stage)
    for name in names:
        if name not in known:
            raise InputError(f"{stage} has no hyper-parameter {name!r}; use one of {', '.join(known)}")
    if not names:
        raise InputError(f"no hyper-parameter given; use some of {', '.join(known)}")
    try:
        import keras_tuner as tuner
    except ImportError:
        raise InputError("tuning needs keras-tuner; run: pip install 'genre-tf[tune]'") from None
    if stage == "generation":
        config = with_writer(data, config, report)
    check_stages((stage,), run, config)
    with run_lock(run):
        open_run(run, data, config, report)
        search = _Search(stage, load_stage_data(run, config, report), config, tuple(names), trials, report)
        space = tuner.HyperParameters()
        for name in names:
            each = HYPER_PARAMETERS[name]
            if each.choices:
                space.Choice(name, list(each.choices))
            else:
                space.Float(name, each.low, each.high, sampling="log" if each.log else "linear")
        oracle = tuner.oracles.BayesianOptimizationOracle(
            # Every trial is trained completely, so its best value with the right sign is the score.
            objective=tuner.Objective("value", "max"),
            max_trials=trials,
            seed=config.seed,
            hyperparameters=space,
            allow_new_entries=False,
            tune_new_entries=False,
        )

        class StageTuner(tuner.engine.base_tuner.BaseTuner):  # type: ignore[misc, name-defined]
            """A tuner whose trials are our trainings."""

            def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
                try:
                    return {"value": search.train(trial.trial_id, dict(trial.hyperparameters.values))}
                except (InputError, StoppedError) as error:
                    # Anything else is a failed trial, which the search can handle.
                    raise tuner.errors.FatalError from error

        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it resumes; stdout is for results
            folder, name = str(search.folder.parent), search.folder.name
            searching = StageTuner(oracle, directory=folder, project_name=name, overwrite=False)
        oracle.verbose = 0
        try:
            searching.search()
        except tuner.errors.FatalError as error:
            raise error.__cause__ or error from None
        return search.result(oracle)


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
        self.stage, self.data, self.config, self.trials, self.report = stage, data, config, trials, report
        # A different search gets a different folder, because keras-tuner resumes whatever it finds in its
        # folder.
        searched = fingerprint(names, stage_fingerprints(data.run, config)[stage])
        self.folder = data.run / FOLDER / stage / searched[:12]

    def train(self, trial_id: str, values: dict[str, Any]) -> float:
        """Train one trial, unless it is trained already; returns its score, the greater the better."""
        from tensorboard.plugins.hparams import api

        config = with_values(self.config, self.stage, values)
        shown = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )
        self.report(f"trial {int(trial_id) + 1} of {self.trials}: {shown}")
        made_from = stage_fingerprints(self.data.run, config)[self.stage]
        files = StageFiles(self.folder / f"run_{trial_id}", self.stage, made_from)
        result = files.finished()
        if result is None:
            data = dataclasses.replace(self.data, config=config)
            training = STAGES[self.stage](data, config, files, self.report, Distribution.one())
            result = training.fit(files, self.report)
            files.finish(result)
        name = f"{self.folder.name}_{trial_id}"
        writer = tf.summary.create_file_writer(str(self.data.run / "logs" / FOLDER / self.stage / name))
        with writer.as_default(step=result.best_step):
            api.hparams(values, trial_id=name)
            tf.summary.scalar(f"tuning/{result.metric}", result.best)
        writer.close()
        return -result.best if result.metric == "perplexity" else result.best

    def result(self, oracle: Any) -> Tuned:
        """The trials of a finished search; the settings of the best one are written."""
        listed = []
        for trial in oracle.get_best_trials(self.trials):
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
        if not listed:
            raise InputError(f"no trial of {self.folder} finished; see its messages above")
        best, file = listed[0], self.folder / "best.toml"
        write_config(with_values(self.config, self.stage, best["settings"]), file)
        return Tuned(best["settings"], best["value"], best["metric"], listed, file)


def with_values(config: RunConfig, stage: str, values: Mapping[str, Any]) -> RunConfig:
    """The settings with named hyper-parameters of a stage replaced."""
    placed: dict[str, dict[str, Any]] = {"stage": {}, "optimizer": {}, "news": {}}
    for name, value in values.items():
        placed[HYPER_PARAMETERS[name].place][name] = value
    settings = with_optimizer(getattr(config, stage), placed["optimizer"])
    settings = dataclasses.replace(settings, **placed["stage"])
    news = dataclasses.replace(config.news, **placed["news"])
    return dataclasses.replace(config, news=news, **{stage: settings})
