"""The client: rows joined, padding trimmed, errors in plain words."""

import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from genre_tf.errors import FailureError, InputError


@pytest.fixture(scope="module")
def client(contract_server: Any) -> Iterator[Any]:
    from genre_tf.serving import Client

    with Client(contract_server.grpc_address) as opened:
        yield opened


def test_recommendations_come_best_first_without_what_was_read_and_without_padding(client: Any) -> None:
    new, reader = client.recommend([[], ["N1", "N9", "N3"]])
    assert [entry.news_id for entry in new] == ["N1", "N2", "N3", "N4"]
    assert [entry.news_id for entry in reader] == ["N2", "N4"]
    assert reader[1].title == "新闻 today"
    assert reader[0].score == pytest.approx(0.7)


def test_titles_are_joined_by_newlines_and_cleaned_of_their_own(client: Any) -> None:
    found = client.recommend_text([["Storm hits\nthe coast", " Bank  raises rates "]])[0]
    assert [entry.news_id for entry in found] == ["N2", "N4"]


def test_scores_keep_the_order_and_width_of_each_reader(client: Any) -> None:
    first, second = client.score([["N1"], []], [["N4", "N9", "N4"], ["N2"]])
    assert [entry.news_id for entry in first] == ["N4", "N9", "N4"]
    assert [entry.known for entry in first] == [True, False, True]
    assert len(second) == 1
    assert second[0].click_probability == pytest.approx(0.7)


def test_a_reader_without_candidates_gets_no_scores(client: Any) -> None:
    assert client.score([["N1"], []], [[], ["N2"]])[0] == []


def test_scores_of_titles(client: Any) -> None:
    assert client.score_text([["a"]], [["four", "sixsix"]])[0][1].click_probability == pytest.approx(0.06)


def test_counters_reach_the_model(client: Any) -> None:
    scored = client.score_counters([["N1"]], [["N3", "N4"]], [[1, 3.0]], [[1, 3]], [[0.5, 1e-3]])[0]
    assert [entry.click_probability for entry in scored] == pytest.approx([1.0, 1.05])


def test_counters_must_match_the_candidates(client: Any) -> None:
    with pytest.raises(InputError, match="views must give one number for each candidate"):
        client.score_counters([["N1"]], [["N3", "N4"]], [[1, 3]], [[1]], [[1, 1]])


def test_embeddings_are_arrays(client: Any) -> None:
    np.testing.assert_array_equal(client.embed_news(["abc", ""]), np.array([[3, -3], [0, 0]], np.float32))


def test_generated_texts_lose_their_padding(client: Any) -> None:
    histories, sources = [["a", "b"], ["c"]], ["", "News\nof today"]
    alone, sourced = client.generate(histories, sources, ["title", "body"], [7, -1])
    assert [entry.text for entry in alone] == ["title|2|7"]
    assert [entry.text for entry in sourced] == ["body|1|-1", "NEWS\nOF TODAY"]
    assert (sourced[0].safe, sourced[1].safe) == (True, False)


def test_answers_name_their_evidence(client: Any) -> None:
    known, unknown = client.answer(["What?", "Who?"], [["a", "b"], []], [7, 8])
    assert (known.texts, known.evidence) == ([("What?|2|7", 0.5)], [("N3", "N3")])
    assert (unknown.texts, unknown.evidence) == ([], [])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda client: client.recommend([["N1 N2"]]), "an article id must be one word; got 'N1 N2'"),
        (lambda client: client.recommend(["N1"]), "a row must be a list of strings; got the string 'N1'"),
        (lambda client: client.recommend_text([["a", " \n"]]), "title 2 of 2 is blank"),
        (
            lambda client: client.generate([["a"]], [""], ["poem"], [1]),
            "kind must be one of title, summary, body; got 'poem'",
        ),
        (lambda client: client.score([["N1"]], [["N2"], ["N3"]]), "must have one entry per reader; got"),
        (lambda client: client.embed_user([["N1"]]), "no signature 'embed_user'"),
        (
            lambda client: client.score_counters([[]], [["N1"]], [[-1]], [[1]], [[1]]),
            "numbers of at least 0; got -1",
        ),
        (lambda client: client.generate([["a"]], [""], ["title"], [2**63]), "seeds must be 64-bit integers"),
        (lambda client: client.generate([["a"]], [""], ["title"], ["x"]), "seeds must be 64-bit integers"),
    ],
)
def test_wrong_input_is_said_plainly(client: Any, call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(client)


def test_no_server_is_a_failure_that_says_what_to_do(contract_server: Any) -> None:
    from genre_tf.serving import Client

    with Client("127.0.0.1:1") as client, pytest.raises(FailureError, match="genre serve MODELS"):
        client.recommend([[]])


@pytest.fixture
def silent_address() -> Iterator[str]:
    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_a_deadline_is_kept(silent_address: str) -> None:
    from genre_tf.serving import Client

    client = Client(silent_address, timeout_s=0.2)
    with client, pytest.raises(FailureError, match=r"no answer from .* within 0.2 s"):
        client.recommend([[]])


def test_one_request_may_have_a_deadline_of_its_own(silent_address: str) -> None:
    from genre_tf.serving import Client

    client = Client(silent_address, timeout_s=60.0)
    with client, pytest.raises(FailureError, match=r"within 0.1 s"):
        client.within(0.1).recommend([[]])


@pytest.mark.parametrize("address", ["localhost", ":8500", "localhost:", "localhost:http", "localhost:70000"])
def test_an_address_is_host_and_port(address: str) -> None:
    from genre_tf.serving import Client

    with pytest.raises(InputError, match="not HOST:PORT"):
        Client(address)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("inf"), float("nan")])
def test_a_deadline_is_above_zero(timeout_s: float) -> None:
    from genre_tf.serving import Client

    with pytest.raises(InputError, match="seconds above 0"):
        Client(timeout_s=timeout_s)
