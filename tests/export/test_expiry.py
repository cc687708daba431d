"""`genre refresh --expire`: hours or a date."""

from datetime import datetime

import pytest

from genre_tf.errors import InputError
from genre_tf.export.changes import parse_expiry


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("48", 48.0),
        ("1.5", 1.5),
        ("2019-11-15", datetime(2019, 11, 15)),
        ("2019-11-15T12:30", datetime(2019, 11, 15, 12, 30)),
    ],
)
def test_an_expiry_is_hours_or_a_date(text, limit):
    assert parse_expiry(text) == limit


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "inf", "yesterday", "2019-13-01"])
def test_other_expiries_are_wrong_input(text):
    with pytest.raises(InputError, match="--expire takes hours"):
        parse_expiry(text)
