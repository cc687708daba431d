"""`genre demo` in a folder of something else; the whole road is run by `test_documents.py`."""

import subprocess
import sys
from pathlib import Path


def _demo(out: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "genre_tf.cli.main",
        "demo",
        str(out),
        "--quick",
        "--news-backbone",
        "tiny",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    found = _demo(tmp_path)
    assert found.returncode == 2 and "not an earlier demo" in found.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
