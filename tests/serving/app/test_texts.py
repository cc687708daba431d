"""Written texts: shown if grounded and safe, otherwise an editor decides, once."""

import time

import pytest

from genre_tf.serving.app.texts import marked

from .conftest import TITLES, TOKEN

WRITE = {"reader": "r", "kind": "title", "article": "N2"}


def written(app, **more):
    status, document = app.post("/v1/write", WRITE | more)
    assert status == 200, document
    return document["texts"]


def waiting(app):
    return app.get("/v1/reviews?status=waiting", token=TOKEN)["reviews"]


def decide(app, number, decision, **more):
    return app.post(f"/v1/reviews/{number}", {"decision": decision, **more}, token=TOKEN)


def test_grounded_texts_are_shown_and_others_wait_unseen(app, server):
    server.texts.append(("", -1.0, -1.0, False))
    shown, unsure, unsafe = written(app)
    assert (shown["text"], shown["status"]) == ("The ferry sank on Monday", "shown")
    assert (unsure["text"], unsure["status"]) == ("", "waiting")
    assert (unsafe["text"], unsafe["status"], unsafe["id"]) == ("", "withheld", None)
    (review,) = waiting(app)
    assert review["id"] == unsure["id"] and review["written"] == "Aliens sank the ferry"
    assert review["source"].startswith(TITLES["N2"]) and review["model_version"] == "genre_generator/1"


def test_an_unsafe_text_that_the_server_shows_waits(app, server):
    server.texts = [("Nasty words", 0.9, 1.0, False)]
    assert [text["status"] for text in written(app)] == ["waiting"]


def test_the_writer_gets_the_titles_that_the_reader_clicked_and_the_article(app, server):
    app.click("r", "N5")
    app.click("r", "unknown")
    written(app, tone="lively", topic="ferries")
    asked = server.signatures("generate_styled")[-1]
    assert asked["history_text"] == [TITLES["N5"]]
    assert "ferry sank" in asked["source"][0] and (asked["tone"], asked["topic"]) == (["lively"], ["ferries"])


def test_the_queue_begins_with_what_is_nearest_to_the_limit(app, server):
    server.texts = [("a", 0.1, 0.0, True), ("b", 0.1, 0.7, True), ("c", 0.1, 0.4, True)]
    written(app)
    assert [review["written"] for review in waiting(app)] == ["b", "c", "a"]


def test_editors_decide_once_and_are_named(app):
    number = written(app)[1]["id"]
    status, text = decide(app, number, "reject", note="invented")
    assert (status, text["status"], text["editor"], text["note"]) == (200, "rejected", "Ada", "invented")
    status, refused = decide(app, number, "approve")
    assert status == 409 and "rejected" in refused["error"]
    assert waiting(app) == []
    assert [one["id"] for one in app.get("/v1/reviews?status=rejected", token=TOKEN)["reviews"]] == [number]


def test_an_edit_keeps_both_wordings(app):
    number = written(app)[1]["id"]
    assert decide(app, number, "edit")[1]["field"] == "text"
    assert decide(app, number, "edit", text="The ferry sank")[0] == 200
    text = app.get(f"/v1/reviews/{number}", token=TOKEN)
    assert (text["written"], text["edited"], text["status"]) == (
        "Aliens sank the ferry",
        "The ferry sank",
        "approved",
    )


def test_what_is_out_can_be_withdrawn(app):
    shown, unsure = written(app)
    assert decide(app, shown["id"], "withdraw")[1]["status"] == "withdrawn"
    assert decide(app, unsure["id"], "withdraw")[0] == 409


def test_an_approved_title_stands_for_its_article_if_readers_prefer_it(app, server):
    server.texts = [("Ferry drama", 0.9, 0.5, True)]
    number = app.post("/v1/write", WRITE | {"article": "N1"})[1]["texts"][0]["id"]
    assert decide(app, number, "approve")[0] == 200
    seen, deadline = {}, time.monotonic() + 60
    while len(seen) < 2:  # both wordings are tried
        assert time.monotonic() < deadline
        item = app.get("/v1/readers/r/feed?k=1")["items"][0]
        seen[item["text"]] = (item["title"], item["headline"])
    assert seen == {0: (TITLES["N1"], TITLES["N1"]), number: (TITLES["N1"], "Ferry drama")}


def test_clicks_on_a_wording_make_it_more_frequent(app, server):
    server.texts = [("Ferry drama", 0.5, 0.5, True)]
    number = app.post("/v1/write", WRITE | {"article": "N1"})[1]["texts"][0]["id"]
    decide(app, number, "approve")
    time.sleep(1.2)
    for place in range(60):
        feed = app.get(f"/v1/readers/r{place}/feed?k=1")
        if feed["items"][0]["text"] == number:
            app.click(f"r{place}", "N1", impression=feed["impression"])
    time.sleep(2.5)
    shown = [app.get(f"/v1/readers/s{place}/feed?k=1")["items"][0]["text"] for place in range(30)]
    assert shown.count(number) > 25


def test_answers_come_with_their_evidence(app, server):
    status, answer = app.post("/v1/ask", {"reader": "r", "question": "Where did it sink?"})
    assert status == 200 and answer["answer"] == "near the old harbour"
    assert answer["evidence"] == [{"id": "N1", "title": TITLES["N1"]}]
    server.answer = ("", "")
    status, answer = app.post("/v1/ask", {"reader": "r", "question": "Who?"})
    assert (status, answer["answer"], answer["evidence"]) == (200, None, [])


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/write", WRITE | {"kind": "poem"}, 422, "kind"),
        ("/v1/write", WRITE | {"article": "N99"}, 404, "article"),
        ("/v1/write", WRITE | {"seed": 2**63}, 422, "seed"),
        ("/v1/write", WRITE | {"seed": 1.5}, 422, "seed"),
        ("/v1/write", WRITE | {"tone": "angry"}, 422, "tone"),
        ("/v1/write", {"reader": "r", "kind": "title"}, 422, "article"),
        ("/v1/ask", {"reader": "r", "question": " \u0007 "}, 422, "question"),
        ("/v1/ask", {"reader": "r", "question": "x" * 20_001}, 422, "question"),
    ],
)
def test_wrong_requests_are_refused_with_the_field(app, path, body, status, field):
    found, refused = app.post(path, body)
    assert (found, refused["field"]) == (status, field)


def test_a_writer_that_fails_is_a_503(app, server):
    server.failing |= {"generate", "answer"}
    assert app.post("/v1/write", WRITE)[0] == 503
    assert app.post("/v1/ask", {"reader": "r", "question": "Who?"})[0] == 503


def test_words_that_are_not_in_the_source_are_marked():
    pieces = marked("Aliens sank the ferry, again!", "The ferry sank on Monday. Nobody drowned.")
    assert [piece for piece, foreign in pieces if foreign] == ["Aliens ", ", again!"]
    assert "".join(piece for piece, _ in pieces) == "Aliens sank the ferry, again!"
