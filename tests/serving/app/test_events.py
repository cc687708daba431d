"""Events, and what a reader can ask about themself."""

import pytest

from .conftest import TITLES

CLICK = {"reader": "r", "kind": "click", "article": "N1"}


def test_events_are_accepted_in_one_or_many(app):
    assert app.post("/v1/events", CLICK) == (202, {"accepted": 1, "repeated": 0})
    many = [CLICK | {"article": "N2"}, CLICK | {"kind": "dwell", "seconds": 42.5}, CLICK | {"kind": "share"}]
    assert app.post("/v1/events", many) == (202, {"accepted": 3, "repeated": 0})
    told = app.get("/v1/readers/r")
    assert told["history"] == ["N1", "N2"]
    assert [event["kind"] for event in told["events"]] == ["share", "dwell", "click", "click"]
    assert told["events"][1]["seconds"] == 42.5


def test_a_repetition_is_told_and_not_counted(app):
    event = CLICK | {"event": "e-7"}
    assert app.post("/v1/events", [event, event]) == (202, {"accepted": 1, "repeated": 1})
    assert app.post("/v1/events", event) == (202, {"accepted": 0, "repeated": 1})
    assert "genre_app_repeated_events_total 2.0" in app.get("/metrics")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"kind": "clikc"}, "kind"),
        ({"kind": ["click"]}, "kind"),
        ({"reader": "two words"}, "reader"),
        ({"reader": None}, "reader"),
        ({"reader": "a/b"}, "reader"),
        ({"reader": "x" * 129}, "reader"),
        ({"reader": "\u202e\ud800"}, "reader"),
        ({"article": ""}, "article"),
        ({"article": 7}, "article"),
        ({"kind": "dwell"}, "seconds"),
        ({"kind": "dwell", "seconds": -1}, "seconds"),
        ({"kind": "dwell", "seconds": True}, "seconds"),
        ({"kind": "dwell", "seconds": 10**400}, "seconds"),
        ({"seconds": 3}, "seconds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_fault_refuses_all_events_and_is_told_with_its_place_and_field(app, wrong, field):
    status, refused = app.post("/v1/events", [CLICK, CLICK | wrong])
    assert (status, refused["place"], refused["field"]) == (422, 1, field)
    assert "entry 1: " in refused["error"]
    assert app.ask("GET", "/v1/readers/r")[0] == 404


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[" * 100_000, 400), (b"\xff", 400), (b"[]", 422), (b"7", 422)]
)
def test_what_is_no_list_of_events_is_refused(app, body, status):
    assert app.post("/v1/events", body)[0] == status


def test_a_click_on_a_feed_counts_for_the_version_that_made_it_once(app):
    feed = app.get("/v1/readers/r/feed?k=5")
    click = {"article": feed["items"][0]["id"], "impression": feed["impression"]}
    app.click("r", **click)
    app.click("r", **click)
    app.click("s", **click)  # not their impression
    page = app.get("/metrics")
    assert 'genre_app_clicks_total{version="genre_recommender/1"} 1.0' in page
    assert 'genre_app_views_total{version="genre_recommender/1"} 5.0' in page


def test_a_reader_can_be_erased(app):
    for reader in ("r", "s"):
        app.click(reader, "N1")
        app.get(f"/v1/readers/{reader}/feed")
        app.post("/v1/ask", {"reader": reader, "question": f"What did {reader} ask?"})
    assert app.ask("DELETE", "/v1/readers/r")[0] == 204
    assert app.ask("GET", "/v1/readers/r")[0] == 404
    assert app.ask("DELETE", "/v1/readers/r")[0] == 404
    assert app.get("/v1/readers/s")["history"] == ["N1"]
    assert len(app.get("/v1/readers/r/feed")["items"]) == 10  # a new reader
    assert app.get("/v1/readers/r")["history"] == []


def test_what_was_asked_and_written_is_told(app):
    app.post("/v1/ask", {"reader": "r", "question": "What  happened?"})
    app.post("/v1/write", {"reader": "r", "kind": "title", "article": "N2"})
    told = app.get("/v1/readers/r")
    assert [(event["kind"], event["words"]) for event in told["events"]] == [("ask", "What happened?")]
    assert {text["kind"] for text in told["texts"]} == {"answer", "title"}


def test_ids_of_other_scripts_and_with_signs_of_sql_are_only_ids(app):
    for reader in ("读者-7", "x';DROP", "%25", "é", "a+b", '"<b>"'):
        from urllib.parse import quote

        app.click(reader, "N1")
        assert app.get(f"/v1/readers/{quote(reader, safe='')}")["history"] == ["N1"], reader
    app.click("r", "N1';DELETE")
    assert len(app.get("/v1/readers/r/feed")["items"]) == 10
    assert len(TITLES) == 30
