"""What a client sends for `recommend_live`: ids and counters of each reader, in one order."""

import pytest

from genre_tf.contract import COUNTERS
from genre_tf.errors import InputError
from genre_tf.serving.client import calls


def test_live_counters_are_joined_in_the_order_of_the_ids():
    live = [{"N7": range(9), "N8": range(10, 19)}, {}]
    call = calls.recommend_live([["N1", "N2"], []], live)
    assert call.signature == "recommend_live"
    sent = {name: [text.decode() if isinstance(text, bytes) else text for text in rows]
            for name, rows in call.inputs.items()}  # fmt: skip
    assert sent["history"] == ["N1 N2", ""] and sent["news_id"] == ["N7 N8", ""]
    assert set(sent) == {"history", "news_id", *COUNTERS}
    numbers = [float(part) for part in sent["views_24h"][0].split()]
    assert numbers == [8.0, 18.0] and sent["views_24h"][1] == ""


def test_an_article_without_all_its_counters_is_refused():
    with pytest.raises(InputError, match="must be 9 numbers"):
        calls.recommend_live([["N1"]], [{"N7": [1.0, 2.0]}])
