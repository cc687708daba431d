"""The house: no file or function too long, imports that run downwards, one place for the environment."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from genre_tf.environment import import_triton_first

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("genre_tf", "export", "serving", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FLOORS = [
    {"cli"},
    {"benchmarks"},
    {"serving"},
    {"export"},
    {"reporting"},
    {"pretraining"},
    {"training"},
    {"explain"},
    {"evaluation"},
    {"funnel"},
    {"synth"},
    {"metrics"},
    {"models"},
    {"generation"},
    {"backbones"},
    {"layers"},
    {"losses"},
    {"text", "data"},
    {"config"},
    {"settings"},
    {"files"},
    {"errors", "environment", "contract", "lazy", "protobuf"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def test_no_file_has_over_500_lines_and_no_function_over_80():
    """Sizes are a smell, not a law: whoever comes here looks twice at what grew."""
    long = [str(path) for path in SOURCES if path.read_text("utf-8").count("\n") > 500]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for path in SOURCES:
        functions = (node for node in ast.walk(_tree(path)) if isinstance(node, kinds))
        long += [f"{path}: {one.name}" for one in functions if (one.end_lineno or 0) - one.lineno >= 80]
    assert not long


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return Path(parts[1]).stem if parts[0] == "genre_tf" else parts[0]


def test_every_slow_file_that_is_listed_is_there():
    files = (ROOT / "tests" / "slow_files.txt").read_text("utf-8").split()
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []


def test_imports_run_downwards():
    upwards = []
    for path in SOURCES:
        room = _room(path)
        for node in ast.walk(_tree(path)) if room in FLOOR else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genre_tf."):
                imported = str(node.module).split(".")[1]
                if imported != room and FLOOR[imported] <= FLOOR[room]:
                    upwards.append(f"{path}: {room} imports {node.module}")
    assert not upwards


def _python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_help_of_every_verb_loads_no_tensorflow():
    code = """
import sys
from typer.testing import CliRunner
from genre_tf.cli import main
for name in main.VERBS:
    main._register(name)
for verb in main.VERBS:
    answer = CliRunner().invoke(main.app, [verb, "--help"])
    assert answer.exit_code == 0 and "Usage" in answer.output, (verb, answer.output)
heavy = [name for name in ("tensorflow", "keras", "transformers", "numpy") if name in sys.modules]
assert "tensorflow" not in heavy and "keras" not in heavy, heavy
"""
    found = _python(code)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_a_loaded_keras_3_behind_tf_keras_is_refused_with_the_remedy():
    code = "import os\nos.environ['TF_USE_LEGACY_KERAS'] = '0'\nimport tensorflow as tf\ntf.keras.layers\n"
    found = _python(code + "os.environ.pop('TF_USE_LEGACY_KERAS')\nimport genre_tf")
    assert found.returncode == 1
    assert "import genre_tf before the first use of tf.keras" in found.stderr


OURS = """
import genre_tf, keras, tensorflow as tf
print(keras.config.backend(), keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon())
print(tf.keras.layers.Layer.__module__.split(".")[0], tf.keras.backend.floatx())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        '{"floatx": "float16", "epsilon": 1e-3, "backend": "jax", "image_data_format": "channels_first"}',
        '{"floatx": "float8"}',
        None,
    ],
)
def test_keras_runs_with_our_backend_and_precision_whatever_the_user_has_set(file, tmp_path, monkeypatch):
    for name, value in (("HOME", str(tmp_path)), ("KERAS_BACKEND", "jax"), ("TF_USE_LEGACY_KERAS", "0")):
        monkeypatch.setenv(name, value)
    for name in ("KERAS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if file is not None:
        (tmp_path / ".keras").mkdir()
        (tmp_path / ".keras" / "keras.json").write_text(file)
    found = _python(OURS)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[:2] == ["tensorflow float32 channels_last 1e-07", "tf_keras float32"]
    assert file is None or (tmp_path / ".keras" / "keras.json").read_text() == file


@pytest.mark.slow
def test_a_keras_that_was_imported_with_another_precision_is_refused_with_the_remedy():
    found = _python("import keras\nkeras.config.set_floatx('float64')\nimport genre_tf")
    assert found.returncode == 1
    assert "already imported with floatx 'float64'" in found.stderr.splitlines()[-1]


def test_a_keras_that_was_imported_with_another_backend_is_refused_with_the_remedy():
    config = "types.SimpleNamespace(backend=lambda: 'jax')"
    code = (
        f"import sys, types\nsys.modules['keras'] = types.SimpleNamespace(config={config})\nimport genre_tf"
    )
    found = _python(code)
    assert found.returncode == 1
    assert "already imported with backend 'jax'" in found.stderr.splitlines()[-1]


def test_triton_is_imported_before_tensorflow_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "triton", None)
    del sys.modules["triton"]
    import_triton_first()
    assert "triton" not in sys.modules, "TensorFlow is imported here already"
    monkeypatch.delitem(sys.modules, "tensorflow")
    import_triton_first()
    assert sys.modules["triton"].__file__ == str(tmp_path / "triton.py")
