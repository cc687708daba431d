"""Every command of the documents is run here, in the order of the pages, on a tiny newsroom in one folder.

A block of `sh` or `python` is run unless `<!-- not run: why; tests/that_runs_it.py -->` stands before it.
Commands of `genre` run in this process, `genre serve` beside it, at ports of its own instead of those in
the documents. Blocks of `toml` must be settings or column maps. One that begins with the name of a file is
written, as any block with a file for its `title`.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genre_tf.cli.main import VERBS, _register, app
from genre_tf.config import RunConfig, read_config
from genre_tf.data.layouts.column_map import read_map

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]*) -->\n)?"
    r'```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)```',
    re.DOTALL,
)
_ELSEWHERE = re.compile(r"tests/[\w/]+\.py")
_CLIENTS = ("recommend", "score", "generate", "ask")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `why` it is not run, and the `title`, the file that it is; or None."""

    page: str
    language: str
    code: str
    why: str | None
    title: str | None


def _blocks(file: Path) -> list[Block]:
    return [
        Block(file.name, found["language"], found["code"], found["why"], found["title"])
        for found in _FENCE.finditer(file.read_text("utf-8"))
    ]


def _pages() -> list[Path]:
    """In the order of the navigation, which is the order of reading."""
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    return [DOCS / name for name in named]


def _commands(code: str) -> list[list[str]]:
    found, begun = [], ""
    for line in code.replace("\\\n", " ").split("\n"):
        begun += line + "\n"
        try:
            found.append(shlex.split(begun, comments=True))
        except ValueError:
            continue  # a quotation goes on in the next line
        begun = ""
    assert not begun, f"a quotation is not closed: {begun}"
    return [words for words in found if words]


BLOCKS = [block for page in _pages() for block in _blocks(page)]
README = _blocks(ROOT / "README.md")


def _genre_commands(blocks: list[Block]) -> Iterator[list[str]]:
    for block in blocks:
        if block.language == "sh":
            for words in _commands(block.code):
                if words[0] == "genre":
                    yield words[: words.index("#")] if "#" in words else words


def test_every_page_is_in_the_navigation_and_has_its_commands_found():
    assert {path.name for path in DOCS.rglob("*.md")} == {page.name for page in _pages()}
    assert sum(len(_commands(block.code)) for block in BLOCKS if block.language == "sh") > 40


def test_every_verb_is_in_the_documents():
    assert set(VERBS) - {words[1] for words in _genre_commands(BLOCKS)} == set()


@pytest.mark.parametrize("words", [*_genre_commands(BLOCKS), *_genre_commands(README)], ids=" ".join)
def test_every_documented_verb_and_option_exists(words):
    if words[1].startswith("-"):
        return
    _register(words[1])
    shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "250", "TERM": "dumb"})
    assert shown.exit_code == 0, words
    for word in words[2:]:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word)}[\s,/]", shown.output), word


def test_what_is_not_run_has_a_reason_and_the_tests_it_names_exist():
    for block in BLOCKS:
        if block.why is not None:
            assert len(block.why) > 10, block
            for name in _ELSEWHERE.findall(block.why):
                assert (ROOT / name).is_file(), f"{block.page}: {name}"


def test_settings_in_the_documents_are_settings(tmp_path):
    settings = [block for block in BLOCKS if block.language == "toml"]
    assert len(settings) >= 3
    for block in settings:
        (tmp_path / "some.toml").write_text(block.code, "utf-8")
        if "articles" in tomllib.loads(block.code):
            column_map = read_map(str(tmp_path / "some.toml"))
            assert column_map.splits or column_map.files
        else:
            assert read_config(tmp_path / "some.toml") != RunConfig()


