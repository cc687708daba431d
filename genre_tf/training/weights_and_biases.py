"""Scalars of a training as a Weights & Biases run (the extra `wandb`)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import wandb

from genre_tf.config import read_config

_ID_FILE = "wandb.txt"


class WeightsAndBiases:
    """One stage as one run, in a group named after the run folder.

    With `WANDB_MODE=offline` it stays on this machine, in `RUN/logs/wandb`; `wandb sync` uploads it later.

    Args:
        project: project of the run.
        run: the run folder, which holds the settings.
        stage: its name.
        resumed: whether to continue the run that an earlier process began.
    """

    def __init__(self, project: str, run: Path, stage: str, resumed: bool) -> None:
        name, id_file = run.resolve().name, run / stage / _ID_FILE
        known = id_file.read_text("utf-8").strip() if resumed and id_file.is_file() else None
        settings = run / "config.toml"
        (run / "logs").mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            group=name,
            name=f"{name} {stage}",
            job_type=stage,
            id=known,
            resume="allow" if known else None,
            dir=str(run / "logs"),
            config=asdict(read_config(settings)) if settings.is_file() else {},
            reinit="finish_previous",
            settings=wandb.Settings(console="off"),
        )
        id_file.write_text(f"{self._run.id}\n", "utf-8")

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Log scalars of a step, under `train/` or `validation/`."""
        self._run.log({f"{part}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Send or write what is left."""
        self._run.finish()
