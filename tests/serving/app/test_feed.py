"""A reader's feed: what the model recommends, by the operator's rules, with reasons, and never twice."""

import json
import time

import pytest

from genre_tf.contract import COUNTERS
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.app.model_server import ModelServer
from genre_tf.serving.client import calls

from .conftest import SERVED, TITLES, running, write_version


def ids(feed):
    return [item["id"] for item in feed["items"]]


def test_a_new_reader_gets_what_the_model_recommends(app):
    feed = app.get("/v1/readers/r/feed?k=3")
    assert ids(feed) == ["N1", "N2", "N3"] and feed["version"] == "genre_recommender/1"
    first = feed["items"][0]
    assert first["title"] == TITLES["N1"] and first["category"] == "sports"
    assert (first["source"], first["why"], first["score"]) == ("model", [], pytest.approx(0.9))


def test_what_was_read_does_not_come_again_and_explains_what_comes(app, server):
    app.click("r", "N1")
    app.click("r", "N2")
    feed = app.get("/v1/readers/r/feed?k=3")
    assert ids(feed) == ["N3", "N4", "N5"]
    assert all(item["why"] == ["N2"] for item in feed["items"])
    assert server.signatures("recommend_live")[-1]["history"] == ["N1 N2"]


def test_hidden_articles_are_told_to_the_model_as_never_published(app, server):
    assert app.post("/v1/events", {"reader": "r", "kind": "hide", "article": "N2"})[0] == 202
    assert ids(app.get("/v1/readers/r/feed?k=3")) == ["N1", "N3", "N4"]
    asked = server.signatures("recommend_live")[-1]
    assert asked["news_id"][0].split()[0] == "N2" and asked["views"][0].split()[0] == "0"
    assert ids(app.get("/v1/readers/other/feed?k=2")) == ["N1", "N2"]


def test_a_longer_feed_than_the_model_gives_goes_on_with_what_is_popular(app):
    feed = app.get(f"/v1/readers/r/feed?k={SERVED + 5}")
    assert len(set(ids(feed))) == SERVED + 5
    assert [item["source"] for item in feed["items"]] == ["model"] * SERVED + ["popular"] * 5


def test_without_an_answer_of_the_model_server_a_feed_has_what_is_popular(app, server):
    server.failing.add("recommend_live")
    app.click("r", "N1")
    feed = app.get("/v1/readers/r/feed")
    assert len(feed["items"]) == 10 and feed["version"] == "popular" and "N1" not in ids(feed)
    assert {item["source"] for item in feed["items"]} == {"popular"}
    assert "genre_app_model_failures_total" in app.get("/metrics")


def test_a_click_changes_the_counters_that_the_model_gets(app, server):
    app.click("r", "N20")
    deadline = time.monotonic() + 20
    while ids(app.get("/v1/readers/s/feed?k=2"))[0] != "N20":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    asked = server.signatures("recommend_live")[-1]
    place = asked["news_id"][0].split().index("N20")
    assert float(asked["clicks_1h"][0].split()[place]) == pytest.approx(1, abs=0.05)


def test_every_feed_is_kept_as_an_impression(app):
    feed = app.get("/v1/readers/r/feed?k=2", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    kept = app.get("/v1/readers/r")["impressions"]
    assert [one["impression"] for one in kept] == [feed["impression"]]
    assert kept[0]["model_version"] == "genre_recommender/1"
    assert [item[0] for item in json.loads(kept[0]["items"])] == ids(feed)


def test_the_trace_of_a_client_goes_on_to_the_model_server(app, server):
    trace = "0123456789abcdef" * 2
    _, _, headers = app.ask("GET", "/v1/readers/r/feed", traceparent=f"00-{trace}-{'cd' * 8}-01")
    assert trace in headers["traceresponse"]
    assert trace in server.asked[-1][3]["traceparent"]
    assert trace not in app.ask("GET", "/health", traceparent="00-xyz")[2]["traceresponse"]


def test_pins_blocks_and_caps(models, server, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('blocked = ["N1"]\ncaps = {sports = 1}\n[[pins]]\narticle = "N9"\nplace = 2\n')
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", rules=rules) as app:
        feed = app.get("/v1/readers/r/feed?k=5")
        assert ids(feed) == ["N2", "N9", "N3", "N4", "N5"]
        assert [item["source"] for item in feed["items"]][:2] == ["model", "pin"]
        app.click("r", "N9")
        assert "N9" not in ids(app.get("/v1/readers/r/feed?k=5"))
        rules.write_text("blocked = 5")
        deadline = time.monotonic() + 20
        while not any("stay as they were" in line for line in app.said):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "N1" not in ids(app.get("/v1/readers/s/feed"))


def test_a_share_of_the_readers_always_gets_the_labelled_version(models, server, tmp_path):
    server.labels |= {"stable": 1, "canary": 2}
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", canary={"canary": 0.3}) as app:
        first = {f"r{n}": app.get(f"/v1/readers/r{n}/feed")["version"] for n in range(60)}
        share = list(first.values()).count("genre_recommender/2") / 60
        assert 0.1 < share < 0.5
        assert all(
            app.get(f"/v1/readers/{reader}/feed")["version"] == version for reader, version in first.items()
        )
        server.labels.clear()  # a label that was removed: its readers get the usual version
        assert {app.get(f"/v1/readers/r{n}/feed")["version"] for n in range(20)} == {"genre_recommender/1"}


def test_readers_of_a_label_that_no_version_has_get_the_stable_version(models, server, tmp_path):
    server.labels |= {"stable": 1, "next": 2}  # without a label the newest version answers
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", canary={"canary": 1.0}) as app:
        assert app.get("/v1/readers/Ann/feed")["version"] == "genre_recommender/1"


def test_a_wrong_request_says_nothing_about_labels(server):
    server.labels |= {"stable": 1, "next": 2}  # without a label the newest version answers
    asked = ModelServer(server.address)
    call = calls.recommend_live([["N1"]], [{"N1": [1.0] * len(COUNTERS)}])
    server.refused.add("recommend_live")
    with pytest.raises((InputError, FailureError)):  # with the status of a label that no version has
        asked.ask(call, 5.0, label="stable")
    server.refused.clear()
    assert asked.ask(call, 5.0, label="stable").version == "genre_recommender/1"
    asked.close()


def test_a_shadow_is_compared_and_never_shown(models, server, tmp_path):
    server.labels |= {"stable": 1, "next": 2}
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", shadow="next") as app:
        assert app.get("/v1/readers/r/feed")["version"] == "genre_recommender/1"
        deadline = time.monotonic() + 20
        while 'genre_app_shadow_agreement_count{label="next"} 1.0' not in app.get("/metrics"):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_articles_are_those_of_the_version_that_answers(models, server, tmp_path):
    write_version(models, 2)
    (models / "genre_recommender" / "1" / "assets.extra" / "articles.jsonl").write_text(
        json.dumps({"news_id": "N1", "title": "x", "category": "older", "text": "", "counters": [0] * 9})
        + "\n"
    )
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}") as app:
        deadline = time.monotonic() + 20
        while app.get("/v1/readers/r/feed")["items"][0]["category"] != "older":  # the server answers with 1
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("k", ["0", "101", "-1", "x", "1e1", "", "٣"])
def test_a_wrong_length_is_refused(app, k):
    status, refused, _ = app.ask("GET", f"/v1/readers/r/feed?k={urllib_quote(k)}")
    assert status == 422 and refused["field"] == "k"


def urllib_quote(text):
    from urllib.parse import quote

    return quote(text)
