"""The three files beside the models that TensorFlow Serving starts from.

`models.config` (ModelServerConfig), `batching.config` (BatchingParameters) and `monitoring.config`
(MonitoringConfig), in protobuf's text format; each number has its reason beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.serving.operations.model_folders import CONFIG_NAME
from genre_tf.serving.operations.models_config import edited, write_atomically
from genre_tf.serving.operations.parameter_files import BatchingParameters, read_batching
from genre_tf.serving.operations.rendering import rendered, verbatim

BATCHING_NAME = "batching.config"
MONITORING_NAME = "monitoring.config"
BATCHING_TEMPLATE = "config/batching.config"
MONITORING_TEMPLATE = "config/monitoring.config"
_KEPT = """\
# Written once: later exports keep this file and your changes. Delete it to have it written again.
"""
_KEPT_BATCHING = (
    _KEPT
    + """\
# The next export or refresh warms up the allowed_batch_sizes; if there are none, 1, 2, 4 and so on up to
# max_batch_size, but at most 32.
"""
)


@dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """How TensorFlow Serving batches requests."""

    # Sizes that warmup covers; the last is the largest batch. On GPUs batches are rounded up to one of them.
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch_timeout_us: int = 0  # TensorFlow Serving's advice for CPUs
    max_enqueued_batches: int = 16  # advice: one per thread; a usual server has 16 cores
    num_batch_threads: int | None = None  # None: number of cores of the serving machine
    gpu: bool = False  # follow TensorFlow Serving's advice for GPUs, not CPUs

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise InputError(f"batch sizes must be positive and increasing; got {sizes}")

    @property
    def parameters(self) -> BatchingParameters:
        """The limits that decide how many requests a server holds."""
        return BatchingParameters(
            max_batch_size=self.batch_sizes[-1],
            max_enqueued_batches=self.max_enqueued_batches,
            num_batch_threads=self.num_batch_threads or 0,
        )


def write_configuration(
    models: Path, names: Sequence[str], batching: BatchingOptions | None = None
) -> list[Path]:
    """Write the three files into a MODELS folder; each appears whole or not at all.

    Models that `models.config` already lists keep their version policy and their labels. `batching.config`
    and `monitoring.config` are written only if they are missing, so changes by people are kept.

    Args:
        models: the folder that contains NAME/VERSION folders.
        names: the models to serve, such as `genre_recommender`.
        batching: sizes and limits of a new `batching.config`.

    Returns:
        The paths of the three files.

    Raises:
        InputError: an existing `models.config` cannot be read.
    """
    with edited(models) as config:
        entries = config.model_config_list.config
        for name in names:
            if name not in {entry.name for entry in entries}:
                entry = entries.add(name=name, model_platform="tensorflow")
                entry.model_version_policy.latest.num_versions = 1
        for entry in entries:
            if entry.name in names:
                entry.base_path = str(models.resolve() / entry.name)
    for name, note, text in (
        (BATCHING_NAME, _KEPT_BATCHING, render_batching(batching or BatchingOptions())),
        (MONITORING_NAME, _KEPT, render_monitoring()),
    ):
        if not (models / name).exists():
            write_atomically(models / name, note + text)
    return [models / name for name in (CONFIG_NAME, BATCHING_NAME, MONITORING_NAME)]


def warmup_sizes(models: Path) -> tuple[int, ...] | None:
    """Batch sizes for warmup to cover, by `batching.config`; None if that file is missing.

    Raises:
        InputError: the file is invalid.
    """
    file = models / BATCHING_NAME
    if not file.is_file():
        return None
    batching = read_batching(file)
    usual = BatchingOptions.batch_sizes
    largest = min(batching.max_batch_size, usual[-1])
    return batching.allowed_batch_sizes or (*(size for size in usual if size < largest), largest)


def render_batching(options: BatchingOptions) -> str:
    """The text of `batching.config`."""
    return rendered(BATCHING_TEMPLATE, options=options)


def render_monitoring() -> str:
    """The text of `monitoring.config`."""
    return verbatim(MONITORING_TEMPLATE)
