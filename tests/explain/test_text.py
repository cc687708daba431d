"""The runs of words that a text shares with its source, and the claims that the source does not support."""

import random

import pytest

from genre_tf.explain.text import marked, share_from_source, source_spans

SOURCE = "The storm closes all schools on the coast. Mayor Anna Berg said on Monday: the storm is over."


def taken(text: str, source: str = SOURCE, least_words: int = 2) -> list[tuple[str, str]]:
    spans = source_spans(text, source, least_words)
    return [(text[slice(*span.text)], source[slice(*span.source)]) for span in spans]


def test_longest_runs_are_found_whatever_their_case_and_punctuation() -> None:
    found = taken("STORM closes all schools: 'Anna Berg, said'")
    assert found == [
        ("STORM closes all schools", "storm closes all schools"),
        ("Anna Berg, said", "Anna Berg said"),
    ]


def test_a_longer_run_goes_before_one_that_begins_earlier() -> None:
    # "b c" would take b from the run of three.
    assert taken("a b c d", "a b x b c d") == [("b c d", "b c d")]
    # What is left of the cut run is long enough.
    assert taken("a b c d e f", "a b c x c d e f") == [("a b", "a b"), ("c d e f", "c d e f")]


def test_the_least_length_and_the_first_of_equal_runs() -> None:
    assert taken("coast storm", least_words=2) == []
    assert [place for _, place in taken("coast storm", least_words=1)] == ["coast", "storm"]
    (span,) = source_spans("the storm", SOURCE)
    assert span.source == (0, 9)


def test_chinese_is_compared_by_characters() -> None:
    text, source = "北京今日大雪", "气象台说,北京今天有雪,今日大风"
    assert taken(text, source) == [("北京今", "北京今"), ("日大", "日大")]
    rare = "\U00020bb7\U0002000b"  # beyond the first 65,536 signs
    assert taken(rare, f"说{rare}家") == [(rare, rare)]


def test_the_share_counts_words() -> None:
    text = "Storm closes all schools tomorrow"
    assert share_from_source(text, source_spans(text, SOURCE)) == pytest.approx(4 / 5)
    assert share_from_source("", source_spans("", SOURCE)) == 0
    assert share_from_source("!?", source_spans("!?", "")) == 0


def test_random_texts_have_spans_that_are_equal_do_not_overlap_and_miss_no_run() -> None:
    generator = random.Random(5)
    for _ in range(300):
        text, source = (" ".join(generator.choices("abcd", k=generator.randint(0, 12))) for _ in range(2))
        spans = source_spans(text, source)
        covered: set[int] = set()
        for span in spans:
            assert text[slice(*span.text)] == source[slice(*span.source)]
            assert not covered & {*range(*span.text)}
            covered |= {*range(*span.text)}
        words = text.split()
        for at in range(len(words) - 1):
            pair = f"{words[at]} {words[at + 1]}"
            place = 2 * at
            free = not covered & {place, place + 2}
            assert not (free and pair in source)


@pytest.mark.parametrize(
    ("text", "unsupported", "expected"),
    [
        ("Lerry meets Larry", "Lerry", ["Lerry"]),
        ("He said “No More taxes”", "no more", ["No More"]),
        ("A Dow,000's Mand", "Dow\n000\nMand", ["Dow", "000", "Mand"]),
        ("Rates rise to 1,200 points", "1200", ["1,200"]),
        ("He said “no more taxes” today", "no more\nmore taxes", ["no more"]),
        ("The U.S. wins", "USA", ["U.S."]),
        ("NATO or NATOs", "NATO", ["NATO"]),
        ("北京赢了", "京", ["京"]),
        ("他说「北京」", "北 京", ["北京"]),
        ("他说「 北京」", "北 京", ["北京"]),
        ("Nothing here", "", []),
        ("Nothing here", "Elsewhere", []),
        ("a.c and abc", "a.c", ["a.c"]),
    ],
)
def test_claims_are_marked(text, unsupported, expected):
    pieces = marked(text, unsupported)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, claim in pieces if claim] == expected
