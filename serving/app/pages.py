"""Pages for people, rendered here: the newsroom, the desk and the state. They work without JavaScript."""

import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from genre_tf.serving.app import checks
from genre_tf.serving.app.access import SESSION, SESSION_S, from_this_site
from genre_tf.serving.app.checks import RefusedError
from genre_tf.serving.app.texts import marked
from genre_tf.serving.app.web import Web, number_of

_FILES = Path(__file__).with_name("page_files")
_STATIC = {"app.css": "text/css", "app.js": "text/javascript"}
_DAY_HOURS = 24
_MOST_TITLES = 10


class Pages:
    """The pages of an app; what they do goes through the same code as the routes of programs."""

    def __init__(self, web: Web) -> None:
        self._web, self._state = web, web.state
        self._words = tomllib.loads((_FILES / "words.toml").read_text("utf-8"))
        self._templates = Environment(
            loader=FileSystemLoader(_FILES), autoescape=True, undefined=StrictUndefined
        )

    def routes(self) -> list[BaseRoute]:
        """All routes; every POST is a form of one of these pages."""
        posts = {
            "/act": self.act,
            "/text": self.newsroom,
            "/ask": self.newsroom,
            "/forget": self.forget,
            "/review/{id}": self.decide,
            "/login": self.log_in,
            "/logout": self.log_out,
        }
        gets = {
            "/": self.newsroom,
            "/review": self.review,
            "/status": self.status,
            "/static/{name}": self.static,
        }
        return [
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
        ]

    async def newsroom(self, request: Request) -> Response:
        """The feed of a reader, and what was written or answered just now."""
        given = await self._given(request)
        reader = given.get("reader", "").strip()
        more: dict[str, Any] = {"written": None, "answered": None, "question": "", "reading": None}
        if not reader:
            words = self._language(request, given)[1]
            more["notice"] = words["forgotten"] if "forgotten" in given else ""
            return self._page("newsroom.html", request, given, reader="", **more)
        try:
            reader = checks.identifier(reader)
            more |= await self._done(request, given, reader)
        except (RefusedError, ValueError) as error:
            more["notice"] = self._language(request, given)[1]["failed"].format(error=error)
            if isinstance(error, ValueError):
                return self._page("newsroom.html", request, given, reader="", **more)
        run = self._state.run
        feed = await run(self._web.feeds.feed, reader, 10, request.state.trace)
        history, _ = await run(self._state.store.clicks_and_hides, reader)
        articles = self._state.pool.articles
        titles = {news_id: articles[news_id].title for news_id in history if news_id in articles}
        more |= {"feed": feed, "history": history, "titles": titles, "reader": reader}
        more["reading"] = articles.get(given.get("reading", ""))
        return self._page("newsroom.html", request, given, **more)

    async def _done(self, request: Request, given: Mapping[str, str], reader: str) -> dict[str, Any]:
        """What the forms of the newsroom ask for."""
        path = request.url.path
        if request.method != "POST":
            return {}
        self._web.take_turn(request)
        if path == "/ask":
            asked = checks.read_object({"reader": reader, "question": given.get("question", "")}, checks.ASK)
            answered = await self._state.run_long(self._web.desk.ask, asked, request.state.trace)
            return {"answered": answered, "question": asked["question"]}
        asked = {"reader": reader, "kind": "title", "article": given.get("article")}
        wanted = checks.read_object(asked, checks.WRITE)
        written = await self._state.run_long(self._web.desk.write, wanted, request.state.trace)
        article = self._state.pool.articles[written["article"]]
        for text in written["texts"]:
            text["pieces"] = marked(text["text"], article.text or article.title)
        for status in ("waiting", "withheld"):
            written[status] = sum(text["status"] == status for text in written["texts"])
        return {"written": written}

    async def act(self, request: Request) -> Response:
        """A click on an article, or that it is to be hidden."""
        given = await self._given(request)
        event = {name: given[name] for name in ("reader", "kind", "article", "impression") if given.get(name)}
        await self._web.record(checks.read_events(event))
        reading = {"reading": given["article"]} if given["kind"] == "click" else {}
        return self._see("/", {"reader": given["reader"], **reading}, given)

    async def forget(self, request: Request) -> Response:
        """Erase a reader."""
        given = await self._given(request)
        await self._web.erase_reader(checks.read_object({"reader": given.get("reader")}, _READER)["reader"])
        return self._see("/", {"forgotten": "1"}, given)

    async def review(self, request: Request) -> Response:
        """The queue of the editors."""
        editor = self._editor(request)
        if editor is None:
            return self._log_in_page(request)
        reviews = await self._state.run(self._web.desk.reviews, "waiting")
        for review in reviews:
            review["pieces"] = marked(review["written"], review["source"])
        words = self._language(request, request.query_params)[1]
        number, done = (request.query_params.get(name, "") for name in ("number", "done"))
        known = done in ("decided", "conflict", "refused")
        notice = words[done].format(number=number[:20]) if known else ""
        return self._page("review.html", request, {}, reviews=reviews, editor=editor, notice=notice)

    async def decide(self, request: Request) -> Response:
        """An editor's decision by a form."""
        given = await self._given(request)
        editor = self._web.editor(request, by_cookie=True)
        asked = {name: given[name] for name in ("decision", "note") if given.get(name)}
        if given.get("decision") == "edit":
            asked["text"] = given.get("text", "")
        done, number = "decided", number_of(request)
        try:
            decision = checks.read_object(asked, checks.DECISION)
            await self._state.run(self._web.desk.decide, number, decision, editor)
        except RefusedError as error:
            if error.status not in (409, 422):
                raise
            done = "conflict" if error.status == 409 else "refused"
        return self._see("/review", {"number": str(number), "done": done}, given)

    async def status(self, request: Request) -> Response:
        """Versions, traffic, click rates, drift."""
        if self._editor(request) is None:
            return self._log_in_page(request)
        state = self._state
        since = int(time.time() // 3600) - _DAY_HOURS
        rates = await state.run(
            lambda: state.store.read(
                "SELECT model_version, sum(views) AS views, sum(clicks) AS clicks FROM rates "
                "WHERE hour > :since GROUP BY model_version ORDER BY views DESC",
                since=since,
            )
        )
        articles = state.pool.articles
        return self._page(
            "status.html",
            request,
            {},
            version=state.version,
            articles=len(articles),
            shares=state.rollout.shares,
            health=await state.run(state.health),
            waiting=state.queue_length,
            rates=rates,
            drifts=state.metrics.drifts.indexes(),
            popular=[articles[news_id].title for news_id in state.live.popular[:_MOST_TITLES]],
        )

    async def log_in(self, request: Request) -> Response:
        """Give an editor's browser a session."""
        given = await self._given(request)
        back = given.get("next") if given.get("next") in ("/review", "/status") else "/review"
        try:
            name = self._web.editor_of(request, given.get("token", "").strip())
        except RefusedError as error:
            words = self._language(request, given)[1]
            notice = words["wrong_token"] if error.status == 401 else str(error)
            return self._log_in_page(request, notice, error.status, str(back))
        response = self._see(str(back), {}, given)
        secure = request.url.scheme == "https"
        response.set_cookie(
            SESSION,
            self._web.editors.session(name),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """End an editor's session in this browser."""
        given = await self._given(request)
        response = self._see("/review", {}, given)
        response.delete_cookie(SESSION)
        return response

    async def static(self, request: Request) -> Response:
        """The style and the script of the pages."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise RefusedError(404, "no such file")
        return Response((_FILES / name).read_bytes(), media_type=_STATIC[name])

    def _editor(self, request: Request) -> str | None:
        try:
            return self._web.editor(request, by_cookie=True)
        except RefusedError as error:
            if error.status == 401:
                return None
            raise

    def _log_in_page(
        self, request: Request, notice: str = "", status: int = 401, here: str | None = None
    ) -> Response:
        response = self._page("login.html", request, {}, notice=notice, here=here or request.url.path)
        response.status_code = status
        return response

    async def _given(self, request: Request) -> dict[str, str]:
        """What a form or the query of a page has; forms are taken from pages of this app alone."""
        if request.method == "GET":
            return dict(request.query_params)
        if not from_this_site(request.headers):
            raise RefusedError(403, "this form comes from another site")
        return await self._web.form(request)

    def _language(self, request: Request, given: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        """The language that the page is asked in, otherwise that of the browser, and its words."""
        asked = given.get("lang") or request.query_params.get("lang", "")
        accepted = request.headers.get("accept-language", "").lower()
        wanted = asked if asked in self._words else "zh" if accepted.startswith("zh") else "en"
        return wanted, self._words[wanted]

    def _page(self, template: str, request: Request, given: Mapping[str, str], **values: Any) -> Response:
        language, words = self._language(request, given)
        path = request.url.path if request.url.path in ("/review", "/status") else "/"
        known = {"here": path, "reader": "", "notice": ""}
        text = self._templates.get_template(template).render(
            t=words,
            language=language,
            languages=[(code, each["language"]) for code, each in self._words.items()],
            **known | values,
        )
        return Response(text, media_type="text/html")

    def _see(self, path: str, query: Mapping[str, str], given: Mapping[str, str]) -> Response:
        """Send the browser to a page, so that loading it again repeats nothing."""
        asked = {**query, **({"lang": given["lang"]} if given.get("lang") in self._words else {})}
        return RedirectResponse(f"{path}?{urlencode(asked)}" if asked else path, 303)


_READER = {"reader": checks.ASK["reader"]}
