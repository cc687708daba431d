"""Environment variables that must be set before TensorFlow's Keras is first used.

TensorFlow Recommenders is written for Keras 2 and refuses to import unless TF_USE_LEGACY_KERAS=1 was set
before `tf.keras` was first used. `import keras` stays Keras 3, and both live in one process.
"""

import os
import platform
import sys

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_preferred: set[str] = set()  # variables that this process has set for itself, not its user


def prepare_environment() -> None:
    """Select Keras 3 on TensorFlow for `keras`, and Keras 2 for the `tf.keras` of TensorFlow Recommenders.

    Raises:
        ImportError: `tf.keras` was already loaded as Keras 3, or Keras runs on another backend.
    """
    legacy = os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if legacy not in ("1", "true", "True"):
        raise ImportError(
            f"TF_USE_LEGACY_KERAS is {legacy!r}; TensorFlow Recommenders needs 1: unset it and start again"
        )
    if backend != "tensorflow":
        raise ImportError(f"KERAS_BACKEND is {backend!r}; genre_tf needs tensorflow: unset it")
    if _keras_3_behind_tf_keras():
        raise ImportError(
            "tf.keras was already loaded as Keras 3: import genre_tf before the first use of tf.keras, "
            "or set TF_USE_LEGACY_KERAS=1 before Python starts"
        )


def prefer_onednn() -> None:
    """Turn on oneDNN also on x86 processors where TensorFlow leaves it off by default.

    On AVX2 a step of a small GPT-2 and the encoding of articles take a fifth to a quarter less time with it.
    Call this before TensorFlow is imported; an existing TF_ENABLE_ONEDNN_OPTS is kept.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        _prefer(_ONEDNN, "1")


def prefer_silence() -> None:
    """Hold back the messages of TensorFlow's C++ side, which would bury our own.

    Call this before TensorFlow is imported; an existing TF_CPP_MIN_LOG_LEVEL is kept.
    """
    _prefer(_LOG_LEVEL, "3")


def _prefer(name: str, value: str) -> None:
    if name not in os.environ:
        os.environ[name] = value
        _preferred.add(name)


def without_preferences() -> dict[str, str]:
    """The environment for other programs: without what `prefer_…` set for this process alone."""
    return {name: value for name, value in os.environ.items() if name not in _preferred}


def _keras_3_behind_tf_keras() -> bool:
    tensorflow = sys.modules.get("tensorflow")
    # TensorFlow puts a lazy loader there (which has no name) and replaces it with the module on first use.
    loaded = getattr(tensorflow, "__dict__", {}).get("keras")
    name = getattr(loaded, "__dict__", {}).get("__name__", "")
    return str(name).split(".")[0] == "keras"
