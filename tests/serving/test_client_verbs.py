"""`genre recommend`, `score`, `generate` and `ask` against a live server."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from genre_tf.cli.clients import Reader, ask, generate, recommend, report_unknown, score
from genre_tf.errors import InputError
from genre_tf.serving import Client
from genre_tf.serving.client.calls import GeneratedText

from .conftest import NEWS


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
    generate(
        history_text="a\nb",
        source="News",
        kind="summary",
        seed=3,
        address=contract_server.grpc_address,
        json=True,
    )
    texts = printed(capsys)["texts"]
    assert [text["text"] for text in texts] == ["summary|2|3", "NEWS"]
    assert set(texts[0]) == {"text", "interest", "log_probability", "grounding", "safe", "use"}


def test_ask(contract_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ask("What?", history_text="a\nb", seed=3, address=contract_server.grpc_address)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["What?|2|3", "    use this: interest 0.5000", "evidence N3: N3"]
    ask("Who?", address=contract_server.grpc_address)
    assert capsys.readouterr().out.startswith("no answer")
    with pytest.raises(InputError, match="blank"):
        ask(" ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("recommend", "--history", "N1"),
        ("score", "--history", "N1", "--candidates", "N2", "--rest"),
        ("generate",),
        ("ask", "What?", "--rest"),
    ],
)
def test_a_client_imports_nothing_heavy_and_says_at_once_that_no_server_answers(arguments: Any) -> None:
    code = """
import sys, time
from genre_tf.cli.main import main
started = time.monotonic()
try:
    main()
finally:
    heavy = {"tensorflow", "tensorflow_serving", "keras", "pandas", "h5py", "scipy"} & set(sys.modules)
    print(sorted(heavy), time.monotonic() - started < 3, file=sys.stderr)
"""
    command = [sys.executable, "-c", code, *arguments, "--address", "127.0.0.1:1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and not found.stdout
    assert "[] True\n" in found.stderr
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


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Readers of the served articles: U1 with clicks, U2 without, U3 with one that is not served any more."""
    split = tmp_path / "log" / "dev"
    split.mkdir(parents=True)
    titles = {**NEWS, "N8": "Old news"}
    news = [f"{news_id}\tnews\tworld\t{title}\t\n" for news_id, title in titles.items()]
    (split / "news.tsv").write_text("".join(news), "utf-8")
    rows = ("U1\t11/9/2019 9:00:00 AM\tN1\tN2-1 N3-0", "U2\t11/9/2019 9:00:00 AM\t\tN2 N3")
    last = "U3\t11/9/2019 9:00:00 AM\tN8\tN1-1 N3-0"
    behaviors = "".join(f"{number}\t{row}\n" for number, row in enumerate((*rows, last)))
    (split / "behaviors.tsv").write_text(behaviors, "utf-8")
    return split.parent


WITH_IDS = [recommend, functools.partial(score, candidates="N2 N9")]


@pytest.mark.parametrize("verb", WITH_IDS)
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
    with pytest.raises(InputError, match="these look like reader ids: give --user with --log"):
        verb(history="U123", address=address)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("verb", WITH_IDS)
