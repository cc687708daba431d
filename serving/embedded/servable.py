"""One version of a model, loaded into a session as TensorFlow Serving does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that TensorFlow Serving links in)
from tensorflow.core.protobuf import config_pb2

from genre_tf.serving.embedded.batching import BatchingRunner, BatchScheduler
from genre_tf.serving.embedded.errors import from_tensorflow, invalid_argument
from genre_tf.serving.embedded.metrics import ServerMetrics

# Clients may filter any set of outputs, and each set needs its own compiled call: limit their number.
_MAX_CALLS = 64


class Servable:
    """A SavedModel with its own graph and session.

    It is loaded through the session, not by `tf.saved_model.load`, so that requests fail or succeed here as
    on TensorFlow Serving: Python functions and trackable objects are not available.

    Args:
        name: name of the model.
        version: number of the version.
        folder: folder of the SavedModel.
        metrics: records the run times.
        scheduler: batches requests; None: every request runs separately.

    Raises:
        Exception: any error of TensorFlow, if the folder does not load.
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
        """Run the graph once; with batching, together with other requests.

        Args:
            feeds: tensor name -> array.
            fetches: tensor names.
            api: API that a successful run is counted for, such as `Predict`.

        Returns:
            One array per fetch; strings are object arrays of bytes.

        Raises:
            ServingError: a tensor has another type than the graph's, or an error of the graph with
                TensorFlow's text.
        """
        for name, value in feeds.items():
            if self._types[name] != value.dtype:
                raise invalid_argument(
                    f"tensor {name} must be {_type_name(self._types[name])}; got {_type_name(value.dtype)}"
                )
        feeds = dict(sorted(feeds.items()))  # one order for all requests of a signature, for `_call`
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
        call = self._call(tuple(feeds), tuple(fetches))
        try:
            return [_array(value) for value in call(*feeds.values())]
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        except UnicodeDecodeError as error:  # an error text that quotes non-UTF-8 bytes of the request
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error

    def _call(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        call = self._calls.get((feeds, fetches))
        if call is None:
            options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
            # The public `run` refuses ranks that TensorFlow Serving accepts, and changes error texts.
            call = self._session._make_callable_from_options(options)
            if len(self._calls) >= _MAX_CALLS:
                self._calls.clear()
            self._calls[feeds, fetches] = call
        return call


def _array(value: Any) -> np.ndarray:
    if isinstance(value, bytes):  # a scalar string; `np.asarray` would cut its trailing zero bytes
        scalar = np.empty((), object)
        scalar[()] = value
        return scalar
    return np.asarray(value)


def _type_name(dtype: np.dtype) -> str:
    return "string" if dtype == np.object_ else dtype.name
