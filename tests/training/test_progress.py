"""What the rest of a training takes, and the memory that a step frees."""

import platform
import subprocess
import sys

import pytest

from genre_tf.training.learner import Pace
from genre_tf.training.progress import (
    Estimate,
    Stopwatch,
    duration,
    keep_freed_memory,
    seconds_of,
    validations_left,
)


def test_the_first_call_is_traced_and_does_not_count():
    stopwatch = Stopwatch()
    stopwatch.note(Pace(steps=1, seconds=30.0))
    assert stopwatch.step_seconds is None
    for _ in range(4):
        stopwatch.note(Pace(steps=1, seconds=0.6))
    assert stopwatch.step_seconds is None  # long enough, but only four steps
    stopwatch.note(Pace(steps=2, seconds=1.2))
    assert stopwatch.step_seconds == pytest.approx(0.6)


def test_of_very_slow_steps_one_is_enough():
    stopwatch = Stopwatch()
    for _ in range(2):
        stopwatch.note(Pace(steps=1, seconds=12.0))
    assert stopwatch.step_seconds == pytest.approx(12.0)


def test_an_estimate_counts_steps_validations_and_what_comes_before():
    estimate = Estimate(
        steps=400, step_seconds=0.08, validations=4, validation_seconds=1.5, other_seconds=10.0
    )
    assert estimate.seconds == pytest.approx(48.0)
    assert (
        str(estimate) == "400 steps, 12 per second, 4 validations of 1.5 s, 10 s before and after: about 48 s"
    )


def test_a_time_has_the_unit_that_people_use():
    assert [duration(each) for each in (33.4, 99.0, 420.0, 12_600.0)] == ["33 s", "99 s", "7 min", "3.5 h"]


@pytest.mark.parametrize(("done", "left"), [(0, 4), (3, 4), (4, 3), (11, 2), (12, 1), (13, 0)])
def test_a_validation_comes_every_few_steps_and_at_the_end(done, left):
    assert validations_left(13, done, 4) == left


def test_a_short_call_is_timed_the_second_time():
    calls = []
    seconds_of(lambda: calls.append(1))
    assert len(calls) == 2


_BLOCK = 80_000_000  # bytes; glibc gives such a one back as soon as it is freed

_AGAIN = f"""
import resource
import numpy as np
from genre_tf.training.progress import keep_freed_memory

def faults_of_twenty_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty({_BLOCK}, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults_of_twenty_blocks()
assert keep_freed_memory()
np.empty({_BLOCK}, np.uint8).fill(1)
print(given_back, faults_of_twenty_blocks())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_blocks_that_were_freed_are_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", _AGAIN], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 10


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
