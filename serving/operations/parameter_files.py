"""Read `batching.config` and `monitoring.config` as TensorFlow Serving does.

The protobuf messages are not in the tensorflow-serving-api package, so they are defined here.
Sources: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from genre_tf.errors import InputError

_FIELD = descriptor_pb2.FieldDescriptorProto
_PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True, kw_only=True)
class BatchingParameters:
    """How requests are batched; the defaults are TensorFlow Serving's."""

    max_batch_size: int = 1000  # rows; larger requests are refused
    batch_timeout_s: float = 0.0  # how long a batch that is not full waits for more requests
    max_enqueued_batches: int = 10  # batches per signature that wait for a thread; beyond: UNAVAILABLE
    num_batch_threads: int = 0  # batches that run in parallel; 0: one per core
    allowed_batch_sizes: tuple[int, ...] = ()  # batches are padded to one of these; empty: no padding
    pad_variable_length_inputs: bool = False  # pads inner dimensions with the request's first element
    max_execution_batch_size: int = 0  # above 0: larger requests are split into batches of this size

    @property
    def threads(self) -> int:
        """Number of batches that run in parallel."""
        return self.num_batch_threads or os.cpu_count() or 1


def read_batching(file: Path) -> BatchingParameters:
    """Read the BatchingParameters of a file.

    Raises:
        InputError: the file cannot be parsed, or TensorFlow Serving would refuse its values.
    """
    parsed = _read(file, "BatchingParameters")
    given = {
        name: getattr(parsed, name).value
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads")
        if parsed.HasField(name)
    }
    if parsed.HasField("batch_timeout_micros"):
        given["batch_timeout_s"] = parsed.batch_timeout_micros.value / 1e6
    sizes = tuple(parsed.allowed_batch_sizes)
    found = BatchingParameters(
        **given, allowed_batch_sizes=sizes, pad_variable_length_inputs=parsed.pad_variable_length_inputs
    )
    if parsed.enable_large_batch_splitting.value:
        split = parsed.max_execution_batch_size
        size = split.value if parsed.HasField("max_execution_batch_size") else found.max_batch_size
        found = BatchingParameters(**{**found.__dict__, "max_execution_batch_size": size})
    fault = _fault(found, parsed.HasField("num_batch_threads"))
    if fault:
        raise InputError(f"{file}: {fault}")
    return found


def read_prometheus_path(file: Path) -> str | None:
    """Read the path of the metrics page from `monitoring.config`; None if the page is not enabled.

    Raises:
        InputError: the file cannot be parsed, or the path does not begin with a slash.
    """
    wanted = _read(file, "MonitoringConfig").prometheus_config
    if not wanted.enable:
        return None
    path = wanted.path or _PROMETHEUS_PATH
    if not path.startswith("/"):
        raise InputError(f"{file}: prometheus_config.path must begin with a slash; got {path!r}")
    return str(path)


def _fault(parameters: BatchingParameters, threads_given: bool) -> str:
    sizes = parameters.allowed_batch_sizes
    if parameters.max_batch_size < 1 or parameters.max_enqueued_batches < 1:
        return (
            f"max_batch_size and max_enqueued_batches must be at least 1; got {parameters.max_batch_size} "
            f"and {parameters.max_enqueued_batches}"
        )
    if threads_given and parameters.num_batch_threads < 1:
        return f"num_batch_threads must be at least 1; got {parameters.num_batch_threads}"
    if parameters.batch_timeout_s < 0:
        return f"batch_timeout_micros must not be negative; got {parameters.batch_timeout_s * 1e6:.0f}"
    if sizes and (sizes[0] < 1 or list(sizes) != sorted(set(sizes))):
        return f"allowed_batch_sizes must be positive and increasing; got {list(sizes)}"
    if sizes and sizes[-1] != parameters.max_batch_size:
        return (
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
            f"expected {parameters.max_batch_size}"
        )
    if not 0 <= parameters.max_execution_batch_size <= parameters.max_batch_size:
        return (
            f"max_execution_batch_size must be between 0 and max_batch_size ({parameters.max_batch_size}); "
            f"got {parameters.max_execution_batch_size}"
        )
    return ""


def _read(file: Path, name: str) -> Any:
    try:
        return text_format.Parse(file.read_text("utf-8-sig"), _messages()[name]())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be parsed as {name}: {error}") from error


@cache
def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="genre_tf_parameter_files.proto", package="genre_tf.files", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    batching = file.message_type.add(name="BatchingParameters")
    wrapped = {
        1: "max_batch_size",
        2: "batch_timeout_micros",
        3: "max_enqueued_batches",
        4: "num_batch_threads",
        9: "max_execution_batch_size",
    }
    for number, name in wrapped.items():
        _add_message(batching, number, name, ".google.protobuf.Int64Value")
    _add_message(batching, 5, "thread_pool_name", ".google.protobuf.StringValue")
    _add_message(batching, 8, "enable_large_batch_splitting", ".google.protobuf.BoolValue")
    batching.field.add(name="allowed_batch_sizes", number=6, type=_FIELD.TYPE_INT64, label=3)
    batching.field.add(name="pad_variable_length_inputs", number=7, type=_FIELD.TYPE_BOOL, label=1)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=_FIELD.TYPE_BOOL, label=1)
    prometheus.field.add(name="path", number=2, type=_FIELD.TYPE_STRING, label=1)
    monitoring = file.message_type.add(name="MonitoringConfig")
    _add_message(monitoring, 1, "prometheus_config", ".genre_tf.files.PrometheusConfig")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb))
    pool.Add(file)
    names = ("BatchingParameters", "MonitoringConfig")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"genre_tf.files.{name}"))
        for name in names
    }


def _add_message(message: Any, number: int, name: str, kind: str) -> None:
    message.field.add(name=name, number=number, type=_FIELD.TYPE_MESSAGE, type_name=kind, label=1)
