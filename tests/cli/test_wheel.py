"""The package as a wheel, away from its clone: the command line has all that it needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_a_wheel_runs_the_demo_outside_the_clone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # a build leaves files behind, and takes old ones along
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "tests", "*.egg-info"))
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True, timeout=300)
    (wheel,) = tmp_path.glob("genre_tf-*.whl")
    assert not any("benchmarks" in name for name in zipfile.ZipFile(wheel).namelist())
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=300)
    # The wheel comes before the clone that this environment knows.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ask = "import genre_tf.export.exporting as found; print(found.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(site))
    genre = [sys.executable, "-m", "genre_tf.cli.main"]
    demo = subprocess.run(
        [*genre, "demo", "demo", "--quick", "--news-backbone", "tiny"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert demo.returncode == 0, demo.stderr[-2000:]
    assert demo.stdout.count("  recommended ") == 2 and "written for this reader" in demo.stdout
