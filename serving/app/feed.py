"""A reader's feed, and what readers do with it: impressions and events."""

import json
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from genre_tf.errors import FailureError, InputError
from genre_tf.serving.app.access import Rate
from genre_tf.serving.app.model_server import Answered, recommend_live
from genre_tf.serving.app.observing import LOGGER, overlap
from genre_tf.serving.app.rules import STABLE
from genre_tf.serving.app.state import Headline, State
from genre_tf.serving.app.storage import SLOT_SECONDS, Writes
from genre_tf.serving.client import calls
from genre_tf.serving.client.calls import Recommendation
from genre_tf.serving.live_choice import choose_text

_ANSWER_S = 2.0  # then the feed shows what is popular
_SHADOW_S = 10.0
_MOST_LATER = 8  # shadow requests and the like at a time; further ones are left out
VECTOR_SHARE = 0.05
"""Share of the feeds after which the model server is asked for the reader's vector, to watch its drift."""
_VECTORS_A_SECOND = 2.0
_MOST_REASONS = 2
_REASON_SHARE = 0.5  # a second click is named if it weighs at least half of the first
_HOUR = 3600


@dataclass(slots=True)
class Item:
    """An article of a feed."""

    id: str
    title: str
    headline: str  # the title, or an approved text that stands for it
    category: str
    score: float | None  # the model's; None if the article is not from it
    source: str  # model, popular or pin
    why: list[str]  # clicked articles that explain it
    text: int  # number of the approved text; 0 for the title
    probability: float | None  # with which this text was chosen; None: there is no other one


_FIELDS = Item.__slots__


class Feeds:
    """Makes feeds."""

    def __init__(self, state: State, shadow: str = "") -> None:
        self._state, self._shadow = state, shadow
        self._threads = ThreadPoolExecutor(_MOST_LATER, "later")
        self._tasks: set[Future[None]] = set()
        self._vectors = Rate(_VECTORS_A_SECOND, least_burst=_VECTORS_A_SECOND)

    def feed(self, reader: str, k: int, trace: str) -> dict[str, Any]:
        """The articles for a reader now; kept as an impression before it is returned."""
        state, metrics = self._state, self._state.metrics
        clicked, hidden = state.store.clicks_and_hides(reader)
        label, blocked = state.rollout.label(reader), state.rules.rules.blocked
        call, more = recommend_live(clicked), state.live.without({*hidden, *blocked})
        answered = self._ask(call, "recommend_live", label, trace, more)
        found = answered.answer[0] if answered else []
        items = self._items(found, k, {*clicked, *hidden})
        version = answered.version if answered else "popular"
        impression = secrets.token_hex(12)
        kept = [[one.id, one.score, one.source, one.text, one.probability] for one in items]
        row = {
            "impression": impression,
            "reader": reader,
            "time": time.time(),
            "model_version": version,
            "trace": trace.split("-")[1],
            "items": json.dumps(kept),
        }
        written = state.store.write(lambda writes: _new_impression(writes, row, kept))
        self._explain(items, clicked, label, trace)
        written.result()
        if answered and label == STABLE:
            state.answering(answered.version)
        metrics.views.labels(version).inc(len(items))
        for item in items:
            metrics.sources.labels(item.source).inc()
        if found:
            metrics.drifts.observe(f"scores of {version}", [one.score for one in found])
            metrics.drifts.observe("clicks in histories", [len(clicked)])
        if answered and clicked:
            unknown = sum(news_id not in state.pool.articles for news_id in clicked)
            metrics.drifts.observe("shares of unknown articles in histories", [unknown / len(clicked)])
            if random.random() < VECTOR_SHARE and self._vectors.allows(""):
                self._later(self._watch_vector, clicked, label, trace)
        if self._shadow and answered:
            self._later(self._compare, call, trace, more, found)
        shown = [{name: getattr(item, name) for name in _FIELDS} for item in items]
        return {"reader": reader, "impression": impression, "version": version, "items": shown}

    def _later(self, work: Callable[..., None], *given: Any) -> None:
        """Do something after the reader has got an answer."""
        if len(self._tasks) < _MOST_LATER:
            task = self._threads.submit(work, *given)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _watch_vector(self, clicked: Sequence[str], label: str, trace: str) -> None:
        answered = self._ask(calls.embed_user([clicked]), "embed_user", label, trace)
        if answered:
            self._state.metrics.drifts.observe(f"readers' vectors of {answered.version}", answered.answer)

    def _ask(self, call: Any, name: str, label: str, trace: str, more: bytes = b"") -> Answered[Any] | None:
        """The model server's answer; None if it fails: readers get a feed in any case."""
        try:
            answered = self._state.server.ask(call, _ANSWER_S, label=label, trace=trace, more=more)
        except (FailureError, InputError) as error:
            self._state.metrics.model_failures.labels(name).inc()
            LOGGER.warning("%s failed: %s", name, error)
            return None
        self._state.metrics.model_seconds.labels(name).observe(answered.seconds)
        return answered

    def _items(self, found: Sequence[Recommendation], k: int, never: set[str]) -> list[Item]:
        state = self._state
        of_model = {one.news_id: one for one in found}
        articles = state.pool.articles

        def category(news_id: str) -> str:
            return articles[news_id].category if news_id in articles else ""

        ranked = [*of_model, *state.live.popular]
        order, pinned = state.rules.rules.arranged(ranked, k, never, category)
        items = []
        for news_id in order:
            one, known = of_model.get(news_id), articles.get(news_id)
            title = one.title if one else known.title if known else news_id
            source = "pin" if news_id in pinned else "model" if one else "popular"
            score = one.score if one else None
            words, text, probability = self._headline(state.headlines.get(news_id, ()), title)
            items.append(Item(news_id, title, words, category(news_id), score, source, [], text, probability))
        return items

    def _headline(self, choices: Sequence[Headline], title: str) -> tuple[str, int, float | None]:
        """The text that stands for an article now, its number, and how probable this choice was.

        The article's own title, number 0, is among the choices.
        """
        if not choices:
            return title, 0, None
        choice = choose_text(
            clicks=[one.clicks for one in choices],
            views=[one.views for one in choices],
            interest=[one.interest for one in choices],
            seed=random.getrandbits(32),
        )
        chosen = choices[choice.index]
        words = chosen.words if chosen.text else title
        return words, chosen.text, float(choice.probabilities[choice.index])

    def _explain(self, items: Sequence[Item], clicked: Sequence[str], label: str, trace: str) -> None:
        if not clicked or not items:
            return
        call = calls.explain([clicked], [[item.id for item in items]])
        answered = self._ask(call, "explain", label, trace)
        for item, explanation in zip(items, answered.answer[0] if answered else (), strict=False):
            weights: dict[str, float] = {}
            for news_id, weight in explanation.weights:
                weights[news_id] = weights.get(news_id, 0.0) + weight
            best = sorted(weights, key=weights.__getitem__, reverse=True)[:_MOST_REASONS]
            item.why = [one for one in best if weights[one] >= max(_REASON_SHARE * weights[best[0]], 1e-6)]

    def _compare(self, call: Any, trace: str, more: bytes, shown: Sequence[Recommendation]) -> None:
        """Ask another version the same."""
        label, metrics = self._shadow, self._state.metrics
        try:
            answered = self._state.server.ask(call, _SHADOW_S, label=label, trace=trace, more=more)
        except (FailureError, InputError):
            metrics.model_failures.labels("shadow").inc()
            return
        lists = [[one.news_id for one in part] for part in (shown, answered.answer[0])]
        metrics.agreement.labels(label).observe(overlap(*lists))
        metrics.shadow_seconds.labels(label).observe(answered.seconds)


