"""What a server's answers mean: one row of a request each, padding already gone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An article to show, and the ranker's score of it; a list of them is best first."""

    news_id: str
    title: str
    score: float


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """How likely the reader clicks an article; `known` says whether the index holds it."""

    news_id: str
    click_probability: float
    known: bool


@dataclass(frozen=True, slots=True)
class TitleScore:
    """How likely the reader clicks an article of this title."""

    title: str
    click_probability: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which clicks count for a candidate: id and weight of each click that is known, oldest first.

    The weights of a candidate that the index knows sum to 1.
    """

    news_id: str
    weights: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A text written for a reader; a list of them is best first, unsafe ones last.

    Args:
        text: what was written.
        interest: the click model's probability that this reader clicks it.
        log_probability: of the text under the language model.
        grounding: how much of it the source supports, 0 to 1.
        safe: whether it passed the safety rules.
    """

    text: str
    interest: float
    log_probability: float
    grounding: float
    safe: bool


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """What was answered to a question, and the articles that it was written from.

    Args:
        texts: with the click model's probability for this reader each, best first; empty where no article
            is close to the question.
        evidence: id and title of each article, nearest first.
    """

    texts: list[tuple[str, float]]
    evidence: list[tuple[str, str]]
