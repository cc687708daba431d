"""Ctrl-C ends any verb with a word and the exit status that shells expect."""

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
