"""What the console writes: whole JSON documents in any encoding."""

import io
import json
import sys

import pytest

from genre_tf.cli.console import print_json


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_a_json_document_is_whole_in_any_encoding(encoding, raw, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print_json({"title": "Élan 新闻 🎈"})
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"title": "Élan 新闻 🎈"} and ("新闻" in text) == raw


def test_a_document_may_be_one_line(capsys):
    print_json({"reader": "U1", "words": ["storm"]}, indent=None)
    assert capsys.readouterr().out == '{"reader": "U1", "words": ["storm"]}\n'
