"""Unsupported claims are found again where they stand, and a text is never changed by marking it."""

import pytest

from genre_tf.reporting.grounding_marks import marked


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