def _new_impression(writes: Writes, row: Mapping[str, Any], items: Sequence[Sequence[Any]]) -> None:
    writes.insert("readers", reader=row["reader"], created=row["time"])
    writes.insert("impressions", **row)
    writes.count("rates", row["model_version"], int(row["time"] // _HOUR), views=len(items))
    for news_id, _, _, text, probability in items:
        writes.count("counts", news_id, int(row["time"] // SLOT_SECONDS), views=1)
        if probability is not None:
            writes.count("headlines", news_id, text, views=1)


def record_events(
    writes: Writes, events: Sequence[Mapping[str, Any]], now: float
) -> tuple[list[str], list[str]]:
    """Keep events; returns the kind of each new one, and the version behind each click on a feed."""
    kinds, versions = [], []
    for event in events:
        writes.insert("readers", reader=event["reader"], created=now)
        first = event["kind"] == "click" and _is_first(writes, event)
        if not writes.new_event(time=now, **event):
            continue
        kinds.append(event["kind"])
        if event["kind"] != "click":
            continue
        shown = _shown_in(writes, event)
        # A click outside of a feed is a view, too: the models know no click without one.
        slot = int(now // SLOT_SECONDS)
        writes.count("counts", event["article"], slot, clicks=1, views=0 if shown else 1)
        if shown and first:
            version, text, probability = shown
            versions.append(version)
            writes.count("rates", version, int(now // _HOUR), clicks=1)
            if probability is not None:
                writes.count("headlines", event["article"], text, clicks=1)
    return kinds, versions


def _is_first(writes: Writes, event: Mapping[str, Any]) -> bool:
    """Whether the article was not clicked before in this impression."""
    found = writes.run(
        "SELECT 1 FROM events WHERE reader = :reader AND kind = 'click' AND article = :article "
        "AND impression = :impression LIMIT 1",
        **{name: event[name] for name in ("reader", "article", "impression")},
    )
    return event["impression"] is not None and found.first() is None


def _shown_in(writes: Writes, event: Mapping[str, Any]) -> tuple[str, int, float | None] | None:
    """How an article was shown in the impression of an event: version, text, probability of that text."""
    if event["impression"] is None:
        return None
    row = writes.run(
        "SELECT model_version, items FROM impressions WHERE impression = :impression AND reader = :reader",
        impression=event["impression"],
        reader=event["reader"],
    ).first()
    if row is None:
        return None
    shown = {item[0]: item[3:5] for item in json.loads(row.items)}.get(event["article"])
    return None if shown is None else (row.model_version, *shown)
