"""`genre recommend`, `score`, `generate` and `ask` against a live server."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from genre_tf.cli.ask import ask
from genre_tf.cli.asking import report_unknown
from genre_tf.cli.generate import generate
from genre_tf.cli.recommend import recommend
from genre_tf.cli.score import score
from genre_tf.errors import InputError


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_recommend_by_ids(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recommend(history="N1  N2", address=contract_server.grpc_address, json=True)
    found = printed(capsys)["recommendations"]
    assert [entry["news_id"] for entry in found] == ["N3", "N4"]
    assert set(found[0]) == {"news_id", "title", "score"}


def test_recommend_by_titles_in_a_file(
    contract_server: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "titles.txt"
    file.write_text("Storm hits the coast\n\nTeam wins the cup\n", "utf-8")
    recommend(history_text=str(file), address=contract_server.grpc_address)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["N3", "N4"]
    assert lines[1].endswith("新闻 today")


def test_recommend_by_titles_written_out(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    titles = "Storm hits the coast\\nTeam wins the cup"
    recommend(history_text=titles, address=contract_server.grpc_address, json=True)
    assert len(printed(capsys)["recommendations"]) == 2


def test_recommend_needs_one_kind_of_history() -> None:
    with pytest.raises(InputError, match="--history"):
        recommend()


def test_score_by_ids_with_counters(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    counters = {"clicks": "0 2", "views": "1 3", "age_hours": "5 0.25"}
    score(history="", candidates="N4 N9", address=contract_server.grpc_address, json=True, **counters)
    scores = printed(capsys)["scores"]
    assert [entry["known"] for entry in scores] == [True, False]
    assert scores[1]["click_probability"] == pytest.approx(0.5)


def test_score_by_titles(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    score(history_text="a", candidates_text="four\nsixsix", address=contract_server.grpc_address)
    assert capsys.readouterr().out == "  0.0400  four\n  0.0600  sixsix\n"


@pytest.mark.parametrize(
    "options",
    [
        {"history": "N1"},
        {"history": "N1", "candidates_text": "a"},
        {"history": "N1", "candidates": "N2", "clicks": "1"},
        {"history": "N1", "candidates": "N2", "clicks": "1", "views": "x", "age_hours": "1"},
    ],
)
def test_score_refuses_halves(options: dict[str, str], contract_server: Any) -> None:
    with pytest.raises(InputError):
        score(address=contract_server.grpc_address, **options)


def test_generate(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    generate("a\nb", source="News", kind="summary", seed=3, address=contract_server.grpc_address, json=True)
    texts = printed(capsys)["texts"]
    assert [text["text"] for text in texts] == ["summary|2|3", "NEWS"]
    assert set(texts[0]) == {"text", "interest", "log_probability", "grounding", "safe"}


def test_ask(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ask("What?", history_text="a\nb", seed=3, address=contract_server.grpc_address)
    assert capsys.readouterr().out.splitlines() == ["What?|2|3", "    interest 0.5000", "evidence N3: N3"]
    ask("Who?", address=contract_server.grpc_address)
    assert capsys.readouterr().out.startswith("no answer")
    with pytest.raises(InputError, match="blank"):
        ask(" ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("recommend", "--history", "N1"),
        ("score", "--history", "N1", "--candidates", "N2"),
        ("generate",),
        ("ask", "What?"),
    ],
)
def test_a_client_imports_no_tensorflow_and_says_at_once_that_no_server_answers(arguments: Any) -> None:
    code = """
import sys, time
from genre_tf.cli.main import main
started = time.monotonic()
try:
    main()
finally:
    heavy = {"tensorflow", "tensorflow_serving", "keras"} & set(sys.modules)
    print(sorted(heavy), time.monotonic() - started < 3)
"""
    command = [sys.executable, "-c", code, *arguments, "--address", "127.0.0.1:1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and found.stdout == "[] True\n"
    assert "no server answers at 127.0.0.1:1" in found.stderr and "genre serve MODELS" in found.stderr


def in_ascii(*arguments: str) -> str:
    """What a client process writes into a pipe that takes only ASCII."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "genre_tf.cli.main", *arguments]
    found = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    return found.stdout.decode("ascii")


def test_a_pipe_that_takes_only_ascii_gets_the_whole_answer(contract_server: Any) -> None:
    asked = ("recommend", "--history", "N1 N2", "--address", contract_server.grpc_address)
    lines = in_ascii(*asked).splitlines()
    assert len(lines) == 2 and lines[1].endswith("?? today")
    found = json.loads(in_ascii(*asked, "--json"))["recommendations"]
    assert [entry["title"] for entry in found] == ["Bank raises rates", "新闻 today"]


@pytest.mark.parametrize("verb", [recommend, functools.partial(score, candidates="N2 N9")])
def test_ids_that_the_index_does_not_contain_are_reported(
    verb: Any, contract_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    address = contract_server.grpc_address
    verb(history="N1 N77 N1 N78", address=address, json=True)
    said = capsys.readouterr()
    assert "ignored 2 of 3 ids in --history, which are not in the index: N77, N78" in said.err
    assert json.loads(said.out)
    verb(history="N1 N3", address=address)
    verb(history="", address=address)
    assert not capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"none of the ids in --history \(N71, .*, N75, \.\.\.\): give the ids"
    ):
        verb(history=" ".join(f"N7{number}" for number in range(1, 8)), address=address)
    with pytest.raises(InputError, match="these look like reader ids: give the ids of articles"):
        verb(history="U123", address=address)
    assert not capsys.readouterr().out


def test_a_server_that_cannot_say_which_ids_it_knows_still_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class WithoutScore:
        def score(self, histories: Any, candidates: Any) -> Any:
            raise InputError('Serving signature key "score" not found')

    report_unknown(cast(Any, WithoutScore()), ["N77"])
    assert capsys.readouterr() == ("", "")
