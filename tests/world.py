"""What many tests need and is slow to build: built once, kept on disk, shared by workers and later runs."""

import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ROOT / "build" / "test_world"
_CODE = ("genre_tf", "export", "serving")
_KEPT_S = 86_400


@cache
def key() -> str:
    """Changes with the code of the package, the fixtures and the versions of its dependencies."""
    files = [path for room in _CODE for path in (ROOT / room).rglob("*.py")]
    files += [ROOT / "constraints.txt", *(ROOT / "tests").rglob("conftest.py")]
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def built(name: str, build: Callable[[Path], object]) -> Path:
    """A folder that nobody changes.

    Args:
        name: its name.
        build: fills an empty folder; called by the first worker that asks, while the others wait.
    """
    folder = WORLDS / key() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            build(part)
            part.rename(folder)
    return folder


def remove_older() -> None:
    """Delete what other code built, unless it is of today: tests of that code may still be running."""
    for folder in WORLDS.glob("*"):
        if folder.name != key() and time.time() - folder.stat().st_mtime > _KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)
