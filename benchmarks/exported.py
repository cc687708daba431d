"""A signature of a SavedModel as a function, run in a session as TensorFlow Serving runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.benchmarks.measuring import threads

Array = npt.NDArray[Any]


class ExportedSignature:
    """One signature, loaded into its own session.

    Args:
        folder: folder of the SavedModel.
        name: name of the signature.
    """

    def __init__(self, folder: Path, name: str) -> None:
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads())
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        signature = loaded.signature_def[name]
        self._inputs, self._outputs = sorted(signature.inputs), sorted(signature.outputs)
        self._call = self._session.make_callable(
            [signature.outputs[output].name for output in self._outputs],
            [signature.inputs[key].name for key in self._inputs],
        )

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Run the signature; returns the outputs by name."""
        values = self._call(*(inputs[name] for name in self._inputs))
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Free the session and the model in it."""
        self._session.close()
