"""What a step frees stays with the process, so that the next step does not ask the system again."""

import platform
import subprocess
import sys

import pytest

from genre_tf.training.memory import keep_freed_memory

_BLOCK = 80_000_000  # bytes; glibc gives such a one back as soon as it is freed

_AGAIN = f"""
import resource
import numpy as np
from genre_tf.training.memory import keep_freed_memory

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
