"""Pages: what they show, in both languages, and that nothing in a text becomes markup."""

import html.parser
import json
import re

import pytest

from genre_tf.serving.app.pages import Pages

from .conftest import TITLES, TOKEN, running

SCRIPT = "<script>alert(1)</script>\"'&"


class Tags(html.parser.HTMLParser):
    """All tags of a page with their attributes, and what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def checked(page):
    """The tags of a page whose elements are closed, and whose fields have labels."""
    tags = Tags(page)
    assert tags.open == [] and len(tags.named("h1")) == 1 and tags.named("html")[0]["lang"]
    labelled = {label["for"] for label in tags.named("label")}
    for field in tags.named("input") + tags.named("textarea"):
        assert field.get("type") == "hidden" or field["id"] in labelled
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags.found:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in ids
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    return tags


def logged_in(app):
    status, _, headers = app.form("/login", {"token": TOKEN, "next": "/review"})
    assert status == 303 and headers["location"] == "/review"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    return cookie.split(";")[0]


def test_a_reader_sees_the_feed_clicks_and_sees_it_change(app):
    checked(app.get("/"))
    page = app.get("/?reader=r")
    checked(page)
    assert TITLES["N1"] in page and "Chosen by the model" in page
    impression = re.search(r'name="impression" value="(\w+)"', page)[1]
    fields = {"reader": "r", "kind": "click", "article": "N1", "impression": impression}
    status, _, headers = app.form("/act", fields)
    assert status == 303
    page = app.get(headers["location"])
    checked(page)
    assert "Articles read: 1" in page and f"Because of “{TITLES['N1']}”" in " ".join(page.split())
    assert (
        page.count(TITLES["N1"]) == page.count(f"“{TITLES['N1']}”") + 2
    )  # the article itself: title and text
    app.form("/act", {"reader": "r", "kind": "hide", "article": "N2"})
    assert TITLES["N2"] + "<" not in app.get("/?reader=r")


def test_a_reader_asks_has_written_and_is_erased(app, server):
    status, page, _ = app.form("/ask", {"reader": "r", "question": "Where?"})
    assert status == 200 and "near the old harbour" in page
    checked(page)
    status, page, _ = app.form("/text", {"reader": "r", "article": "N2"})
    checked(page)
    assert "The ferry sank on Monday" in page and "Aliens" not in page and "Waiting for an editor: 1" in page
    assert "<mark>" not in page
    status, _, headers = app.form("/forget", {"reader": "r"})
    assert status == 303 and "The reader was erased" in app.get(headers["location"])
    assert app.ask("GET", "/v1/readers/r")[0] == 404


def test_a_wrong_reader_or_a_failing_writer_is_told_on_the_page(app, server):
    status, page, _ = app.ask("GET", "/?reader=two%20words%3Cb%3E")
    assert status == 200 and "must be one word" in page and "<b>" not in page
    server.failing.add("answer")
    status, page, _ = app.form("/ask", {"reader": "r", "question": "Where?"})
    assert status == 200 and "the writer does not answer" in page


def test_the_desk_and_the_status_need_a_token(app):
    for path in ("/review", "/status"):
        status, page, _ = app.ask("GET", path)
        assert status == 401 and 'type="password"' in page
        checked(page)
        assert app.ask("GET", path, token=TOKEN)[0] == 200
    status, page, _ = app.form("/login", {"token": "wrong", "next": "//evil.example"})
    assert status == 401 and "This token is wrong" in page
    assert app.form("/login", {"token": TOKEN, "next": "//evil.example"})[2]["location"] == "/review"
    assert app.form("/review/1", {"decision": "approve"})[0] == 401


def test_an_editor_goes_through_the_queue(app, server):
    server.texts = [("Aliens sank the ferry", 0.3, 0.5, True), ("Ghosts sank the ferry", 0.3, 0.6, True)]
    app.post("/v1/write", {"reader": "r", "kind": "title", "article": "N2"})
    cookie = logged_in(app)
    page = app.get("/review", Cookie=cookie)
    tags = checked(page)
    assert "<mark>Aliens </mark>" in page and len(tags.named("textarea")) == 2
    first, second = (form["action"] for form in tags.named("form") if form["action"].startswith("/review/"))
    _, _, headers = app.form(first, {"decision": "edit", "text": " "}, Cookie=cookie)
    assert "is as it was" in app.get(headers["location"], Cookie=cookie)
    assert app.form(first, {"decision": "reject", "note": "no"}, Cookie=cookie)[0] == 303
    _, _, headers = app.form(second, {"decision": "edit", "text": "The ferry sank"}, Cookie=cookie)
    page = app.get(headers["location"], Cookie=cookie)
    assert "No text waits" in page and "is kept" in page
    _, _, headers = app.form(second, {"decision": "approve"}, Cookie=cookie)
    assert "decided by somebody else" in app.get(headers["location"], Cookie=cookie)
    assert app.form(first, {"decision": "approve"}, Cookie=cookie, Sec_Fetch_Site="cross-site")[0] == 403
    app.form("/logout", {}, Cookie=cookie)


def test_the_cookie_of_a_browser_opens_no_route_of_programs(app):
    assert app.ask("GET", "/v1/reviews", Cookie=logged_in(app))[0] == 401


def test_the_status_shows_versions_rates_and_drift(app):
    feed = app.get("/v1/readers/r/feed?k=4")
    app.click("r", "N1", impression=feed["impression"])
    page = app.get("/status", token=TOKEN)
    checked(page)
    assert "genre_recommender/1" in page and "25.00 %" in page and "answers" in page


def test_pages_speak_the_language_of_the_browser_or_the_one_that_is_chosen(app):
    assert 'lang="zh"' in app.get("/", Accept_Language="zh-CN,zh;q=0.9")
    assert "给 r 的推荐" in app.get("/?reader=r&lang=zh", Accept_Language="en")
    assert "For r" in app.get("/?reader=r&lang=xx")
    _, _, headers = app.form("/act", {"reader": "r", "kind": "click", "article": "N1", "lang": "zh"})
    assert headers["location"].endswith("lang=zh")


def test_both_languages_have_the_same_words():
    import tomllib

    from genre_tf.serving.app import pages

    words = tomllib.loads((pages._FILES / "words.toml").read_text("utf-8"))
    places = {
        code: {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in each.items()}
        for code, each in words.items()
    }
    assert places["en"] == places["zh"]
    used = {
        key for file in pages._FILES.glob("*.html") for key in re.findall(r"\bt\.(\w+)", file.read_text())
    }
    assert used <= words["en"].keys() and not used & set(dir(dict))
    assert Pages is pages.Pages


def test_script_in_titles_texts_notes_and_ids_stays_text(models, server, tmp_path):
    file = models / "genre_recommender/1/assets.extra/articles.jsonl"
    lines = [
        json.loads(line) | {"title": SCRIPT, "category": SCRIPT} for line in file.read_text().splitlines()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    TITLES_BEFORE = dict(TITLES)
    TITLES.update(dict.fromkeys(TITLES, SCRIPT))
    try:
        server.texts = [(SCRIPT, 0.3, 0.5, True), (SCRIPT, 0.3, 1.0, True)]
        server.answer = (SCRIPT, "N1")
        with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}") as app:
            pages = [
                app.form("/text", {"reader": '"><b>', "article": "N2"})[1],
                app.form("/ask", {"reader": "r", "question": SCRIPT})[1],
                app.get("/review", token=TOKEN),
                app.get("/status", token=TOKEN),
            ]
    finally:
        TITLES.update(TITLES_BEFORE)
    for page in pages:
        tags = checked(page)
        assert tags.named("script") == [{"src": "/static/app.js", "defer": None}]
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize("name", ["app.css", "app.js"])
def test_style_and_script_are_served_and_nothing_else(app, name):
    status, text, headers = app.ask("GET", f"/static/{name}")
    assert status == 200 and text and headers["x-content-type-options"] == "nosniff"
    for path in ("/static/words.toml", "/static/..%2fweb.py", "/static/"):
        assert app.ask("GET", path)[0] == 404