class Reader:
    """Somebody who does what the pages say, in one folder.

    Args:
        genre: runs a command of `genre` in this process.
        folder: to work in.
    """

    def __init__(self, genre, folder: Path) -> None:
        self.genre, self.folder = genre, folder
        self.addresses = {"8500": "8500", "8501": "8501"}
        self.server: subprocess.Popen | None = None
        self.said: dict[str, str] = {}

    def follow(self, block: Block) -> None:
        """Run a block; what it runs must succeed."""
        name = re.match(r"# (\S+\.toml)\n", block.code)
        file = block.title or (name and name[1])
        if file:
            (self.folder / file).parent.mkdir(exist_ok=True)
            (self.folder / file).write_text(block.code, "utf-8")
        elif block.why is None and block.language == "python":
            exec(self._there(block.code), {})
        elif block.why is None and block.language == "sh":
            for words in _commands(block.code):
                self._run(block, words)

    def _run(self, block: Block, words: list[str]) -> None:
        if words[:2] == ["genre", "serve"]:
            self.serve(words[2:])
            return
        if words[0] == "genre":
            if words[1] in _CLIENTS:
                words = [*words, "--address", f"127.0.0.1:{self.addresses['8500']}"]
            done = self.genre(*words[1:])
            self.said[words[1]] = done.stdout
        else:
            assert words[0] == "curl", f"{block.page}: {words[0]} is not run here: say why before the block"
            command = [words[0], "--fail", "--silent", *map(self._there, words[1:])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{block.page}: {shlex.join(words)}\n{done.stderr[-2000:]}"
        assert done.stdout.strip(), shlex.join(words)

    def _there(self, text: str) -> str:
        return re.sub(r"\b(8500|8501)\b", lambda found: self.addresses[found[1]], text)

    def serve(self, words: list[str]) -> None:
        """Start the server that clients of the next blocks find."""
        self.stop()
        command = [sys.executable, "-m", "genre_tf.cli.main", "serve", *words]
        command += ["--grpc-port", "0", "--rest-port", "0", "--embedded", "--poll-seconds", "0"]
        with (self.folder / "server.log").open("w") as log:
            self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.server.stdout is not None
        for line in self.server.stdout:
            if line.startswith("ready"):
                found = re.findall(r":(\d+)\b", line)
                self.addresses = dict(zip(("8500", "8501"), found, strict=True))
                return
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server.stdout.close()
            self.server = None


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_following_the_documents_from_the_first_page_to_the_last(genre, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = Reader(genre, tmp_path)
    try:
        for block in BLOCKS:
            reader.follow(block)
            if "genre demo" in block.code and block.why is None:
                _check_demo(reader.said["demo"], tmp_path / "demo")
                _as_your_own(tmp_path)
    finally:
        reader.stop()
    assert (tmp_path / "prediction.txt").stat().st_size > 0
    assert (tmp_path / "my-news" / "dev" / "behaviors.tsv").read_text().endswith("a2-0 a4-1\ta4:dwell=80\n")
    assert (tmp_path / "site-news" / "dev" / "behaviors.tsv").read_text().endswith("five-sets:dwell=95\n")
    assert (tmp_path / "runs" / "mind" / "reports" / "report-dev.html").is_file()
    assert (tmp_path / "my-bert" / "config.json").is_file()
    assert (tmp_path / "deploy").is_dir() and (tmp_path / "vectors" / "news_ids.txt").is_file()


def _as_your_own(folder: Path) -> None:
    """The demo's data and run once more under the names that later pages give to the reader's own."""
    shutil.copytree(folder / "demo" / "newsroom", folder / "mind")
    shutil.copytree(folder / "demo" / "run", folder / "runs" / "mind")
    shutil.copytree(folder / "demo" / "models", folder / "models")
    config = folder / "models" / "models.config"
    config.write_text(config.read_text().replace(str(folder / "demo" / "models"), str(folder / "models")))


def _check_demo(said: str, demo: Path) -> None:
    assert said.count("  recommended ") == said.count("  written from an article ") == 2, "two readers"
    assert "of the way" in said
    report = json.loads((demo / "run" / "reports" / "evaluation-dev.json").read_text("utf-8"))
    assert set(report["models"]) == {"two_tower", "ranker", "ranker_counters"}
    samples = json.loads((demo / "run" / "reports" / "samples-dev.json").read_text("utf-8"))
    assert len(samples["written"]) == 3 and samples["recommended"]
    assert all(text["text"] in said for sample in samples["written"][:2] for text in sample["written"][:2])
    for servable in ("genre_recommender", "genre_generator"):
        version = demo / "models" / servable / "1"
        assert (version / "saved_model.pb").is_file()
        assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert list((demo / "run" / "logs").rglob("events.*"))
