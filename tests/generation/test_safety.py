"""What may not be shown."""

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
        "he should kill himself",
    ],
)
def test_bad_words_and_personal_data_are_not(text: str) -> None:
    assert not is_safe(text)


def test_an_operator_replaces_words_and_keeps_personal_data(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# ours\n\nbanana split\nC++\nre: (?i)top \\d+ secrets\n", encoding="utf-8")
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


def test_an_absent_list_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_safety_list(tmp_path / "none.txt")
