"""Ctrl-C and SIGTERM end any verb with the exit status that shells expect, and with what it opened closed."""

import os
import signal
import time
from contextlib import ExitStack

import pytest


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "where", ["genre_tf.data.checking.check_data", "genre_tf.cli.main._register"], ids=["in a verb", "before"]
)
def test_ctrl_c_is_said(genre, monkeypatch, tmp_path, where):
    monkeypatch.setattr(where, _interrupted)
    ended = genre("check", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "genre: interrupted\n")


def test_sigterm_closes_what_is_open(genre, monkeypatch, tmp_path):
    closed = []

    def ended(*_):
        with ExitStack() as stack:
            stack.callback(lambda: closed.append(signal.getsignal(signal.SIGTERM)))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr("genre_tf.data.checking.check_data", ended)
    before = signal.getsignal(signal.SIGTERM)
    assert genre("check", tmp_path).returncode == 143
    assert closed == [signal.SIG_DFL]  # a second one ends it at once
    assert signal.getsignal(signal.SIGTERM) is before
