"""`kill -9` of exporters at random moments: no server ever sees part of a version.

GENRE_KILLS sets how often (6 in an ordinary run, for its few seconds; 50 is what was asked once).
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genre_tf.export.publishing import LOCK_SUFFIX, STAGING_PREFIX, publish, staged, versions

EXPORTER = Path(__file__).with_name("exporter_process.py")
KILLS = int(os.environ.get("GENRE_KILLS", "6"))
LONGEST_LIFE_S = 0.25  # a version takes some 20 ms here, most of it in fsync: several moments of each kind


def fault(version: Path) -> str | None:
    """What is missing of a version that a server could see."""
    try:
        lines = (version / "manifest").read_text().splitlines()
        if not lines or lines[-1] != "end":
            return "manifest cut"
        for line in lines[:-1]:
            name, digest = line.split()
            if hashlib.sha256((version / name).read_bytes()).hexdigest() != digest:
                return f"{name} differs"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    return None


@contextmanager
def watched(servable: Path) -> Iterator[list[str]]:
    """A server's eyes: looks at the folder all the time and checks each version at its first sight."""
    faults: list[str] = []
    over = threading.Event()

    def look() -> None:
        seen: set[int] = set()
        while not over.is_set():
            for version in set(versions(servable)) - seen:
                seen.add(version)
                found = fault(servable / str(version))
                if found:
                    faults.append(f"version {version}: {found}")
            over.wait(0.001)

    eyes = threading.Thread(target=look)
    eyes.start()
    try:
        yield faults
    finally:
        over.set()
        eyes.join()


def start(servable: Path, files: int = 6, size: int = 4096) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(EXPORTER), str(servable), str(files), str(size)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kill(exporter: subprocess.Popen[str]) -> list[int]:
    """End it as nothing can be prepared for; the versions that it had said it published."""
    os.kill(exporter.pid, signal.SIGKILL)
    printed, _ = exporter.communicate()
    return [int(line) for line in printed.splitlines() if line]


def staging(servable: Path) -> list[str]:
    return [entry.name for entry in servable.iterdir() if entry.name.startswith(STAGING_PREFIX)]


@pytest.mark.proof
def test_killed_exporters_show_no_part_of_a_version(tmp_path: Path) -> None:
    servable, moments = tmp_path / "toy", random.Random(11)
    said: list[int] = []
    left = 0
    with watched(servable) as faults:
        for _ in range(KILLS):
            # Two at a time: each gets versions of its own, and leaves the other's work alone.
            exporters = [start(servable), start(servable)]
            said += [int(exporter.stdout.readline()) for exporter in exporters if exporter.stdout]
            for exporter in exporters:
                threading.Event().wait(moments.uniform(0, LONGEST_LIFE_S))
                said += kill(exporter)
            left += sum(not name.endswith(LOCK_SUFFIX) for name in staging(servable))
    assert faults == []
    assert len(said) == len(set(said)) >= 2 * KILLS
    assert set(said) <= set(versions(servable))
    assert [fault(servable / str(version)) for version in versions(servable)] == [None] * len(
        versions(servable)
    )
    assert left > 0, "no kill came in the middle of a version: the test saw nothing"
    with staged(servable) as folder:
        (folder / "saved_model.pb").write_bytes(b"graph")
        publish(folder)
    assert staging(servable) == []


def test_the_eyes_see_a_version_that_is_written_in_place(tmp_path: Path) -> None:
    """The test above can fail: an exporter that writes under the number is caught."""
    servable = tmp_path / "toy"
    with watched(servable) as faults:
        (servable / "1").mkdir(parents=True)
        (servable / "1" / "saved_model.pb").write_bytes(b"graph")
        threading.Event().wait(0.1)
    assert len(faults) == 1 and "manifest is missing" in faults[0]
