"""The command line run inside the test's own process, which has imported TensorFlow already."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable

import pytest

from genre_tf.cli.main import main

Genre = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def genre(monkeypatch: pytest.MonkeyPatch) -> Genre:
    """Runs `genre ARGUMENTS`; gives its exit status and what it wrote, as a process of its own would.

    An error that `main` does not turn into a line or two, or a warning, is raised here.
    """

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = ["genre", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        status, out, err = 0, io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())

    return run