def test_clicks_come_from_a_log(
    verb: Any, contract_server: Any, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_log = functools.partial(verb, log=log, address=contract_server.grpc_address)
    verb(history="N1 N2", address=contract_server.grpc_address)
    expected = capsys.readouterr()
    by_log(user="U1")
    assert capsys.readouterr() == expected
    by_log(user="U2")
    assert capsys.readouterr().err == "reader U2 has no clicks yet: answered as a new reader\n"
    by_log(user="U3")
    assert "ignored 1 of 2 clicks of reader U3, which are not in the index: N8" in capsys.readouterr().err
    with pytest.raises(InputError, match="no reader 'U9'; it has 3 readers, such as U1, U2, U3"):
        by_log(user="U9")


@pytest.mark.parametrize("verb", [generate, functools.partial(ask, "title")])
def test_texts_are_written_from_the_titles_in_the_log(
    verb: Any, contract_server: Any, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_log = functools.partial(verb, log=log, address=contract_server.grpc_address)
    by_log(user="U1")
    assert capsys.readouterr().out.startswith("title|2|0\n")  # the toy writes the number of titles
    by_log(history="N1 N2 N8 N404")
    said = capsys.readouterr()
    assert said.out.startswith("title|3|0\n")
    assert f"ignored 1 of 4 ids in --history, which are not in the news.tsv of {log}: N404" in said.err
    by_log(user="U2")
    assert "no clicks yet" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"none of the ids in --history \(U1\): these look like reader ids"):
        by_log(history="U1")
    with pytest.raises(InputError, match="written from titles: add --log DATA"):
        verb(history="N1", address=contract_server.grpc_address)


def test_the_titles_of_a_reader_reach_the_writer(
    log: Path, contract_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(Client, "generate", lambda _, histories, *rest: sent.append(histories) or [[]])
    generate(user="U3", log=log, address=contract_server.grpc_address)
    assert sent == [[["Old news", "Storm hits the coast"]]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"history": "N1", "user": "U1"}, "give only one of .*; got --history and --user"),
        ({"user": "U1"}, "--user also needs --log DATA"),
        ({"log": "log"}, "--log goes with --user"),
        ({"history_text": "a", "log": "log"}, "--log goes with --user"),
    ],
)
@pytest.mark.parametrize("verb", [*WITH_IDS, generate, functools.partial(ask, "What?")])
def test_options_that_name_no_reader_or_two_are_refused(verb: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        verb(**options)


def test_a_log_beside_ids_that_need_none_is_refused() -> None:
    with pytest.raises(InputError, match="--log goes with --user"):
        recommend(history="N1", log=Path("log"))


def test_the_text_to_use_is_marked_and_no_text_is_listed_twice(
    contract_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    written = functools.partial(generate, address=contract_server.grpc_address)
    written(source="News")
    first, measures, second, other = capsys.readouterr().out.splitlines()
    assert (first, second) == ("title|1|0", "NEWS")
    assert measures == "    use this: interest 0.5000, grounding 0.50"
    assert other == "    unsafe, do not use: interest 0.5000, grounding 0.50"
    written(source="Title|1|0")  # the second text is the first one in capitals
    assert len(capsys.readouterr().out.splitlines()) == 2
    written(source="News", json=True)
    assert [text["use"] for text in printed(capsys)["texts"]] == [True, False]
    ask("What?", address=contract_server.grpc_address, json=True)
    assert printed(capsys)["texts"] == [{"text": "What?|1|0", "interest": 0.5, "use": True}]


def test_tone_and_topic_reach_the_writer_and_an_unknown_tone_is_refused(
    contract_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    written = functools.partial(generate, source="News", address=contract_server.grpc_address)
    for tone, topic in (("lively", ""), ("", "ice hockey"), ("plain", "food")):
        written(tone=tone, topic=topic)
        assert capsys.readouterr().out.splitlines()[0] == f"title|1|0|{tone}|{topic}"
    with pytest.raises(InputError, match=r"tone must be one of neutral, plain, lively, or empty.*'jolly'"):
        generate(tone="jolly", address="127.0.0.1:1")


def test_unsafe_texts_are_not_to_be_used(
    contract_server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[GeneratedText("Bad", 0.9, -1.0, 1.0, False), GeneratedText("", -1.0, -1.0, -1.0, False)]]
    monkeypatch.setattr(Client, "generate", lambda *_: texts)
    generate(address=contract_server.grpc_address)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no safe text was written" and "do not use" in lines[2]
    assert lines[3:] == ["unsafe texts held back: 1"]
    generate(address=contract_server.grpc_address, json=True)
    found = printed(capsys)
    assert [text["use"] for text in found["texts"]] == [False]
    assert found["held_back"] == 1


@pytest.mark.parametrize(
    "verb",
    [*WITH_IDS, functools.partial(generate, source="News"), functools.partial(ask, "What?")],
)
def test_a_verb_prints_the_same_over_rest(
    verb: Any, contract_server: Any, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = contract_server.rest_address.removeprefix("http://")
    verb(user="U3", log=log, address=contract_server.grpc_address)
    expected = capsys.readouterr()
    assert expected.out
    for options in ({"address": rest, "rest": True}, {"address": contract_server.rest_address}):
        verb(user="U3", log=log, **options)
        assert capsys.readouterr() == expected


def test_a_server_that_cannot_say_which_ids_it_knows_still_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class WithoutScore:
        def score(self, histories: Any, candidates: Any) -> Any:
            raise InputError('Serving signature key "score" not found')

    report_unknown(cast("Any", WithoutScore()), Reader(["N77"], True, "ids in --history"))
    assert capsys.readouterr() == ("", "")
