"""The three files beside the models that TensorFlow Serving starts from.

`models.config` (ModelServerConfig), `batching.config` (BatchingParameters) and `monitoring.config`
(MonitoringConfig), in protobuf's text format; each number has its reason beside it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from google.protobuf import text_format

from genre_tf.errors import InputError
from genre_tf.export.models_config import CONFIG_NAME, edited, write_atomically
from genre_tf.protobuf import declared

BATCHING_NAME = "batching.config"
MONITORING_NAME = "monitoring.config"
_PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_KEPT = """\
# Written once: later exports keep this file and your changes. Delete it to have it written again.
"""
_WARMED_UP = """\
# The next export or refresh warms up the allowed_batch_sizes; if there are none, 1, 2, 4 and so on up to
# max_batch_size, but at most 32.
"""
USUAL_SIZES = (1, 2, 4, 8, 16, 32)  # batch sizes that warmup covers; the last is the largest batch


@dataclass(frozen=True, kw_only=True)
class BatchingParameters:
    """How requests are batched; the defaults are TensorFlow Serving's.

    Raises:
        InputError: TensorFlow Serving would refuse the values.
    """

    max_batch_size: int = 1000  # rows; larger requests are refused
    batch_timeout_us: int = 0  # how long a batch that is not full waits for more requests
    max_enqueued_batches: int = 10  # batches per signature that wait for a thread; beyond: UNAVAILABLE
    num_batch_threads: int | None = None  # batches that run in parallel; None: one per core
    allowed_batch_sizes: tuple[int, ...] = ()  # batches are padded to one of these; empty: no padding

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if self.max_batch_size < 1 or self.max_enqueued_batches < 1:
            raise InputError(
                f"max_batch_size and max_enqueued_batches must be at least 1; got {self.max_batch_size} and "
                f"{self.max_enqueued_batches}"
            )
        if self.num_batch_threads is not None and self.num_batch_threads < 1:
            raise InputError(f"num_batch_threads must be at least 1; got {self.num_batch_threads}")
        if self.batch_timeout_us < 0:
            raise InputError(f"batch_timeout_micros must not be negative; got {self.batch_timeout_us}")
        if sizes and (sizes[0] < 1 or list(sizes) != sorted(set(sizes))):
            raise InputError(f"allowed_batch_sizes must be positive and increasing; got {list(sizes)}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise InputError(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {self.max_batch_size}"
            )

    @property
    def threads(self) -> int:
        """Number of batches that run in parallel."""
        return self.num_batch_threads or os.cpu_count() or 1


def write_configuration(
    models: Path, names: Sequence[str], max_batch_size: int = USUAL_SIZES[-1]
) -> list[Path]:
    """Write the three files into a MODELS folder; each appears whole or not at all.

    Models that `models.config` already lists keep their version policy and their labels. `batching.config`
    and `monitoring.config` are written only if they are missing, so changes by people are kept.

    Args:
        models: the folder that contains NAME/VERSION folders.
        names: the models to serve, such as `genre_recommender`.
        max_batch_size: largest batch of a new `batching.config`, in rows.

    Returns:
        The paths of the three files.

    Raises:
        InputError: an existing `models.config` cannot be read.
    """
    # TensorFlow Serving's advice: one waiting batch per thread; a usual server has 16 cores.
    batching = BatchingParameters(max_batch_size=max_batch_size, max_enqueued_batches=16)
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
        (BATCHING_NAME, _KEPT + _WARMED_UP, render_batching(batching)),
        (MONITORING_NAME, _KEPT, template(MONITORING_NAME)),
    ):
        if not (models / name).exists():
            write_atomically(models / name, note + text)
    return [models / name for name in (CONFIG_NAME, BATCHING_NAME, MONITORING_NAME)]


def warmup_sizes(models: Path) -> tuple[int, ...] | None:
    """Batch sizes for warmup to cover, by `batching.config`; None if that file is missing."""
    file = models / BATCHING_NAME
    if not file.is_file():
        return None
    batching = read_batching(file)
    largest = min(batching.max_batch_size, USUAL_SIZES[-1])
    return batching.allowed_batch_sizes or (*(size for size in USUAL_SIZES if size < largest), largest)


def template(name: str) -> str:
    """A file of `templates/` as it is."""
    return resources.files("genre_tf.export").joinpath("templates", name).read_text("utf-8")


def render_batching(parameters: BatchingParameters) -> str:
    """The text of `batching.config`: with advice for GPUs if batches are padded to sizes, else for CPUs."""
    text = jinja2.Template(
        template(BATCHING_NAME),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return text.render(batching=parameters)


def read_batching(file: Path) -> BatchingParameters:
    """Read the BatchingParameters of a file.

    Two settings of TensorFlow Serving are not read, because they do not change answers to rows of rank 1:
    `pad_variable_length_inputs`, and the splitting of large requests.
    """
    parsed = _read(file, "BatchingParameters")
    given = {
        name: getattr(parsed, name).value
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads")
        if parsed.HasField(name)
    }
    try:
        return BatchingParameters(
            **given,
            batch_timeout_us=parsed.batch_timeout_micros.value,
            allowed_batch_sizes=tuple(parsed.allowed_batch_sizes),
        )
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def read_prometheus_path(file: Path) -> str | None:
    """Read the path of the metrics page from `monitoring.config`; None if the page is not enabled."""
    wanted = _read(file, "MonitoringConfig").prometheus_config
    if not wanted.enable:
        return None
    path = wanted.path or _PROMETHEUS_PATH
    if not path.startswith("/"):
        raise InputError(f"{file}: prometheus_config.path must begin with a slash; got {path!r}")
    return str(path)


def _read(file: Path, name: str) -> Any:
    try:
        return text_format.Parse(file.read_text("utf-8-sig"), _messages()[name]())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be parsed as {name}: {error}") from error


@cache
def _messages() -> dict[str, Any]:
    """The messages of both files, which are not in the package `tensorflow-serving-api`.

    Sources: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto.
    """
    return declared(
        {
            "Int64Value": {"value": (1, "int64")},
            "BoolValue": {"value": (1, "bool")},
            "StringValue": {"value": (1, "string")},
            "BatchingParameters": {
                "max_batch_size": (1, "Int64Value"),
                "batch_timeout_micros": (2, "Int64Value"),
                "max_enqueued_batches": (3, "Int64Value"),
                "num_batch_threads": (4, "Int64Value"),
                "thread_pool_name": (5, "StringValue"),
                "allowed_batch_sizes": (6, "repeated int64"),
                "pad_variable_length_inputs": (7, "bool"),
                "enable_large_batch_splitting": (8, "BoolValue"),
                "max_execution_batch_size": (9, "Int64Value"),
            },
            "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
            "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
        }
    )
