"""What is served: servables, their signatures with inputs and outputs, kinds of text, paddings and limits.

Export, clients, documents and tests read this one list. It is plain data and imports nothing, so that a
client needs neither TensorFlow nor NumPy for it.

Shapes have one letter a dimension:

=====  =========================================================
B      rows of the request, one for each reader
K      recommended articles
C      candidates of the row that has the most
H      clicks of the row that has the most
D      components of a vector
N      texts
E      articles that an answer is written from
=====  =========================================================
"""

from dataclasses import dataclass

RECOMMENDER = "genre_recommender"
GENERATOR = "genre_generator"

DEFAULT_SIGNATURE = "serving_default"
"""TensorFlow Serving's name for the signature of requests that name none: the first of a servable."""
EXAMPLES_INPUT = "inputs"
"""The only input of a signature that takes serialized `tf.Example`s; TensorFlow Serving requires the name."""

KINDS = ("title", "summary", "body")
"""Kinds of text that `generate` writes; any other value means the first."""

TONES = ("neutral", "plain", "lively")
"""Tones that `generate_styled` can be asked for; any other value means none."""

COUNTERS = (
    "clicks",
    "views",
    "age_hours",
    "clicks_1h",
    "clicks_6h",
    "clicks_24h",
    "views_1h",
    "views_6h",
    "views_24h",
)
"""The counters of an article; `clicks_6h` are its clicks, each halved for every 6 hours since then."""

MOST_LIVE = 2_000
"""`recommend_live` takes the counters of at most this many articles, the first ones."""
LARGEST_NUMBER = 1e9
"""Larger numbers in a request count as this one."""
PADDING_NUMBER = -1.0
"""Stands in columns of numbers behind the own ones of a row; no score and no probability is negative."""

ASSETS_FOLDER = "assets.extra"
"""Folder of a version for files that TensorFlow does not load with the graph; the next three are in it."""
CONTRACT_FILE = "contract.json"
ARTICLES_FILE = "articles.jsonl"  # of the recommender
WARMUP_FILE = "tf_serving_warmup_requests"  # TensorFlow Serving's name for it
MOST_WARMUP_RECORDS = 1_000  # TensorFlow Serving refuses more


@dataclass(frozen=True)
class Input:
    """An input of a signature, [B]; each row is one string or one number.

    It consists of `ids` or `numbers` (joined by spaces), `titles` (joined by newlines), `text` (not divided),
    `example` (a serialized `tf.Example`) or a `seed`.
    """

    name: str
    parts: str
    dtype: str = "string"


@dataclass(frozen=True)
class Output:
    """An output of a signature."""

    name: str
    dtype: str
    shape: str  # one letter a dimension, as listed above
    padding: str | float | bool | None = None  # behind the own columns of a row; None: every row has all


@dataclass(frozen=True)
class Signature:
    """A signature of a servable."""

    name: str
    inputs: tuple[Input, ...]  # in the order of the arguments of the function behind it
    outputs: tuple[Output, ...]
    counted: bool = False  # whether its answers depend on the counters in the index, which a refresh replaces

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(one.name for one in self.inputs)


_HISTORY, _HISTORY_TEXT = Input("history", "ids"), Input("history_text", "titles")
_CANDIDATES, _SEED = Input("candidates", "ids"), Input("seed", "seed", "int64")
_RECOMMENDED = (
    Output("news_id", "string", "BK", ""),
    Output("title", "string", "BK", ""),
    Output("score", "float32", "BK", PADDING_NUMBER),
)
_PROBABILITY = Output("click_probability", "float32", "BC", PADDING_NUMBER)
_SCORED = (_PROBABILITY, Output("known", "bool", "BC", False))
_VECTOR = (Output("embedding", "float32", "BD"),)
_WRITTEN = (Output("text", "string", "BN"), Output("interest", "float32", "BN"))
_GENERATE = (_HISTORY_TEXT, Input("source", "text"), Input("kind", "text"), _SEED)
_GENERATED = (
    *_WRITTEN,
    Output("log_probability", "float32", "BN"),
    Output("grounding", "float32", "BN"),
    Output("safe", "bool", "BN"),
)


def _numbers(*names: str) -> tuple[Input, ...]:
    return tuple(Input(name, "numbers") for name in names)


def _by_name(*signatures: Signature) -> dict[str, Signature]:
    return {**{one.name: one for one in signatures}, DEFAULT_SIGNATURE: signatures[0]}


SIGNATURES = {
    RECOMMENDER: _by_name(
        Signature("recommend", (_HISTORY,), _RECOMMENDED, counted=True),
        Signature("recommend_text", (_HISTORY_TEXT,), _RECOMMENDED, counted=True),
        Signature(
            "recommend_live",
            (_HISTORY, Input("news_id", "ids"), *_numbers(*COUNTERS)),
            _RECOMMENDED,
            counted=True,
        ),
        Signature("score", (_HISTORY, _CANDIDATES), _SCORED),
        Signature("score_text", (_HISTORY_TEXT, Input("candidates_text", "titles")), (_PROBABILITY,)),
        Signature(
            "score_counters", (_HISTORY, _CANDIDATES, *_numbers("clicks", "views", "age_hours")), _SCORED
        ),
        Signature("embed_news", (Input("text", "text"),), _VECTOR),
        Signature("embed_user", (_HISTORY,), _VECTOR),
        Signature(
            "explain",
            (_HISTORY, _CANDIDATES),
            (Output("history_id", "string", "BH", ""), Output("weight", "float32", "BCH", 0.0)),
        ),
        Signature("regress", (Input(EXAMPLES_INPUT, "example"),), (Output("outputs", "float32", "B"),)),
    ),
    GENERATOR: _by_name(
        Signature("generate", _GENERATE, _GENERATED),
        Signature("generate_styled", (*_GENERATE, Input("tone", "text"), Input("topic", "text")), _GENERATED),
        Signature(
            "answer",
            (Input("question", "text"), _HISTORY_TEXT, _SEED),
            (
                *_WRITTEN,
                Output("evidence_id", "string", "BE", ""),
                Output("evidence_title", "string", "BE", ""),
            ),
        ),
    ),
}
"""Servable to name to signature. The first signature of a servable is its default, and has that name too."""

COUNTED = tuple(name for name, one in SIGNATURES[RECOMMENDER].items() if one.counted)
"""Signatures of the recommender whose answers depend on the counters in its index."""
