"""Who may ask what, how much, and what never leaves the app."""

import json
import logging
import time

import pytest

from genre_tf.errors import InputError
from genre_tf.serving.app.access import Editors, Limits, Rate
from genre_tf.serving.app.observing import LOGGER, JsonLines

from .conftest import TOKEN, running

EDITORS_ONLY = [("GET", "/v1/reviews"), ("GET", "/v1/reviews/1"), ("POST", "/v1/reviews/1")]


@pytest.mark.parametrize(("method", "path"), EDITORS_ONLY)
def test_editors_need_a_token(app, method, path):
    body = {"decision": "approve"} if method == "POST" else None
    status, refused, headers = app.ask(method, path, body)
    assert status == 401 and "token" in refused["error"] and headers["www-authenticate"] == "Bearer"
    assert app.ask(method, path, body, token=TOKEN)[0] in (200, 404)


def test_who_guesses_tokens_is_slowed_down(app):
    statuses = [app.ask("GET", "/v1/reviews", token=f"guess-{n}")[0] for n in range(15)]
    assert statuses[:10] == [401] * 10 and statuses[-1] == 429
    assert app.get("/v1/readers/r/feed")["items"]


def test_a_session_of_a_browser_is_signed_and_ends(monkeypatch, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# the desk\nAda first-secret-token\nBob second-secret-token\n")
    editors = Editors(file)
    assert editors.named("second-secret-token") == "Bob" and editors.named("Bob") is None
    cookie = editors.session("Ada")
    assert editors.of_session(cookie) == "Ada"
    for forged in ("", ".", cookie[:-1] + "0", cookie.replace("416461", "426f62"), "x.y.é"):
        assert editors.of_session(forged) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 13 * 3600)
    assert editors.of_session(cookie) is None


@pytest.mark.parametrize("content", [None, "", "# only a comment\n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_refused(tmp_path, content):
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="--editor-token-file"):
        Editors(file)


def test_bodies_that_are_too_large_are_refused(models, server, tmp_path):
    limits = Limits(body_bytes=1000)
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", limits=limits) as app:
        assert app.post("/v1/events", b" " * 1001)[0] == 413
        assert app.post("/v1/events", b" " * 1000)[0] == 400
        assert app.ask("POST", "/ask", b"a" * 2000, Sec_Fetch_Site="same-origin")[0] == 413


def test_clients_that_ask_too_much_wait(models, server, tmp_path):
    database = f"sqlite:///{tmp_path / 'a.db'}"
    with running(models, server.address, database, limits=Limits(write_rate=0.001)) as app:
        asked = {"reader": "r", "question": "Who?"}
        assert [app.post("/v1/ask", asked)[0] for _ in range(12)] == [200] * 10 + [429] * 2
        assert app.ask("GET", "/health")[0] == 200
    with running(models, server.address, database, limits=Limits(rate=0.001)) as app:
        found = [app.ask("GET", "/health") for _ in range(11)]
        assert [status for status, _, _ in found] == [200] * 10 + [429]
        assert found[-1][2]["retry-after"] == "1"


def test_a_rate_forgets_the_oldest_clients_and_lets_each_go_on_after_a_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(10.0)
    assert [rate.allows("a") for _ in range(11)] == [True] * 10 + [False]
    assert rate.allows("b")
    now[0] = 0.1
    assert rate.allows("a") and not rate.allows("a")
    for client in range(20_000):
        rate.allows(str(client))
    assert len(rate._left) == 10_000


def test_other_sites_can_neither_frame_nor_post_nor_rename_the_app(app):
    status, page, headers = app.ask("GET", "/")
    assert status == 200 and "script-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "<script>" not in page and "style=" not in page
    fields = {"reader": "r", "kind": "click", "article": "N1"}
    assert app.form("/act", fields, Sec_Fetch_Site="cross-site")[0] == 403
    assert app.form("/act", fields, Sec_Fetch_Site="same-origin")[0] == 303
    event = json.dumps(fields).encode()
    assert app.ask("POST", "/v1/events", event, Content_Type="text/plain")[0] == 415
    assert app.ask("GET", "/health", Host="evil.example")[0] == 421


def test_the_log_has_no_readers_and_no_control_characters(app):
    lines = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(JsonLines().format(record))

    handler, level = Kept(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        app.get("/v1/readers/very-secret-reader/feed")
        app.get("/v1/readers/very-secret-reader")
        app.ask("GET", "/v1/readers/%1b%5b2J")
        app.ask("GET", "/nowhere/very-secret-reader")
        deadline = time.monotonic() + 20
        while len(lines) < 4:  # a line is written after its answer
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
    found = [json.loads(line) for line in lines]
    assert [one["route"] for one in found] == ["feed", "reader", "reader", "(none)"]
    assert [one["status"] for one in found] == [200, 200, 422, 404]
    assert found[0]["reader"] == found[1]["reader"] and len(found[0]["trace"]) == 32
    text = "\n".join(lines)
    assert "very-secret-reader" not in text and all(" " <= letter <= "~" or letter == "\n" for letter in text)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/events"), ("POST", "/v1/readers/r"), ("DELETE", "/v1/events")]
)
def test_other_methods_are_refused(app, method, path):
    assert app.ask(method, path, {})[0] == 405


def test_a_head_that_is_too_long_is_refused(app):
    assert app.ask("GET", "/health", X=70_000 * "x")[0] == 431


def test_health_tells_what_is_missing(app, server):
    assert app.get("/health") == {"status": "ok", "database": True, "model_server": True}
    server.stop()
    assert app.get("/health")["status"] == "degraded"
