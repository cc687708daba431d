"""Answers questions from the articles of a pool, or declines: retrieval, evidence and answer in one graph."""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.funnel.evidence import Evidence, Found, fingerprints
from genre_tf.generation import answers
from genre_tf.generation.writer import WritingGraph

# An article that answers a question has at least so much of what the question says (weighted by how rare each
# word is), and most of the names and numbers in it. On 202 questions about articles of the training days,
# this declines 74% of those that no article answers, and 8% of the others.
LEAST_COVERED = 0.55
LEAST_NAMED = 0.7
_READ = 3  # articles that an answer is taken from: among them is the right one nine times in ten
_SHOWN_CHARACTERS = (450, 220)  # of the first articles, in the language model's prompt


class Answered(NamedTuple):
    """Answers, best first, and their evidence, best first; "" for none."""

    text: Any  # string [B, N]
    evidence_id: Any  # string [B, E]
    evidence_title: Any  # string [B, E]


class FoundEvidence(NamedTuple):
    """The articles that a question is answered from, best first; "" for a question that none answers."""

    found: Found
    news_ids: Any  # string [B, E]
    titles: Any  # string [B, E]
    texts: Any  # string [B, E]


def evidence_of(evidence: Evidence, questions: Any) -> FoundEvidence:
    """The evidence for questions, valid UTF-8 string [B], or none."""
    found = evidence.search(questions)
    columns = evidence.columns(found.rows, found.score > 0)
    covered, named = evidence.coverage(found, columns[2][:, 0])
    answered = (found.score[:, 0] > 0) & (covered >= LEAST_COVERED) & (named >= LEAST_NAMED)
    return FoundEvidence(found, *(tf.where(answered[:, None], column, "") for column in columns))


class Answering(tf.Module):
    """Answers from `evidence`, in the words of its articles; the writer's language model chooses them."""

    def __init__(self, evidence: Evidence, writer: WritingGraph) -> None:
        super().__init__(name="answering")
        self.evidence, self.writer = evidence, writer

    def __call__(self, questions: Any) -> Answered:
        """Answer questions, valid UTF-8 string [B]."""
        found, news_ids, titles, texts = evidence_of(self.evidence, questions)
        return Answered(self._answers(questions, found, texts[:, :_READ]), news_ids, titles)

    def _answers(self, questions: Any, found: Found, texts: Any) -> Any:
        words = answers.words_of(texts)
        names = self.writer.grounding.common.lookup(words.lower) == ""
        flat = tf.reshape(words.core, [-1, 1])
        prints = fingerprints(tf.RaggedTensor.from_tensor(flat)).to_tensor(shape=[None, 1])
        prints = tf.reshape(prints, tf.shape(words.core))
        hits = (prints[..., None] == found.question.words[:, None, :]) & (found.question.weight > 0)[
            :, None, :
        ]
        hits &= (words.core != "")[..., None]
        relevance = found.score[:, :_READ] / tf.maximum(found.score[:, :1], 1e-6)
        spans, values = answers.spans(questions, words, names, hits, found.question.weight, relevance)
        shown = [
            tf.strings.substr(texts[:, number], 0, length, unit="UTF8_CHAR")
            for number, length in enumerate(_SHOWN_CHARACTERS)
        ]
        model, tokenizer = self.writer.model, self.writer.prompts.tokenizer
        count = self.writer.options.samples
        read = tf.strings.strip(tf.strings.join(shown, " "))
        best = answers.answers(model, tokenizer, read, questions, spans, values, count)
        return tf.ensure_shape(best, [None, count])
