"""The program of a product team runs unchanged against `genre app`, before real exports of tiny models."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import TOKEN

PROGRAM = Path(__file__).resolve().parents[3].parent / "shared" / "specs" / "newsroom_app.py"
EXPORT = """
import sys
import genre_tf
from datetime import datetime, timedelta
from genre_tf.data.articles import Article, Impression
from genre_tf.data.counters import Counters
news = genre_tf.models.NewsEncoder.from_preset("tiny")
words = "harbour storm team bank school market court river".split()
articles = [
    Article(f"N{n}", ("sport", "law")[n % 2], "", f"The {words[n % 8]} of {words[n // 8]} {n}", "Rain.")
    for n in range(60)
]
counters = Counters()
for n in range(600):
    shown = tuple(f"N{(n + step) % 60}" for step in range(5))
    now = datetime(2026, 1, 5) + timedelta(minutes=n)
    counters.observe(Impression(str(n), "U", now, (), shown, (n % 3 == 0, False, False, False, n % 7 == 0)))
genre_tf.export.write_models(
    sys.argv[1],
    two_tower=genre_tf.models.TwoTower(news),
    ranker=genre_tf.models.Ranker(news),
    writer=genre_tf.models.Writer.from_preset("tiny"),
    articles=articles,
    counters=counters,
)
"""


@contextmanager
def started(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`genre app` in a process of its own, and its URL."""
    command = [sys.executable, "-m", "genre_tf.cli.main", "app", *arguments, "--port", "0", "--no-log"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready http://"), process.communicate(timeout=60)
            yield process, line.split()[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newsroom") / "models"
    subprocess.run([sys.executable, "-c", EXPORT, str(folder)], check=True, timeout=1500)
    return folder


@pytest.mark.proof
@pytest.mark.skipif(not PROGRAM.is_file(), reason=f"needs {PROGRAM}")
def test_a_product_team_is_well_served(exported: Path, database: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    arguments = (str(exported), "--database", database, "--editor-token-file", str(token))
    with started(*arguments) as (_, url):
        command = [sys.executable, str(PROGRAM), url, TOKEN, "N6", "N9"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "newsroom app: all well"


def test_the_verb_ends_when_it_is_told_and_prints_a_token_once(models, server, tmp_path):
    database = f"sqlite:///{tmp_path / 'app.db'}"
    with started(str(models), "--database", database, "--server", server.address) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        process.terminate()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0 and told.count("token of the editors") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}", "--server", "127.0.0.1:1"], "no genre_recommender"),
        (["{models}", "--server", "nowhere"], "not HOST:PORT"),
        (["{models}", "--server", "127.0.0.1:1", "--database", "app.db"], "not a URL"),
        (["{models}", "--server", "127.0.0.1:1", "--canary", "x"], "--canary must be"),
        (["{models}", "--server", "127.0.0.1:1", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
    ],
)
def test_wrong_options_are_told_in_a_line(models, tmp_path, monkeypatch, capsys, arguments, said):
    from genre_tf.cli.main import main

    (tmp_path / "empty").mkdir()
    named = [part.format(models=models, empty=tmp_path / "empty") for part in arguments]
    more = ["--port", "0"] + (
        [] if "--database" in named else ["--database", f"sqlite:///{tmp_path / 'a.db'}"]
    )
    monkeypatch.setattr(sys, "argv", ["genre", "app", *named, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in " ".join(told.split()) and "Traceback" not in told
