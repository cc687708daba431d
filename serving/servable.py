"""One version of one model, loaded by session as TensorFlow Serving loads it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that TensorFlow Serving links in)
from tensorflow.core.protobuf import config_pb2

from genre_tf.serving.batching import BatchingRunner, BatchScheduler
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.statuses import from_tensorflow, invalid_argument
from genre_tf.serving.tensors import type_name

# A client may name any set of outputs in its filter; each set costs one compiled call.
_MAX_CALLS = 64


class Servable:
    """A SavedModel in a graph and a session of its own.

    Loading through the session, not `tf.saved_model.load`, is what makes a request here fail or succeed
    as it would on TensorFlow Serving: Python's functions and trackables are not there to help.

    Args:
        name: the model's name.
        version: the version's number.
        folder: its SavedModel.
        metrics: counts the time of its runs.
        scheduler: lets requests share runs; without one each runs by itself.

    Raises:
        Exception: whatever TensorFlow says when the folder does not load.
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
        # tensor name -> NumPy's type, of every input
        self._types = {
            info.name: np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype)
            for signature in self.signatures.values()
            for info in signature.inputs.values()
        }

    def run(self, feeds: dict[str, np.ndarray], fetches: Sequence[str], api: str = "") -> list[np.ndarray]:
        """Run the graph once, together with other requests where there is batching.

        Args:
            feeds: tensor name -> value.
            fetches: tensor names.
            api: the API that a successful run is counted for, as `Predict`; none where empty.

        Returns:
            One array a fetch; strings are object arrays of bytes.

        Raises:
            ServingError: the graph refused, in TensorFlow's own words.
        """
        feeds = dict(sorted(feeds.items()))  # TensorFlow counts its `arg[i]` in this order
        self._check_types(feeds)
        started = time.perf_counter()
        values = (self._batching.run if self._batching else self._run_graph)(feeds, fetches)
        if api:
            elapsed_us = (time.perf_counter() - started) * 1e6
            self._metrics.runtime_latency.add(elapsed_us, self.name, api, "TF1")
        return values

    def _run_graph(self, feeds: dict[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        call = self._call(tuple(feeds), tuple(fetches))
        try:
            return [_array(value) for value in call(*feeds.values())]
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        except UnicodeDecodeError as error:  # the graph refused, and its words quote bytes of the request
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error

    def close(self) -> None:
        """Free the session; requests that still run end first."""
        self._calls.clear()
        self._session.close()

    def _check_types(self, feeds: dict[str, np.ndarray]) -> None:
        for position, (name, value) in enumerate(feeds.items()):
            expected = self._types[name]
            if expected != value.dtype:
                raise invalid_argument(
                    f"Expects arg[{position}] to be {type_name(expected)} "
                    f"but {type_name(value.dtype)} is provided"
                )

    def _call(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Any:
        call = self._calls.get((feeds, fetches))
        if call is None:
            options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
            # The public `run` refuses ranks that TensorFlow Serving accepts and rewrites error texts.
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
