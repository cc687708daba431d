"""The table of `genre_tf.funnel.recommender`: what odd rows are answered with, and their neighbours."""

import numpy as np
import pytest

from genre_tf.contract import RECOMMENDER, SIGNATURES
from genre_tf.data.counters import COUNTERS
from genre_tf.export import replay
from genre_tf.export.requests import example

ODD = {
    # case: (ids, the plain ids that must get the same answer)
    "padded": (b"  N1\t N2 \r\n\n", "N1 N2"),
    "white space of all kinds": (b"N1\x0bN2\x0c", "N1 N2"),
    "nothing but white space": (b" \n\t ", ""),
    "unknown ids": (b"nobody N1 N1N2 N2 n1", "N1 N2"),
    "only unknown ids": (b"nobody no_one", ""),
    "invalid UTF-8": (b"\xff\xfe N1 \xc3( N2 caf\xe9", "N1 N2"),
    "control characters": (b"\x00 N1 \x07\x1b[31m N2 \x7f N2\x00", "N1 N2"),
    "other writing": ("新闻 N1 😀 N2 \u00a0".encode(), "N1 N2"),
}
TITLES = {
    "padded": (b"  rates rise \r\n", "rates rise"),
    "blank lines": (b"\n\nrates rise\n \t\n", "rates rise"),
    "nothing but white space": (b" \n\t ", ""),
    "invalid UTF-8": (b"caf\xe9 \xff", "caf\ufffd \ufffd"),
}
IDS = ("recommend", "recommend_live", "score", "score_counters", "embed_user", "explain", "regress")


def rows_of(signature, history):
    """The inputs of one row whose history is given, all else plain."""
    if signature == "regress":
        return {"inputs": example(history=[history], candidate=["N5"])}
    plain = {"candidates": "N5 N6", "news_id": "N5 N6", **dict.fromkeys(COUNTERS, "1 2")}
    plain |= {"views": "3 4", "age_hours": "5 6"}
    plain |= {"candidates_text": "rain ends\na cure", "history": history, "history_text": history}
    return {name: plain[name] for name in SIGNATURES[RECOMMENDER][signature].input_names}


def together(ask, signature, *rows):
    answer = ask(signature, **{name: [row[name] for row in rows] for name in rows[0]})
    assert replay.compare({}, answer)[1] == []  # all finite, all UTF-8
    return answer


def same(answer, row, other):
    for name, values in answer.items():
        if values.dtype == object or values.dtype == bool:
            assert values[row].tolist() == values[other].tolist(), name
        else:
            near(name, values[row], values[other])


def near(name, actual, expected):
    """Click probabilities of random weights may be tiny, and are compared by their ratio."""
    close = {"atol": 1e-5} if name in ("embedding", "weight") else {"rtol": 1e-3}
    np.testing.assert_allclose(actual, expected, **{"rtol": 1e-5, **close}, err_msg=name)


@pytest.mark.parametrize("signature", IDS)
@pytest.mark.parametrize("case", ODD)
def test_an_odd_history_of_ids_counts_as_its_known_ids(signature, case, ask):
    odd, plain = (rows_of(signature, ids) for ids in ODD[case])
    good = rows_of(signature, "N3 N4")
    answer = together(ask, signature, good, odd, plain)
    same(answer, 1, 2)
    alone = together(ask, signature, good)
    for name, values in alone.items():  # the good row beside it, as far as it goes, is answered as alone
        part = answer[name][0][tuple(slice(size) for size in values.shape[1:])]
        if values.dtype == object:
            assert part.tolist() == values[0].tolist()
        else:
            near(name, part, values[0])


@pytest.mark.parametrize("signature", ["recommend_text", "score_text"])
@pytest.mark.parametrize("case", TITLES)
def test_an_odd_history_of_titles_counts_as_its_titles(signature, case, ask):
    odd, plain = (rows_of(signature, titles) for titles in TITLES[case])
    same(together(ask, signature, odd, rows_of(signature, "a cure"), plain), 0, 2)


@pytest.mark.parametrize("signature", IDS)
def test_of_ten_thousand_ids_the_newest_make_the_reader(signature, ask):
    long = " ".join(f"N{1 + number % 60}" for number in range(10_000))
    newest = " ".join(long.split()[-50:])
    answer = together(ask, signature, rows_of(signature, long), rows_of(signature, newest))
    if signature.startswith("recommend"):  # and all of them are read
        assert not {f"N{number}".encode() for number in range(1, 61)} & set(answer["news_id"][0].tolist())
    else:
        same(answer, 0, 1)


@pytest.mark.parametrize("signature", ["score", "score_counters", "explain"])
def test_each_candidate_has_its_own_column_whatever_it_is(signature, ask):
    row = rows_of(signature, "N1 N2")
    odd = {**row, "candidates": b" N5 nobody\tN5 \xff\xfe \x00 N6 "}
    answer = together(ask, signature, odd, {**row, "candidates": ""})
    (values,) = (found for name, found in answer.items() if name in ("click_probability", "weight"))
    assert values.shape[:2] == (2, 6)
    if signature == "explain":
        assert values[0].sum(-1).round(4).tolist() == [1, 0, 1, 0, 0, 1] and (values[1] == 0).all()
        return
    assert answer["known"][0].tolist() == [True, False, True, False, False, True]
    assert (values[0] == 0).tolist() == [False, True, False, True, True, False]
    assert (values[1] == -1).all() and not answer["known"][1].any()
    if signature == "score":
        assert values[0, 0] == values[0, 2]


@pytest.mark.parametrize(
    ("text", "plain"), [(b"caf\xe9", "caf\ufffd"), (b" \n ", ""), (b"rates\x07 rise\x00", "rates rise")]
)
def test_odd_texts_are_embedded_as_plain_ones(text, plain, ask):
    same(together(ask, "embed_news", {"text": text}, {"text": plain}, {"text": "a cure"}), 0, 1)


def test_a_text_of_nothing_is_the_zero_vector(ask):
    assert not together(ask, "embed_news", {"text": ""}, {"text": "rates"})["embedding"][0].any()


@pytest.mark.parametrize("signature", list(SIGNATURES[RECOMMENDER]))
def test_no_rows_at_all_are_answered_with_none(signature, ask):
    answer = ask(signature, **{name: [] for name in SIGNATURES[RECOMMENDER][signature].input_names})
    assert all(len(values) == 0 for values in answer.values())
