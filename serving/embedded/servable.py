"""One version of a model, loaded into a session as TensorFlow Serving does, and the APIs that it answers.

Checks and codes are TensorFlow Serving's, and so are batches: requests that share runs of the graph, by the
rules of its batching session. There a thread pool runs them; here the request that opened a batch runs it, so
that a lone request needs no hand-over between threads. As many batches run at once.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that TensorFlow Serving links in)
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2, regression_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.export.server_config import BatchingParameters
from genre_tf.serving.client.messages import to_array, write_proto
from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.metrics import ServerMetrics

Feeds = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray], Sequence[str]], list[np.ndarray]]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Clients may filter any set of outputs, and each set needs its own compiled call: limit their number.
_MAX_CALLS = 64


class BatchScheduler:
    """Shared by the batches of all versions: the parameters, and the limit of batches that run at once."""

    def __init__(self, parameters: BatchingParameters, metrics: ServerMetrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self.threads = threading.Semaphore(parameters.threads)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together; the request that opened the batch runs it."""

    tasks: list[Feeds] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)  # arrival time of each request (time.perf_counter)
    ends: list[int] = field(default_factory=list)  # row of the batch behind those of each request
    rows: int = 0
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[list[np.ndarray]] = field(default_factory=list)
    error: BaseException | None = None


class BatchingRunner:
    """Runs the requests of one version in batches.

    Requests of one kind share batches: the same tensors, types, inner shapes and fetches. (TensorFlow Serving
    lets requests with other inner shapes share a batch, in which both then fail.)
    """

    def __init__(self, scheduler: BatchScheduler, run: Run) -> None:
        self._scheduler = scheduler
        self._parameters = scheduler.parameters
        self._metrics = scheduler.metrics
        self._run = run
        self._waiting: dict[object, list[_Batch]] = {}  # kind -> batches that wait; only the last is open
        self._lock = threading.Lock()

    def run(self, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray]:
        """Run a request (name -> value [rows, …]) together with others; one array per fetch, [rows, …].

        Raises:
            ServingError: the request cannot be batched, too many batches wait, or the graph rejected the
                batch; then every request in the batch gets the same error, as in TensorFlow Serving.
        """
        lengths = {len(value) if value.ndim else None for value in feeds.values()}
        rows = lengths.pop() if len(lengths) == 1 else None
        if rows is None:
            raise invalid_argument(
                "with batching, the inputs must have one row for each row of the request; their shapes are "
                f"{[list(value.shape) for value in feeds.values()]}"
            )
        self._metrics.input_rows.observe(rows)
        if rows > self._parameters.max_batch_size:
            raise invalid_argument(
                f"the request has {rows} rows, more than max_batch_size {self._parameters.max_batch_size}"
            )
        if rows == 0:  # TensorFlow Serving's scheduler would never run an empty batch
            return self._run(dict(feeds), fetches)
        kind = (tuple((name, v.dtype.str, v.shape[1:]) for name, v in feeds.items()), tuple(fetches))
        with self._lock:
            batch = self._joined(kind, rows)
            place = len(batch.tasks)
            batch.tasks.append(feeds)
            batch.opened.append(time.perf_counter())
            batch.rows += rows
            batch.ends.append(batch.rows)
            if batch.rows == self._parameters.max_batch_size:
                batch.full.set()
        if place == 0:
            self._lead(kind, batch, fetches)
        batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.answers[place]

    def _joined(self, kind: object, rows: int) -> _Batch:
        """The open batch if the rows fit into it, otherwise a new one."""
        waiting, most = self._waiting.get(kind, []), self._parameters.max_enqueued_batches
        if waiting and waiting[-1].rows + rows <= self._parameters.max_batch_size:
            return waiting[-1]
        if len(waiting) >= most:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"the batch scheduling queue is full: {len(waiting)} batches wait, at most {most} may",
            )
        if waiting:
            waiting[-1].full.set()
        self._waiting[kind] = [*waiting, _Batch()]
        return self._waiting[kind][-1]

    def _lead(self, kind: object, batch: _Batch, fetches: Sequence[str]) -> None:
        try:
            if self._parameters.batch_timeout_us:
                batch.full.wait(self._parameters.batch_timeout_us / 1e6)
            with self._scheduler.threads:
                with self._lock:  # from now on no request can join
                    self._waiting[kind].remove(batch)
                    if not self._waiting[kind]:
                        del self._waiting[kind]
                now = time.perf_counter()
                for opened in batch.opened:
                    self._metrics.queuing_latency.labels("").observe((now - opened) * 1e6)
                self._run_batch(batch, fetches)
        except BaseException as error:
            batch.error = error
        finally:
            batch.done.set()

    def _run_batch(self, batch: _Batch, fetches: Sequence[str]) -> None:
        rows, tasks = batch.rows, batch.tasks
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        self._metrics.padding_rows.labels(str(size)).observe(size - rows)
        self._metrics.batch_rows.observe(size)
        self._metrics.batches.inc()
        feeds = dict(tasks[0])
        if len(tasks) > 1 or size > rows:  # padding repeats the first row of the last request
            for name in feeds:
                padding = np.repeat(tasks[-1][name][:1], size - rows, axis=0)
                feeds[name] = np.concatenate([*(task[name] for task in tasks), padding])
        values = self._run(feeds, fetches)
        if any(value.ndim == 0 or len(value) != size for value in values):
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "an output does not have one row for each row of the batch: this signature cannot be batched",
            )
        places = zip([0, *batch.ends], batch.ends, strict=False)
        batch.answers = [[value[start:end] for value in values] for start, end in places]


