"""The three files beside the models that TensorFlow Serving starts from.

`models.config` (ModelServerConfig), `batching.config` (BatchingParameters) and `monitoring.config`
(MonitoringConfig), in protobuf's text format, each number with the reason for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.serving.model_folders import CONFIG_NAME
from genre_tf.serving.models_config import edited, write_atomically

BATCHING_NAME = "batching.config"
MONITORING_NAME = "monitoring.config"

_BATCHING = """\
# How requests of several users share one run of the graph:
#   tensorflow_model_server --enable_batching --batching_parameters_file=THIS
# Advice quoted from tensorflow/serving, tensorflow_serving/batching/README.md, "Performance Tuning".

# "CPU-only: … max_batch_size to a really high value": high enough here that a full batch keeps every
# core busy. A request with more rows than this is refused (400, "Task size … is larger than …").
max_batch_size {{ value: {largest} }}

# Sizes that a batch is rounded up to, so that each has run in warmup before a user meets it.
# The last must equal max_batch_size; {warmup_note}
{sizes}

# "CPU-only: batch_timeout_micros to 0. Then experiment with values in the 1-10 millisecond range, while
# keeping in mind that 0 may be the optimal value." At 0 a lone request waits for nobody, and requests
# still meet in a batch while all threads are busy. On a GPU: "typically a few milliseconds".
batch_timeout_micros {{ value: {timeout} }}

# "Online serving: consider setting max_enqueued_batches equal to num_batch_threads to minimize queueing
# delay while keeping it busy." A full queue is answered UNAVAILABLE, which balancers retry elsewhere.
max_enqueued_batches {{ value: {enqueued} }}

{threads}

# Never true: padding fills short rows with the first element of the request's own tensor. Every input
# here is rank 1, one joined string a row, so that nothing needs padding.
pad_variable_length_inputs: false
"""

_THREADS_UNSET = """\
# num_batch_threads is left out: it is then the number of cores of the machine that serves, which is also
# the advice ("num_batch_threads equal to the number of CPU cores")."""
_THREADS_SET = """\
# "num_batch_threads equal to the number of CPU cores."
num_batch_threads {{ value: {threads} }}"""

MONITORING = """\
# Prometheus metrics at the REST port: tensorflow_model_server --monitoring_config_file=THIS
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


@dataclass(frozen=True, kw_only=True)
class BatchingOptions:
    """How TensorFlow Serving batches."""

    allowed_batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # a doubling wastes at most half of a batch
    batch_timeout_us: int = 0  # TensorFlow Serving's advice for CPUs
    max_enqueued_batches: int = 16  # as many as threads is the advice; 16 cores is a usual server
    num_batch_threads: int | None = None  # None: the cores of the machine that serves

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise InputError(f"allowed batch sizes must be positive and increasing: received {sizes}")


def write_configuration(
    models: Path, names: Sequence[str], batching: BatchingOptions | None = None
) -> list[Path]:
    """Write the three files into a MODELS folder; each appears whole or not at all.

    Models that `models.config` already lists keep their version policy and their labels.

    Args:
        models: the folder that holds NAME/VERSION folders.
        names: the models to serve, as `genre_recommender`.
        batching: sizes and limits.

    Returns:
        The files.

    Raises:
        InputError: a `models.config` is there already and cannot be read.
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
    write_atomically(models / BATCHING_NAME, render_batching(batching or BatchingOptions()))
    write_atomically(models / MONITORING_NAME, MONITORING)
    return [models / name for name in (CONFIG_NAME, BATCHING_NAME, MONITORING_NAME)]


def render_batching(options: BatchingOptions) -> str:
    """The text of `batching.config`."""
    threads = options.num_batch_threads
    return _BATCHING.format(
        largest=options.allowed_batch_sizes[-1],
        sizes="\n".join(f"allowed_batch_sizes: {size}" for size in options.allowed_batch_sizes),
        warmup_note="`genre export` writes a warmup request for each.",
        timeout=options.batch_timeout_us,
        enqueued=options.max_enqueued_batches,
        threads=_THREADS_UNSET if threads is None else _THREADS_SET.format(threads=threads),
    )
