"""The servable `genre_generator`: texts written for one reader, scored by the click model, best first."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.export import parsing
from genre_tf.export.encoding import encode_once, encode_titles
from genre_tf.export.exchanges import Exchange, as_bytes
from genre_tf.export.index import Catalogue
from genre_tf.export.saved_model import write_saved_model
from genre_tf.generation.safety_classifier import SafetyClassifier
from genre_tf.generation.writer import nothing_unsafe

NAME = "genre_generator"
INPUTS = {"history_text": tf.string, "source": tf.string, "kind": tf.string, "seed": tf.int64}
_USUAL_HISTORY = 10


class GeneratorServable:
    """The signature `generate`.

    Args:
        writer: a `generation.writer.Writer`.
        two_tower: gives the reader's vector; has `user_vector` and `encoder`.
        ranker: gives the interest; has `click_logits` and `encoder`.
        max_history: newest titles that make the reader.
        classifier: of unsafe texts, on the ranker's vectors; None: lists and patterns alone judge.
    """

    def __init__(
        self,
        writer: Any,
        two_tower: Any,
        ranker: Any,
        *,
        max_history: int,
        classifier: SafetyClassifier | None = None,
    ) -> None:
        self.writer = writer
        self.two_tower = two_tower
        self.ranker = ranker
        self.max_history = max_history
        self.classifier = classifier
        specs = [tf.TensorSpec([None], dtype, name) for name, dtype in INPUTS.items()]
        # Traced once, for the SavedModel and for its reference: it is the largest graph here.
        self.traced = tf.function(self.generate, input_signature=specs, autograph=False)

    def generate(
        self, history_text: tf.Tensor, source: tf.Tensor, kind: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Write for readers.

        Args:
            history_text: string [B], titles joined by newlines, oldest first; "" for a new reader.
            source: string [B], an article to write from; "" to write from interest alone.
            kind: string [B]: title, summary or body; any other is taken for a title.
            seed: int64 [B]; equal requests with equal seeds get equal texts, whatever shares their batch.

        Returns:
            text string [B, N], interest, log_probability and grounding float32 [B, N], safe bool [B, N]; best
            first, unsafe last.
        """
        titles = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        for_tower, for_ranker = encode_titles(titles.flat_values, self.two_tower.encoder, self.ranker.encoder)
        width = tf.maximum(parsing.widest(titles), 1)
        clicks, mask = parsing.to_dense(titles.with_flat_values(for_tower), width)  # [B, H, D]
        reader = self.two_tower.user_vector(clicks, mask)
        clicks, _ = parsing.to_dense(titles.with_flat_values(for_ranker), width)  # [B, H, R]

        vectors = encode_once(self.ranker.encoder)

        def interest(texts: tf.Tensor) -> tf.Tensor:
            return self._interest(vectors(texts), clicks, mask)

        def unsafe(texts: tf.Tensor) -> tf.Tensor:
            return self.classifier.is_unsafe(vectors(texts)) if self.classifier else nothing_unsafe(texts)

        history, kind = parsing.clean_text(history_text), parsing.clean_text(kind)
        source = parsing.clean_text(source)
        return self.writer(history, source, kind, seed, reader, interest, unsafe).served()

    def write(self, folder: Path) -> None:
        """Write the SavedModel."""
        tokenizer = self.ranker.encoder.backbone.bert.tokenizer
        write_saved_model(folder, [self.writer, tokenizer], {"generate": (self.traced, INPUTS)})

    def _interest(self, shown: tf.Tensor, clicks: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Click probability, [B, N], of texts by [B, N, R], for readers given by [B, H, R] and [B, H]."""
        everything = tf.ones(tf.shape(shown)[:2], tf.bool)
        return tf.sigmoid(self.ranker.click_logits(clicks, mask, shown, everything, None))


class GeneratorReference:
    """What the servable must answer: the same writer and models in this process, one row at a time."""

    def __init__(self, servable: GeneratorServable) -> None:
        self.servable = servable

    def answer(self, request: Exchange) -> Exchange:
        """The request with its answer."""
        rows = [
            self.servable.traced(*(tf.constant(request.inputs[name][row : row + 1]) for name in INPUTS))
            for row in range(len(request.inputs["seed"]))
        ]
        outputs = {name: tf.concat([row[name] for row in rows], 0).numpy() for name in rows[0]}
        return Exchange(request.signature, request.case, request.inputs, outputs)


def generator_requests(catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """Requests without answers: a usual row alone, and all kinds of rows in one batch."""
    usual = warmup_requests(catalogue)["generate"]
    titles = [title for title in catalogue.titles if title][: 3 * _USUAL_HISTORY]
    rows: list[tuple[str | bytes, str | bytes, str | bytes]] = [
        (usual["history_text"][0], usual["source"][0], "title"),
        ("", "", "title"),
        ("\n".join(titles), "", "summary"),
        ("\n".join(titles[:2]), "word " * 3000, "body"),
        (b"\xff\xfe\n" + "新闻 😀".encode(), b"caf\xe9 \xc3(", b"\xff"),
        ("", "On 5 May 2031 the mayor said: \"We will rebuild.\"", "no such kind"),
    ]  # fmt: skip
    columns = [as_bytes(column) for column in zip(*rows, strict=True)]
    seeds = tf.range(seed, seed + len(rows), dtype=tf.int64).numpy()
    odd = dict(zip(INPUTS, [*columns, seeds], strict=True))
    cases = (("alone", usual), ("all kinds of rows", odd))
    return [Exchange(name, case, rows) for name in ("generate", "serving_default") for case, rows in cases]


def warmup_requests(catalogue: Catalogue) -> dict[str, Any]:
    """One usual row: a title from a source for a reader of some titles."""
    titles = [title for title in catalogue.titles if title]
    row = {
        "history_text": as_bytes(["\n".join(titles[:_USUAL_HISTORY])]),
        "source": as_bytes([" ".join(titles[-3:])]),
        "kind": as_bytes(["title"]),
        "seed": tf.constant([1], tf.int64).numpy(),
    }
    return {"generate": row, "serving_default": row}