class Servable:
    """A SavedModel with its own graph and session.

    It is loaded through the session, not by `tf.saved_model.load`, so that requests fail or succeed here as
    on TensorFlow Serving: Python functions and trackable objects are not available. Without a scheduler every
    request runs separately.
    """

    def __init__(
        self,
        name: str,
        version: int,
        folder: Path,
        metrics: ServerMetrics | None = None,
        scheduler: BatchScheduler | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._metrics = metrics or ServerMetrics()
        self._batching = BatchingRunner(scheduler, self._run_graph) if scheduler else None
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self._calls: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        except Exception:
            self._session.close()
            raise
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        # tensor name -> NumPy dtype, for every input
        self._types = {
            info.name: np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype)
            for signature in self.signatures.values()
            for info in signature.inputs.values()
        }

    def run(self, feeds: dict[str, np.ndarray], fetches: Sequence[str], api: str) -> list[np.ndarray]:
        """Run the graph once, or with batching together with other requests; `api` is counted.

        Feeds are arrays by tensor name, strings object arrays of bytes; each fetch is an array.
        """
        for name, value in feeds.items():
            if self._types[name] != value.dtype:
                raise invalid_argument(
                    f"tensor {name} must be {_type_name(self._types[name])}; got {_type_name(value.dtype)}"
                )
        feeds = dict(sorted(feeds.items()))  # one order for all requests of a signature, for `_run_graph`
        started = time.perf_counter()
        values = (self._batching.run if self._batching else self._run_graph)(feeds, fetches)
        elapsed_us = (time.perf_counter() - started) * 1e6
        self._metrics.runtime_latency.labels(self.name, api, "TF1").observe(elapsed_us)
        return values

    def close(self) -> None:
        """Close the session; running requests finish first."""
        self._calls.clear()
        self._session.close()

    def _run_graph(self, feeds: dict[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        kind = tuple(feeds), tuple(fetches)
        call = self._calls.get(kind)
        if call is None:
            options = config_pb2.CallableOptions(feed=kind[0], fetch=kind[1])
            # The public `run` refuses ranks that TensorFlow Serving accepts, and changes error texts.
            call = self._session._make_callable_from_options(options)
            if len(self._calls) >= _MAX_CALLS:
                self._calls.clear()
            self._calls[kind] = call
        try:
            values = call(*feeds.values())
        except tf.errors.OpError as error:
            code = _CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
            raise ServingError(code, error.message) from error
        except UnicodeDecodeError as error:  # an error text that quotes non-UTF-8 bytes of the request
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error
        # A scalar string is `bytes`; without the type NumPy would cut its trailing zero bytes.
        return [
            np.array(value, object) if isinstance(value, bytes) else np.asarray(value) for value in values
        ]


def _type_name(dtype: np.dtype) -> str:
    return "string" if dtype == np.object_ else dtype.name


def answer_predict(servable: Servable, request: Any) -> Any:
    """Answer a PredictRequest with a PredictResponse."""
    missing = grpc.StatusCode.FAILED_PRECONDITION
    name, signature = find_signature(servable, request.model_spec.signature_name, missing)
    inputs = {given: _read(given, proto) for given, proto in request.inputs.items()}
    outputs = predict(servable, signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    _write_spec(response.model_spec, servable, name)
    for output, value in outputs.items():
        write_proto(value, response.outputs[output])
    return response


def predict(
    servable: Servable, signature: Any, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run one of the servable's SignatureDefs: input name -> array in, output name -> array out.

    A missing input has the signature's default, if there is one. An empty filter asks for all outputs.
    """
    inputs = {name: _read(name, proto) for name, proto in signature.defaults.items()} | dict(inputs)
    if inputs.keys() != signature.inputs.keys():
        raise invalid_argument(
            f"the inputs of this signature are {_names(signature.inputs)}; got {_names(inputs)}"
        )
    if len(set(output_filter)) < len(output_filter) or not set(output_filter) <= set(signature.outputs):
        raise invalid_argument(
            f"output_filter must name outputs of {_names(signature.outputs)}, each once; got {output_filter}"
        )
    wanted = list(output_filter) or sorted(signature.outputs)
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    values = servable.run(feeds, [signature.outputs[name].name for name in wanted], "Predict")
    return dict(zip(wanted, values, strict=True))


def answer_regress(servable: Servable, request: Any) -> Any:
    """Answer a RegressionRequest with a RegressionResponse: one number for each tf.Example."""
    name, signature = find_signature(servable, request.model_spec.signature_name)
    if list(signature.inputs) != ["inputs"] or list(signature.outputs) != ["outputs"]:
        raise invalid_argument(
            f"a signature of Regress has the input `inputs` and the output `outputs`; {name!r} has "
            f"{_names(signature.inputs)} and {_names(signature.outputs)}"
        )
    given = request.input.example_list_with_context
    context = given.context.SerializeToString()  # part of every example: messages are merged by joining them
    examples = [*given.examples, *request.input.example_list.examples]
    if not examples:
        raise invalid_argument("the request has no examples")
    rows = np.array([context + example.SerializeToString() for example in examples], object)  # [batch]
    feeds = {signature.inputs["inputs"].name: rows}
    (values,) = servable.run(feeds, [signature.outputs["outputs"].name], "Regress")
    if values.shape not in ((len(rows),), (len(rows), 1)) or values.dtype != np.float32:
        raise invalid_argument(
            f"signature {name!r} must answer {len(rows)} examples with as many float32 numbers; it answered "
            f"{values.dtype.name} {list(values.shape)}"
        )
    response = regression_pb2.RegressionResponse()
    _write_spec(response.model_spec, servable, name)
    for value in values.ravel().tolist():
        response.result.regressions.add(value=value)
    return response


def find_signature(
    servable: Servable, name: str, missing: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> tuple[str, Any]:
    """The name and the SignatureDef of a signature, of the default one if the request names none."""
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        text = f"model {servable.name} has no signature {name!r}; it has {_names(servable.signatures)}"
        raise ServingError(missing, text)
    return name, servable.signatures[name]


def _read(name: str, proto: Any) -> np.ndarray:
    try:
        return to_array(proto)
    except ValueError as error:
        raise invalid_argument(f"input {name} is not a valid tensor: {error}") from error


def _write_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
