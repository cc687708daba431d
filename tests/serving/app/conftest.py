"""The app over a model server of these tests: it answers over gRPC, and remembers what it was asked."""

import asyncio
import importlib.util
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from genre_tf.serving.client.messages import PREDICT, PredictRequest, PredictResponse, to_array, write_proto

# The app is an extra, which `make` installs; without it its tests are left out.
collect_ignore_glob = [] if importlib.util.find_spec("sqlalchemy") else ["test_*.py"]

TOKEN = "a token that nobody guesses".replace(" ", "-")
TITLES = {f"N{number}": f"Story {number} of the harbour" for number in range(1, 31)}
CATEGORIES = ("sports", "finance", "weather")
SERVED = 10


def write_version(models: Path, number: int = 1, as_of: str | None = None, views: int = 10) -> Path:
    """The files of a version that the app reads; there is no graph."""
    extra = models / "genre_recommender" / str(number) / "assets.extra"
    extra.mkdir(parents=True)
    lines = [
        {
            "news_id": news_id,
            "title": title,
            "category": CATEGORIES[place % 3],
            "text": f"{title}. The ferry sank near the old harbour on Monday.",
            "counters": [place, views, 2.0, 0, 0, 0, 1, 2, 3],
            "withdrawn": False,
        }
        for place, (news_id, title) in enumerate(TITLES.items())
    ]
    (extra / "articles.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (extra / "contract.json").write_text(json.dumps({"sources": {"counters_as_of": as_of}}))
    return extra.parent


class Text(dict[str, Any]):
    """A text that the model server writes."""


class FakeServer:
    """Recommends unread articles in the order of their numbers, but those first that are clicked now."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, list[str]], dict[str, str]]] = []
        self.labels: dict[str, int] = {}
        self.failing: set[str] = set()
        self.refused: set[str] = set()  # signatures whose requests are wrong
        self.delay_s = 0.0
        self.texts = [("The ferry sank on Monday", 0.4, 1.0, True), ("Aliens sank the ferry", 0.3, 0.5, True)]
        self.vectors, self.centre = np.random.default_rng(0), 0.0  # of readers
        self.answer = ("near the old harbour", "N1")
        self._server = grpc.server(ThreadPoolExecutor(16))
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict, PredictRequest.FromString, PredictResponse.SerializeToString
        )
        service, _, method = PREDICT[1:].partition("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def signatures(self, name: str) -> list[dict[str, list[str]]]:
        """The inputs of all requests to a signature."""
        return [inputs for signature, _, inputs, _ in self.asked if signature == name]

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        spec = request.model_spec
        inputs = {
            name: [row.decode() if isinstance(row, bytes) else str(row) for row in to_array(proto)]
            for name, proto in request.inputs.items()
        }
        told = {key: str(value) for key, value in context.invocation_metadata()}
        self.asked.append((spec.signature_name, spec.version_label, inputs, told))
        time.sleep(self.delay_s)
        if spec.signature_name in self.failing:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if spec.signature_name in self.refused:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a wrong request")
        if spec.version_label and spec.version_label not in self.labels:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no version labelled {spec.version_label}")
        response = PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = self._version(spec.version_label)
        outputs = getattr(self, f"_{spec.signature_name}")(inputs, self._version(spec.version_label))
        for name, value in outputs.items():
            write_proto(value, response.outputs[name])
        return response

    def _version(self, label: str) -> int:
        """As TensorFlow Serving: without a label the newest version answers."""
        return self.labels.get(label, max([1, *self.labels.values()]))

    def _recommend_live(self, inputs: dict[str, list[str]], version: int) -> dict[str, np.ndarray]:
        read = set(inputs["history"][0].split())
        named = inputs["news_id"][0].split()
        views, clicks = (
            {
                one: float(number)
                for one, number in reversed([*zip(named, inputs[name][0].split(), strict=False)])
            }
            for name in ("views", "clicks_1h")
        )  # of an article that is named twice the first numbers count
        gone = {news_id for news_id in named if views[news_id] == 0}
        left = [news_id for news_id in TITLES if news_id not in read | gone]
        left.sort(key=lambda news_id: -clicks.get(news_id, 0))
        if version > 1:
            left.reverse()
        best = left[:SERVED] + [""] * (SERVED - len(left))
        scores = np.array([[0.9 - place / 100 for place in range(SERVED)]], np.float32)
        columns = {"news_id": best, "title": [TITLES.get(one, "") for one in best]}
        return {name: _bytes([column]) for name, column in columns.items()} | {"score": scores}

    def _explain(self, inputs: dict[str, list[str]], version: int) -> dict[str, np.ndarray]:
        history, candidates = (inputs[name][0].split() for name in ("history", "candidates"))
        known = [one for one in history if one in TITLES]
        weights = np.zeros((1, len(candidates), max(len(known), 1)), np.float32)
        weights[:, :, -1] = 1.0 if known else 0.0
        return {"history_id": _bytes([known or [""]]), "weight": weights}

    def _embed_user(self, inputs: dict[str, list[str]], version: int) -> dict[str, np.ndarray]:
        return {"embedding": self.vectors.normal(self.centre, size=(1, 16)).astype(np.float32)}

    def _generate(self, inputs: dict[str, list[str]], version: int) -> dict[str, np.ndarray]:
        text, interest, grounding, safe = map(list, zip(*self.texts, strict=True))
        numbers = {"interest": interest, "log_probability": [-1.0] * len(text), "grounding": grounding}
        columns = {name: np.array([column], np.float32) for name, column in numbers.items()}
        return {"text": _bytes([text]), "safe": np.array([safe]), **columns}

    _generate_styled = _generate

    def _answer(self, inputs: dict[str, list[str]], version: int) -> dict[str, np.ndarray]:
        text, evidence = self.answer
        title = TITLES.get(evidence, "")
        columns = {"text": [text], "evidence_id": [evidence], "evidence_title": [title]}
        return {name: _bytes([column]) for name, column in columns.items()} | {
            "interest": np.array([[0.5]], np.float32)
        }


def _bytes(rows: list[list[str]]) -> np.ndarray:
    return np.array([[text.encode() for text in row] for row in rows], object)


class Running:
    """A running app, and requests to it."""

    def __init__(self, url: str, database: str) -> None:
        self.url, self.database = url, database

    def ask(
        self, method: str, path: str, body: Any = None, token: str = "", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, document or text, and headers of an answer; redirects are not followed."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if token:
            sent["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=60) as answer:
                return self._read(answer)
        except urllib.error.HTTPError as error:
            with error:
                return self._read(error)

    def get(self, path: str, **more: Any) -> Any:
        """The document of a GET that must succeed."""
        status, document, _ = self.ask("GET", path, **more)
        assert status == 200, document
        return document

    def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        return self.ask("POST", path, body, **more)[:2]

    def form(self, path: str, fields: dict[str, str], **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Send a form as a page of the app does."""
        kind = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode(fields).encode()
        return self.ask(
            "POST", path, body, **{"Content_Type": kind, "Sec_Fetch_Site": "same-origin", **headers}
        )

    def click(self, reader: str, article: str, **more: Any) -> None:
        event = {"reader": reader, "kind": "click", "article": article, **more}
        assert self.post("/v1/events", event)[0] == 202

    @staticmethod
    def _read(answer: Any) -> tuple[int, Any, dict[str, str]]:
        text = answer.read().decode()
        is_json = "json" in (answer.headers["Content-Type"] or "")
        return answer.status, json.loads(text) if text and is_json else text, dict(answer.headers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *request: Any) -> None:
        return None


@contextmanager
def running(models: Path, server: str, database: str, **options: Any) -> Iterator[Running]:
    """The app in a thread of this process."""
    from genre_tf.serving.app.running import AppOptions, run_app

    ready, found, said = threading.Event(), [], []
    token_file = models / "token"
    token_file.write_text(f"Ada {TOKEN}\n")
    chosen = AppOptions(
        **{"database": database, "port": 0, "server": server, "editor_token_file": token_file, **options}
    )

    async def run() -> None:
        stop = asyncio.Event()
        found.append((asyncio.get_running_loop(), stop))
        await run_app(models, chosen, lambda url: (found.append(url), ready.set()), said.append, stop)

    def start() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            found.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=start)
    thread.start()
    assert ready.wait(60)
    assert isinstance(found[-1], str), found
    app = Running(found[-1], database)
    app.said = said
    try:
        yield app
    finally:
        found[0][0].call_soon_threadsafe(found[0][1].set)
        thread.join(30)


@pytest.fixture(autouse=True)
def no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that counts requests is not disturbed by those for the readers' vectors."""
    monkeypatch.setattr("genre_tf.serving.app.feed.VECTOR_SHARE", 0.0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_version(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def app(models: Path, server: FakeServer, tmp_path: Path) -> Iterator[Running]:
    with running(models, server.address, f"sqlite:///{tmp_path / 'app.db'}") as found:
        yield found
