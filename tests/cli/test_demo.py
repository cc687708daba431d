"""`genre demo` in a folder of something else; the whole road is run by `test_documents.py`."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Namespace

import pytest

from genre_tf.cli import demo


def _demo(out: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "genre_tf.cli.main",
        "demo",
        str(out),
        "--quick",
        "--news-backbone",
        "tiny",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    found = _demo(tmp_path)
    assert found.returncode == 2 and "not an earlier demo" in found.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(("installed", "layers"), [("package:some/model.gguf", 3), (None, 2)])
def test_the_demo_adapts_the_pretrained_writer_if_there_is_one(monkeypatch, installed, layers):
    monkeypatch.setattr("genre_tf.backbones.sources.pretrained_writer", lambda: installed)
    settings = demo.demo_config("tiny", 7).generation
    assert (settings.backbone, settings.layers) == ("auto", layers), "the small one has two"
    assert demo.quick_config("tiny", 7).generation.backbone == "new", "quick is quick"


def test_headlines_for_a_reader_are_written_from_an_article_recommended_to_them(capsys):
    asked = []

    class Client:
        def recommend(self, histories):
            return [[Namespace(news_id=each, title=each, score=0.5) for each in ("N2", "N3")]]

        def generate(self, histories, sources, kinds, seeds):
            asked.append((histories, sources, kinds))
            return [[Written(f"{text} from {sources[0]}", 0.25) for text in ("One", "Two", "Three")]]

    titles = {"N1": ("Storm", "It is windy."), "N2": ("Cup", ""), "N3": ("Snow", "It snows.")}
    reader = {"user_id": "U1", "history": ["N1"], "interests": ["weather"]}
    kept = demo._show_reader(Client(), reader, titles, "A source.")
    assert asked == [([["Storm"]], ["It snows."], ["title"]), ([["Storm"]], ["A source."], ["title"])]
    assert (kept["titles"], kept["title"], kept["source"]) == (["Storm"], "Snow", "It snows.")
    assert [text["text"] for text in kept["written"]] == [
        f"{one} from It snows." for one in ("One", "Two", "Three")
    ]
    said = capsys.readouterr().out
    for source in ("It snows.", "A source."):
        assert said.count(f"One from {source}") == said.count(f"Two from {source}") == 1
    assert "Three" not in said, "two of each"


@dataclass
class Written:
    text: str
    interest: float
