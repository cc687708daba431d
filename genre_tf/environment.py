"""Environment variables that must be set before TensorFlow's Keras is first used.

TensorFlow Recommenders is written for Keras 2 and refuses to import unless TF_USE_LEGACY_KERAS=1 was set
before `tf.keras` was first used. `import keras` stays Keras 3, and both live in one process.
"""

import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# What Keras itself uses where no keras.json says otherwise. `backend` is not here: KERAS_BACKEND goes first.
_KERAS_SETTINGS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "nnx_enabled": False,
}
_preferred: set[str] = set()  # variables that this process has set for itself, not its user


def prepare_environment() -> None:
    """Select Keras 3 on TensorFlow for `keras`, and Keras 2 for the `tf.keras` of TensorFlow Recommenders.

    Both compute in float32. Other values in KERAS_BACKEND, TF_USE_LEGACY_KERAS and the user's `keras.json`
    are overridden for this process and those that it starts.

    Raises:
        ImportError: Keras was already imported with another backend or precision, or `tf.keras` was already
            loaded as Keras 3.
    """
    config = getattr(sys.modules.get("keras"), "config", None)
    for name, needed in (("backend", "tensorflow"), ("floatx", "float32")):
        read = getattr(config, name, None)
        if read is not None and read() != needed:
            raise ImportError(
                f"Keras was already imported with {name} {read()!r}, and genre_tf needs {needed!r}: import "
                "genre_tf before keras, or look at KERAS_BACKEND and keras.json"
            )
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    folder = os.environ.get("KERAS_HOME", _home() / ".keras")
    try:
        found = json.loads(Path(folder, "keras.json").read_text("utf-8"))
        agrees = all(found.get(name, value) == value for name, value in _KERAS_SETTINGS.items())
    except FileNotFoundError:
        agrees = True
    except (OSError, ValueError, AttributeError):
        agrees = False
    if not agrees:
        # Keras writes its own keras.json there; if it cannot, it uses the same values.
        cache = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
        os.environ["KERAS_HOME"] = str(Path(cache, "genre_tf", "keras"))
    # TensorFlow puts a lazy loader there (which has no name) and replaces it with the module on first use.
    loaded = getattr(sys.modules.get("tensorflow"), "__dict__", {}).get("keras")
    if str(getattr(loaded, "__dict__", {}).get("__name__", "")).split(".")[0] == "keras":
        raise ImportError(
            "tf.keras was already loaded as Keras 3: import genre_tf before the first use of tf.keras, "
            "or set TF_USE_LEGACY_KERAS=1 before Python starts"
        )


def prefer_onednn() -> None:
    """Turn on oneDNN also on x86 processors where TensorFlow leaves it off, unless the user has set it.

    On AVX2 a step of a small GPT-2 and the encoding of articles take a fifth to a quarter less time with it.
    Call this and `prefer_silence` before TensorFlow is imported.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        _prefer(_ONEDNN, "1")


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products, and TensorFlow uses them (by oneDNN).

    There a large product takes half the time of one in float32 (measured on a Zen 4). Known on Linux only.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return os.environ.get(_ONEDNN) != "0" and any(name in flags for name in ("avx512_bf16", "amx_bf16"))


def import_triton_first() -> None:
    """Import Triton, a part of PyTorch's builds for GPUs, if it is installed and TensorFlow is not imported.

    Imported after TensorFlow, by PyTorch or `transformers`, it crashes the process.
    """
    if "tensorflow" not in sys.modules and importlib.util.find_spec("triton"):
        importlib.import_module("triton")


def prefer_silence() -> None:
    """Hold back messages of TensorFlow's C++ side, which would bury our own, unless the user has set it."""
    _prefer(_LOG_LEVEL, "3")


def _prefer(name: str, value: str) -> None:
    if name not in os.environ:
        os.environ[name] = value
        _preferred.add(name)


def without_preferences() -> dict[str, str]:
    """The environment for other programs: without what `prefer_…` set for this process alone."""
    return {name: value for name, value in os.environ.items() if name not in _preferred}


def _home() -> Path:
    """The home folder as Keras finds it."""
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home fails where there is none)
    return Path(home if os.access(home, os.W_OK) else "/tmp")  # noqa: S108
