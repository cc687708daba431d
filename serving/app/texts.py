"""Texts written for readers, answers to their questions, and the editors who look them over."""

import time
from collections.abc import Mapping
from typing import Any

from genre_tf.errors import FailureError, InputError
from genre_tf.explain.text import source_spans
from genre_tf.serving.app.checks import RefusedError
from genre_tf.serving.app.observing import LOGGER
from genre_tf.serving.app.state import State
from genre_tf.serving.app.storage import Writes
from genre_tf.serving.client import calls
from genre_tf.serving.client.calls import Call, GeneratedText

LEAST_GROUNDING = 0.75
"""A text of which the source supports less waits for an editor; the writer's own limit."""
STATUSES = ("waiting", "shown", "approved", "rejected", "withdrawn")
_WRITE_S = 60.0
_MOST_LISTED = 200
# What each decision makes of a text, and of which texts it can be made.
_DECIDED = {"approve": "approved", "edit": "approved", "reject": "rejected", "withdraw": "withdrawn"}
_UNDECIDED, _OUT = ("waiting", "shown"), ("shown", "approved")
_COLUMNS = (
    "id, kind, article, question, source, written, edited, status, interest, grounding, model_version, "
    "created, decided, editor, note"
)


class Desk:
    """Writes texts and keeps what becomes of them."""

    def __init__(self, state: State) -> None:
        self._state = state

    def write(self, asked: Mapping[str, Any], trace: str) -> dict[str, Any]:
        """Write about an article for a reader; only texts with the status `shown` are told."""
        state = self._state
        article = state.pool.articles.get(asked["article"])
        if article is None:
            raise RefusedError(404, f"no article {asked['article']}", field="article")
        titles = self._titles(asked["reader"])
        columns = [titles], [article.text or article.title], [asked["kind"]], [asked["seed"]]
        styled = asked["tone"] or asked["topic"]
        call: Call[list[list[GeneratedText]]] = (
            calls.generate_styled(*columns, [asked["tone"]], [asked["topic"]])
            if styled
            else calls.generate(*columns)
        )
        found, version = self._ask(call, asked["reader"], trace)
        kept: list[dict[str, Any]] = []
        for one in found[0]:
            shown = one.safe and one.grounding >= LEAST_GROUNDING
            status = "shown" if shown else "waiting" if one.text else "withheld"
            kept.append(
                {"text": one.text, "interest": one.interest, "grounding": one.grounding, "status": status}
            )
        common = {
            "reader": asked["reader"],
            "kind": asked["kind"],
            "article": article.news_id,
            "question": None,
            "source": article.text or article.title,
            "model_version": version,
        }
        self._keep(kept, common)
        for text in kept:
            if text["status"] != "shown":
                text["text"] = ""
        return {"reader": asked["reader"], "article": article.news_id, "version": version, "texts": kept}

    def ask(self, asked: Mapping[str, Any], trace: str) -> dict[str, Any]:
        """Answer a question from the articles; what was asked is kept as an event."""
        reader, question = asked["reader"], asked["question"]
        titles = self._titles(reader)
        (found,), version = self._ask(calls.answer([question], [titles], [asked["seed"]]), reader, trace)
        evidence = [{"id": news_id, "title": title} for news_id, title in found.evidence]
        known = (self._state.pool.articles.get(one["id"]) for one in evidence)
        kept = [
            {"text": text, "interest": interest, "grounding": 1.0, "status": "shown"}  # words of the articles
            for text, interest in found.texts[:1]
        ]
        common = {
            "reader": reader,
            "kind": "answer",
            "article": evidence[0]["id"] if evidence else None,
            "question": question,
            "source": "\n".join(one.text for one in known if one is not None),
            "model_version": version,
        }
        self._keep(kept, common)
        answer = kept[0]["text"] if kept else None
        return {"reader": reader, "answer": answer, "version": version, "texts": kept, "evidence": evidence}

    def _titles(self, reader: str) -> list[str]:
        clicked, _ = self._state.store.clicks_and_hides(reader)
        return self._state.titles(clicked)

    def _ask(self, call: Call[Any], reader: str, trace: str) -> tuple[Any, str]:
        metrics, label = self._state.metrics, self._state.rollout.label(reader)
        try:
            answered = self._state.server.ask(call, _WRITE_S, label=label, trace=trace)
        except (FailureError, InputError) as error:
            metrics.model_failures.labels(call.signature).inc()
            LOGGER.warning("%s failed: %s", call.signature, error)
            raise RefusedError(503, "the writer does not answer: try again later") from None
        metrics.model_seconds.labels(call.signature).observe(answered.seconds)
        return answered.answer, answered.version

    def _keep(self, texts: list[dict[str, Any]], common: Mapping[str, Any]) -> None:
        """Keep texts, give each its number, and keep the question as an event."""
        now = time.time()

        def keep(writes: Writes) -> list[int | None]:
            writes.insert("readers", reader=common["reader"], created=now)
            if common["question"] is not None:
                article, question = common["article"], common["question"]
                writes.new_event(
                    reader=common["reader"], kind="ask", time=now, article=article, words=question
                )
            return [_new_text(writes, text, common, now) for text in texts]

        for text, number in zip(texts, self._state.store.write(keep).result(), strict=True):
            text["id"] = number
            self._state.metrics.texts.labels(text["status"]).inc()

    def reviews(self, status: str) -> list[dict[str, Any]]:
        """Texts of a status with all that is known of them; those first that are nearest to the limit."""
        order = "abs(grounding - :limit), id" if status == "waiting" else "id DESC"
        rows = self._state.store.read(
            f"SELECT {_COLUMNS} FROM texts WHERE status = :status ORDER BY {order} LIMIT {_MOST_LISTED}",  # noqa: S608
            **({"status": status, "limit": LEAST_GROUNDING} if status == "waiting" else {"status": status}),
        )
        return [_review(row) for row in rows]

    def review(self, number: int) -> dict[str, Any]:
        """One text: who decided what about it, from what it was written and by which version."""
        statement = f"SELECT {_COLUMNS} FROM texts WHERE id = :id"  # noqa: S608  (our own names)
        rows = self._state.store.read(statement, id=number)
        if not rows:
            raise RefusedError(404, f"no text {number}")
        return _review(rows[0])

    def decide(self, number: int, decision: Mapping[str, Any], editor: str) -> dict[str, Any]:
        """Record an editor's decision; status 409 if the text is no longer in a state for it."""
        kind, edited = decision["decision"], decision["text"]
        if (kind == "edit") != (edited is not None):
            raise RefusedError(422, "text belongs to the decision edit, which needs it", field="text")
        before = _OUT if kind == "withdraw" else _UNDECIDED
        values = {
            "id": number,
            "status": _DECIDED[kind],
            "edited": edited,
            "editor": editor,
            "note": decision["note"],
            "now": time.time(),
            "first": before[0],
            "second": before[1],
        }

        def write(writes: Writes) -> bool:
            done = writes.run(
                "UPDATE texts SET status = :status, edited = coalesce(:edited, edited), editor = :editor, "
                "note = :note, decided = :now WHERE id = :id AND status IN (:first, :second)",
                **values,
            )
            return bool(done.rowcount)

        done = self._state.store.write(write).result()
        text = self.review(number)
        if not done:
            raise RefusedError(409, f"text {number} is {text['status']}: {kind} is not possible", text=text)
        self._state.metrics.texts.labels(text["status"]).inc()
        return text


def marked(written: str, source: str) -> list[tuple[str, bool]]:
    """Pieces of a text, and whether each is not in its source."""
    pieces, end = [], 0
    for span in source_spans(written, source, least_words=1):
        begin, behind = span.text
        pieces.append((written[end:begin], any(letter.isalnum() for letter in written[end:begin])))
        pieces.append((written[begin:behind], False))
        end = behind
    pieces.append((written[end:], any(letter.isalnum() for letter in written[end:])))
    return [piece for piece in pieces if piece[0]]


def _new_text(writes: Writes, text: Mapping[str, Any], common: Mapping[str, Any], now: float) -> int | None:
    if text["status"] == "withheld":  # the model server did not tell what it wrote
        return None
    row = {name: text[name] for name in ("status", "interest", "grounding")}
    return writes.new_text(written=text["text"], created=now, **row, **common)


def _review(row: Any) -> dict[str, Any]:
    return dict(row._mapping)
