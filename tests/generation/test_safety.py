"""What may not be shown."""

import time
from pathlib import Path

import pytest
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.generation.safety import SafetyList, read_safety_list


def is_safe(text: str, safety: SafetyList = SafetyList()) -> bool:  # noqa: B008  (frozen)
    return bool(tf.function(safety.is_safe)(tf.constant([[text]]))[0, 0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Scunthorpe wins the cup",
        "The 300 Best Cars of 2019 for the Road",
        "From 2018-2019 it cost $1,200,000",
        "At 10:30 on 2019-11-12",
        "Zürich gewinnt 3:0",
        "Shares are up +10 000 000 since 11/12/2019, at $3.50-4.25 @ 5.99",
        "The years 2017 2018 2019 2020, and 1987-2019",
        "Won 101-99 and 555-98, sets 6-4 6-7 7-6, record 10-2-1",
        "3 Wall Street Stocks and 9 Supreme Court Cases after the 2020 Corvette First Drive Review",
        "Crash on I-70 And Piccadilly Road, 4 miles off",
        "iOS 13.2.3 at 10:30:15; section 1.2.3.4.5; 300.1.1.1",
        "Follow @genre for 4111 1111 words, 12-12-2019, 2019-11-12",
        "No. 24 San Diego St. wins 52-17",
        "2019年第3季營收15,012,345,678元,股價13.5元",
        "他在第5號公路上開車10公里",
    ],
)
def test_news_is_safe(text: str) -> None:
    assert is_safe(text)


@pytest.mark.parametrize(
    "text",
    [
        "What the FUCK?",
        "first line\nsome shit\nlast line",
        "call 555-123-4567 now",
        "call (555) 123-4567 now",
        "ring +44 20 7946 0958",
        "mail jane.doe@example.org",
        "she lives at 12 Elm Grove Street, he said",
        "write to jürgen@müller-news.co.uk.",
        "ring +1 (555) 123-4567",
        "at 1416 SW 20th Street on Monday, or 2932 Crockett St., they said",
        "her number is 123-45-6789",
        "card 4111 1111 1111 1111 or",
        "card 5500-0000-0000-0004",
        "card 378282246310005",
        "from 192.168.10.254.",
        "from 2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "他打電話13812345678給她",
        "電話:138 1234 5678。",
        "身份證11010519491231002X被公開",
        "住在中山路123號的男子",
        "你這個王八蛋滾",
    ],
)
def test_bad_words_and_personal_data_are_not(text: str) -> None:
    assert not is_safe(text)


@pytest.mark.parametrize(
    "text",
    [
        "what the f\u200bu\u00adck",
        "what the \uff46\uff35\uff43\uff4b",
        "piece of sh\u200bit",
        "jane\uff20example\uff0eorg",
        "call 555\u2009123\u20094567",
    ],
)
def test_what_a_reader_does_not_see_hides_nothing(text: str) -> None:
    assert not is_safe(text)


def test_phrases_are_found_over_line_breaks_and_words_are_folded_as_texts_are() -> None:
    safety = SafetyList(words=("Banana \u200bSplit", "\uff21\uff22"), patterns=())
    assert not is_safe("a banana\nsplit", safety)
    assert not is_safe("so: ab!", safety)
    assert is_safe("abc", safety)


def test_a_hostile_expression_and_a_long_list_cost_no_more_than_their_text() -> None:
    words = tuple(f"unwanted{number}" for number in range(600))
    safety = SafetyList(words=words, patterns=(r"(a+)+$", r"(x*)*y"))
    started = time.monotonic()
    assert is_safe("a" * 2_000 + "b", safety)
    assert not is_safe("this is UNWANTED599.", safety)
    assert time.monotonic() - started < 10  # a backtracking engine would not end


def test_an_operator_replaces_words_and_keeps_personal_data(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("banana split\n# ours\n\nC++\nre: (?i)top \\d+ secrets\n", encoding="utf-8-sig")
    safety = read_safety_list(file)
    assert is_safe("What the fuck?", safety)
    for text in ("A Banana Split!", "learn c++ now", "Top 10 Secrets", "mail a@b.org"):
        assert not is_safe(text, safety)


def test_no_words_and_no_patterns_is_always_safe() -> None:
    assert is_safe("shit", SafetyList(words=(), patterns=()))


def test_a_bad_expression_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("word\nre:(unclosed\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.txt, line 2: '\(unclosed'"):
        read_safety_list(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("re:", "no expression after re:"),
        ("re:  ", "no expression after re:"),
        ("re:foo)|(bar", r"'foo\)\|\(bar' is not a valid RE2 expression"),
        ("re:\\Qfoo", "is not a valid RE2 expression"),  # what is quoted would not end within brackets
        ("re:(foo)?", "matches even an empty text"),
    ],
)
def test_an_expression_that_would_call_all_unsafe_is_refused(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"word\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"list\.txt, line 2: .*{said}"):
        read_safety_list(file)


def test_an_absent_list_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_safety_list(tmp_path / "none.txt")


def test_listed_words_without_spaces_around_them_are_found_where_their_script_has_none():
    safety = SafetyList(words=("賭場", "bet", "T恤"))
    assert not is_safe("澳門賭場開業", safety)
    assert not is_safe("he will BET", safety) and is_safe("the alphabet", safety)
    assert not is_safe("他說bet了", safety) and is_safe("他說bets了", safety)
    assert not is_safe("紅色T恤衫", safety) and is_safe("FT恤", safety)
