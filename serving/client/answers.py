"""The answers of a server as objects: one per row of a request, without padding."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An article to show, with the ranker's score; lists are sorted best first."""

    news_id: str
    title: str
    score: float


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """Probability that the reader clicks an article; `known` says whether the index contains it."""

    news_id: str
    click_probability: float
    known: bool


@dataclass(frozen=True, slots=True)
class TitleScore:
    """Probability that the reader clicks an article with this title."""

    title: str
    click_probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """How much each click counts for a candidate: id and weight of every known click, oldest first.

    The weights sum to 1 if the index contains the candidate.
    """

    news_id: str
    weights: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text written for a reader; lists are sorted best first, unsafe texts last, without repeated texts.

    Args:
        text: the text.
        interest: the click model's probability that this reader clicks it.
        log_probability: log probability of the text under the language model.
        grounding: how much of the text the source supports, 0 to 1.
        safe: whether the text passed the safety rules.
    """

    text: str
    interest: float
    log_probability: float
    grounding: float
    safe: bool


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """The answer to a question, and the articles that it was written from.

    Args:
        texts: (text, probability by the click model that this reader clicks it), best first; empty if no
            article is close to the question.
        evidence: (id, title) of each article, nearest first.
    """

    texts: list[tuple[str, float]]
    evidence: list[tuple[str, str]]
