"""Answers that are spans of the evidence, in the graph.

Every span is scored by what the question asks for, and the best ones by the language model too.

A small language model answers poorly in its own words, but tells well which of a dozen short spans answers a
question: on 72 questions about news, SmolLM2-135M raised token F1 from 0.39 to 0.54. An answer is grounded,
for it is copied.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tf.generation.grounding import FUNCTION_WORDS

LONGEST = 8  # words of a span; nine of ten short answers have at most five
CANDIDATES = 12  # spans that the language model reads; with 10, four questions in five have a right one
_ALIKE = 3  # so many times more are found first, since many are equal
_WORDS = 96  # of each article
_NEAR = 0.8  # a question's word counts less with each word between it and the span
# Weight of the log probability, divided by the square root of the number of tokens: the sum prefers short
# spans, the mean long ones (F1 on 72 questions 0.50, 0.48 and between them 0.54).
_LIKELIHOOD = 1.0
_READ_TOKENS = 160  # of the evidence in the prompt
_QUESTION_TOKENS, _SPAN_TOKENS = 48, 16
_IDEOGRAPH = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
_NEVER = -1e9

_EDGES = r"^[^\p{L}\p{M}\p{N}$£€¥#]+|[^\p{L}\p{M}\p{N}%]+$"
_ABBREVIATION = r"(?:\p{Lu}\.)+|(?:Mr|Mrs|Ms|Dr|St|Sgt|Gov|Sen|Rep|Gen|Lt|Capt|No|Inc|vs|[ap]\.m)\.|" + (
    r"(?:Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)\."
)
_COUNTING = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred dozen half"
)
_TIMES = (
    "january february march april may june july august september october november december jan feb mar apr "
    "jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday thanksgiving "
    "christmas halloween easter today yesterday tomorrow am pm a.m p.m noon midnight 年 月 日 时 点"
)
_SCALES = (
    "hundred thousand million billion trillion percent dollars euros pounds years 万 亿 元 岁 年 个 人 名"
)
_KINDS: dict[str, str] = {
    "has": r".*[\p{L}\p{N}].*",
    "upper": r"\p{Lu}.*",
    "number": rf"(?i)[$£€¥#]?\p{{N}}.*|{'|'.join(_COUNTING.split())}",
    "time": rf"(?i){'|'.join(_TIMES.replace('.', '[.]').split())}|(?:19|20)\p{{N}}\p{{N}}|\p{{N}}+:\p{{N}}+",
    "scale": rf"(?i){'|'.join(_SCALES.split())}",
    "money": r"[$£€¥].*|(?i)dollars|euros|pounds|元",
    "function": rf"(?i){'|'.join(FUNCTION_WORDS)}|[的了是在和与也就都而及]",
    "place": r"(?i)in|at|near|outside|inside|on|from|在|于|到",
    "cause": r"(?i)because|after|for|over|due|since|amid|following|as|to|by|因|为",
    "determiner": r"(?i)an?|the|his|her|its|their|our|my|this|that|these|those",
    "years": r"(?i)years?|.*old|岁",
}

ASKED = ("who", "number", "time", "where", "why", "what")
"""What a question may ask for; the first that it names decides, "what" if none."""
_OF = "what|which"
_SIZES = "many|much|old|long|far|tall|high|big|large|heavy|fast|often|wide|deep"
_COUNTS = "share|percentage|percent|score|price|age|rate|number|size|magnitude|amount|sum|wage|salary|margin"
_PLACES = "city|country|state|town|place|county|region|continent|island|street|stadium|airport|venue"
_QUESTIONS = (
    r"\bwho(?:m|se)?\b|谁|哪位",
    rf"\bhow (?:{_SIZES})\b|\b(?:{_OF}) (?:\w+ )?(?:{_COUNTS}|speed|temperature)\b"
    r"|多少|几[个名人次]|多[大高长重]",
    rf"\bwhen\b|\b(?:{_OF}) (?:year|day|date|month|time|season|decade)\b"
    r"|何时|什么时候|哪[一]?[年天]|几[月点]",
    rf"\bwhere\b|\b(?:{_OF}) (?:{_PLACES})\b|哪里|何处|哪[个座]?[国城州]|什么地方",
    rf"\bwhy\b|\b(?:{_OF}) (?:caused|causes|led)\b|为什么|为何|原因",
)

# Weights of what is known of a span: for every question, and in addition for what is asked.
_WEIGHTS = {
    "article": 2.0, "covered": 3.0, "near": 2.0, "asked": -3.0, "function_start": -1.0, "function_end": -1.5,
    "cut": -1.5, "breaks": -1.0, "name_breaks": -0.3, "length": -0.05, "run_before": -0.5, "run_behind": -0.5,
    "edges": 0.1, "determiner": 0.2,
}  # fmt: skip
_OF_ASKED: dict[str, dict[str, float]] = {
    "who": {"name": 2.0, "full_name": 0.5, "number": -0.7, "time": -1.0},
    "number": {"number": 1.5, "number_start": 1.5, "time": -1.0, "money": 0.5, "age": 2.0},
    "time": {"time": 2.5, "number": 0.3},
    "where": {"name": 1.5, "place": 1.0, "number": -0.7, "time": -1.0},
    "why": {"cause": 1.5, "length": 0.1, "function_start": 0.7},
    "what": {"name": 0.3, "time": -0.5, "number_start": -0.5},
}


class Words(NamedTuple):
    """The words of the evidence, articles one after the other; columns [B, T]."""

    text: Any  # string, as written
    core: Any  # string, without punctuation at its edges
    lower: Any  # string, in lower case and without a possessive
    article: Any  # int32, which of the articles
    sentence: Any  # int32, a number of its own for each sentence of the row
    breaks: Any  # bool, whether punctuation follows
    real: Any  # bool, False for padding


def words_of(texts: Any) -> Words:
    """The words of articles: string [B, A]."""
    spaced = tf.strings.regex_replace(texts, f"({_IDEOGRAPH})", r" \1")
    spaced = tf.strings.regex_replace(spaced, rf"({_IDEOGRAPH})([\p{{L}}\p{{N}}])", r"\1 \2")
    nested = tf.strings.split(tf.reshape(spaced, [-1]))[:, :_WORDS]  # ragged [B x A, (words)]
    shape = tf.shape(texts, tf.int64)
    counts = tf.reduce_sum(tf.reshape(nested.row_lengths(), shape), axis=1)
    ragged: Any = tf.RaggedTensor
    text = ragged.from_row_lengths(nested.flat_values, counts)  # [B, (words)]
    short = tf.strings.regex_full_match(text.flat_values, _ABBREVIATION)
    core = tf.strings.regex_replace(text.flat_values, _EDGES, "")
    lower = tf.strings.regex_replace(tf.strings.lower(core, "utf-8"), r"['’]s$", "")
    ends = tf.strings.regex_full_match(text.flat_values, r".*[.!?。！？][\"”)’」]*") & ~short
    breaks = tf.strings.regex_full_match(text.flat_values, r".*[^\p{L}\p{M}\p{N}%]") & ~short
    article = nested.value_rowids() % shape[1]
    dense = [text.with_flat_values(part).to_tensor() for part in (core, lower, article, breaks)]
    last = tf.cast(text.with_flat_values(ends).to_tensor(), tf.int32)
    # A sentence ends with a full stop, and with its article.
    sentence = tf.cumsum(last, axis=1, exclusive=True) + 10_000 * tf.cast(dense[2], tf.int32)
    real = tf.sequence_mask(text.row_lengths(), tf.shape(sentence)[1])
    sentence = tf.where(real, sentence, -1)
    return Words(text.to_tensor(), dense[0], dense[1], tf.cast(dense[2], tf.int32), sentence, dense[3], real)


def asked_for(questions: Any) -> Any:
    """What questions ask for: string [B] -> int32 [B], a place in `ASKED`."""
    lower = tf.strings.lower(questions, "utf-8")
    before = []
    for pattern in _QUESTIONS:
        # The text before the first place where the pattern matches; the whole text if it does not.
        head = tf.strings.regex_replace(lower, rf"(?s)(?:{pattern}).*", "", replace_global=False)
        found = tf.strings.length(head) < tf.strings.length(lower)
        before.append(tf.where(found, tf.strings.length(head), 1_000_000))
    before.append(tf.fill(tf.shape(lower), 999_999))
    return tf.argmin(tf.stack(before, axis=1), axis=1, output_type=tf.int32)


def spans(
    questions: Any, words: Words, names: Any, hits: Any, weight: Any, relevance: Any
) -> tuple[Any, Any]:
    """The best spans of the evidence, by everything except the language model.

    Args:
        questions: string [B].
        words: of the evidence.
        names: bool [B, T], which words are names.
        hits: bool [B, T, Q], which words of the evidence are words of the question.
        weight: float32 [B, Q], weights of the question's words.
        relevance: float32 [B, A], of the articles; the best has 1.

    Returns:
        string [B, CANDIDATES] and float32 [B, CANDIDATES], best first; "" behind the last.
    """
    value = _values(questions, words, names, hits, weight, relevance)  # [B, T, LONGEST]
    batch, time = tf.unstack(tf.shape(value)[:2])
    flat = tf.reshape(value, [batch, time * LONGEST])
    flat = tf.pad(flat, [[0, 0], [0, _ALIKE * CANDIDATES]], constant_values=_NEVER)
    best, place = tf.math.top_k(flat, _ALIKE * CANDIDATES)
    start, length = place // LONGEST, place % LONGEST
    real = best > _NEVER / 2
    within = tf.range(LONGEST) <= length[..., None]  # [B, K, LONGEST]
    at = tf.minimum(start[..., None] + tf.range(LONGEST), tf.maximum(time - 1, 0))
    padded = tf.pad(words.text, [[0, 0], [0, 1]], constant_values="")  # at least one column
    parts = tf.where(within & real[..., None], tf.gather(padded, at, batch_dims=1), "")
    text = tf.strings.strip(tf.strings.reduce_join(parts, axis=2, separator=" "))
    text = tf.strings.regex_replace(tf.strings.regex_replace(text, _EDGES, ""), r"['’]s$", "")
    for _ in range(2):  # matches do not overlap
        text = tf.strings.regex_replace(text, f"({_IDEOGRAPH}) ({_IDEOGRAPH})", r"\1\2")
    lower = tf.strings.lower(text, "utf-8")
    earlier = np.tril(np.ones((_ALIKE * CANDIDATES,) * 2, bool), -1)
    repeated = tf.reduce_any((lower[:, :, None] == lower[:, None, :]) & earlier, axis=2)
    best, kept = tf.math.top_k(tf.where(repeated | (text == ""), _NEVER, best), CANDIDATES)
    text = tf.where(best > _NEVER / 2, tf.gather(text, kept, batch_dims=1), "")
    return text, best


def _nearness(words: Words, hits: Any, weight: Any) -> tuple[Any, Any, Any]:
    """How much of the question is in each word's sentence, before it, and behind it: 3 x float32 [B, T]."""
    total = tf.maximum(tf.reduce_sum(weight, axis=1), 1e-6)[:, None]
    hit = tf.reduce_max(tf.where(hits, weight[:, None, :], 0.0), axis=2) / total
    together = tf.cast(words.sentence[:, :, None] == words.sentence[:, None, :], tf.float32)  # [B, T, T]
    in_sentence = tf.matmul(together, tf.cast(hits, tf.float32)) > 0  # [B, T, Q]
    covered = tf.reduce_sum(tf.where(in_sentence, weight[:, None, :], 0.0), axis=2) / total
    count = tf.shape(hit)[1]
    apart = tf.cast(tf.range(count)[:, None] - tf.range(count)[None, :], tf.float32)
    decay = tf.pow(_NEAR, tf.maximum(tf.abs(apart) - 1, 0.0))
    before, behind = (
        tf.linalg.matvec(together * tf.where(side, decay, 0.0), hit) for side in (apart > 0, apart < 0)
    )
    return covered, before, behind


def _values(questions: Any, words: Words, names: Any, hits: Any, weight: Any, relevance: Any) -> Any:
    """The value of each span, float32 [B, T, LONGEST]: by its first word and its number of words less one."""
    kind = {name: tf.strings.regex_full_match(words.core, pattern) for name, pattern in _KINDS.items()}
    kind = {name: flags & words.real for name, flags in kind.items()}
    number, time, upper = kind["number"], kind["time"], kind["upper"]
    names = names & upper
    hits &= words.real[..., None]
    asked = tf.reduce_any(hits, axis=2)  # [B, T]
    covered, before, behind = _nearness(words, hits, weight)
    content = kind["has"] & ~kind["function"]
    plain = kind["has"] & ~kind["function"] & ~asked & ~upper & ~number
    weak = kind["function"] & ~time & ~number
    follows = _left(together_with_next(words), 0) & ~words.breaks  # [B, T], the next word continues this one
    # A boundary behind a word that cuts a name, a number or a date in two.
    next_upper, next_name, next_scale, next_time, next_number, next_plain = (
        _left(flags, 1) for flags in (upper, names, kind["scale"], time, number, plain)
    )
    cuts = follows & (
        (upper & next_upper & (names | next_name))
        | (number & (next_scale | next_time))
        | (time & next_number)
    )
    run_behind = follows & next_plain & ~kind["function"] & ~upper
    run_before = _right(follows & plain) & ~kind["function"] & ~number
    chosen = tf.gather(tf.constant(_table()), asked_for(questions))  # [B, features]
    gathered = tf.gather(relevance, words.article, batch_dims=1)
    sums = {name: _sums(flags) for name, flags in (
        ("content", content), ("asked", content & asked), ("name", names), ("number", number), ("time", time),
        ("money", kind["money"]), ("breaks", words.breaks),
    )}  # fmt: skip
    same_before = _right(together_with_next(words))
    bounds = tf.cast(~_right(follows), tf.float32)
    found = []
    for length in range(LONGEST):
        size = length + 1
        total_of = {name: _left(cumulative, size) - cumulative for name, cumulative in sums.items()}
        of = {name: values[:, :-1] for name, values in total_of.items()}

        def end(flags: Any, length: int = length) -> Any:
            return _left(flags, length)

        inner = of["breaks"] - tf.cast(end(words.breaks), tf.float32)
        joined = (names & end(names | number)) | (of["time"] > 0)
        share_named = of["name"] / size
        features = {
            "article": gathered,
            "covered": covered,
            "near": before + end(behind),
            "asked": of["asked"] / tf.maximum(of["content"], 1.0),
            "function_start": weak,
            "function_end": end(weak),
            "cut": tf.cast(_right(cuts), tf.float32) + tf.cast(end(cuts), tf.float32),
            "breaks": tf.where(joined, 0.0, inner),
            "name_breaks": tf.where(joined, inner, 0.0),
            "length": tf.fill(tf.shape(asked), float(size)),
            "name": share_named,
            "full_name": of["name"] >= 2,
            "number": of["number"] > 0,
            "number_start": number,
            "time": of["time"] > 0,
            "place": same_before & _right(kind["place"]),
            "cause": same_before & _right(kind["cause"]),
            "money": of["money"] > 0,
            "determiner": same_before & _right(kind["determiner"]),
            "run_before": run_before,
            "run_behind": end(run_behind),
            "edges": bounds + tf.cast(~end(follows), tf.float32),
            "age": number & end(kind["years"]),
        }
        stacked = tf.stack([tf.cast(features[name], tf.float32) for name in _FEATURES], axis=2)
        value = tf.linalg.matvec(stacked, chosen)  # [B, T]
        whole = words.real & end(words.real) & kind["has"] & end(kind["has"])
        whole &= (words.sentence == end(words.sentence)) & (of["content"] > 0)
        found.append(tf.where(whole, value, _NEVER))
    return tf.stack(found, axis=2)


_FEATURES = (
    *_WEIGHTS, "name", "full_name", "number", "number_start", "time", "place", "cause", "money", "age",
)  # fmt: skip


def _table() -> Any:
    """float32 [what is asked, features]."""
    rows = [
        [_WEIGHTS.get(name, 0.0) + _OF_ASKED[asked].get(name, 0.0) for name in _FEATURES] for asked in ASKED
    ]
    return np.array(rows, np.float32)


def together_with_next(words: Words) -> Any:
    """Whether the next word is of the same sentence: bool [B, T]."""
    return (words.sentence == _left(words.sentence, 1)) & words.real & _left(words.real, 1)


def _sums(flags: Any) -> Any:
    """Number of flags before each place: bool [B, T] -> float32 [B, T + 1]."""
    return tf.pad(tf.cumsum(tf.cast(flags, tf.float32), axis=1), [[0, 0], [1, 0]])


def _left(values: Any, places: int) -> Any:
    """Values moved to the left; behind them 0 or False."""
    return tf.pad(values[:, places:], [[0, 0], [0, tf.minimum(places, tf.shape(values)[1])]])


def _right(values: Any) -> Any:
    """Values moved one place to the right; before them 0 or False."""
    return tf.pad(values, [[0, 0], [1, 0]])[:, :-1]


def likelihoods(model: Any, tokenizer: Any, evidence: Any, question: Any, candidates: Any) -> Any:
    """Log probability of answers and their ends, divided by the root of their number of tokens.

    Args:
        model: a `CachedDecoder`.
        tokenizer: its `BytePair`.
        evidence: string [], what the answer is taken from.
        question: string [].
        candidates: string [n].

    Returns:
        float32 [n].
    """

    def ids(text: Any) -> Any:
        return tokenizer.encode(text[None]).flat_values

    before, between, behind = (ids(tf.constant(piece)) for piece in ("Text: ", "\nQuestion: ", "\nAnswer:"))
    asked = tf.concat([between, ids(question)[: min(_QUESTION_TOKENS, model.max_positions // 4)], behind], 0)
    room = model.max_positions - _SPAN_TOKENS - tf.size(before) - tf.size(asked)
    read = ids(evidence)[: tf.clip_by_value(room, 0, _READ_TOKENS)]
    prompt = tf.concat([before, read, asked], axis=0)[None]  # [1, time]
    logits, cache = model.prefill(model.embed(prompt), tf.ones_like(prompt, tf.bool))
    spelled = tokenizer.encode(tf.strings.join([" ", candidates]))[:, : _SPAN_TOKENS - 1]
    newline = tf.fill([spelled.nrows(), 1], ids(tf.constant("\n"))[0])
    spelled = tf.concat([spelled, newline], axis=1)
    dense = spelled.to_tensor(shape=[None, None])  # [n, columns]
    count, columns = tf.unstack(tf.shape(dense))
    written = model.nothing_written(1, CANDIDATES, _SPAN_TOKENS)
    positions = tf.shape(prompt)[1] + tf.range(columns)
    positions = tf.ensure_shape(tf.tile(positions[None, None], [1, count, 1]), [1, CANDIDATES, None])
    behind, _ = model.read(model.embed(dense)[None], positions, cache, written)
    behind = tf.reshape(behind, [count, columns, logits.shape[-1]])[:, :-1]
    logits = tf.concat([tf.repeat(logits[:, None], count, axis=0), behind], axis=1)
    picked = tf.gather(logits, dense, batch_dims=2) - tf.reduce_logsumexp(logits, axis=2)
    real = tf.sequence_mask(spelled.row_lengths(), columns)
    length = tf.cast(spelled.row_lengths(), tf.float32)
    return tf.reduce_sum(tf.where(real, picked, 0.0), axis=1) / tf.sqrt(length)


def answers(
    model: Any, tokenizer: Any, evidence: Any, questions: Any, candidates: Any, values: Any, count: int
) -> Any:
    """The best answers: string [B] twice, string [B, CANDIDATES] and their values -> string [B, count]."""

    def of_row(row: tuple[Any, Any, Any]) -> Any:
        # Nothing to read for a question that is declined.
        return tf.cond(
            row[2][0] == "", lambda: tf.zeros([CANDIDATES]), lambda: likelihoods(model, tokenizer, *row)
        )

    # One after the other: logits of all candidates of a large batch would take a gigabyte.
    likely: Any = tf.map_fn(
        of_row,
        (evidence, questions, candidates),
        fn_output_signature=tf.TensorSpec([CANDIDATES], tf.float32),
        parallel_iterations=1,
    )
    value = tf.where(candidates == "", _NEVER, values + _LIKELIHOOD * likely)
    _, best = tf.math.top_k(value, min(count, CANDIDATES))
    found = tf.gather(candidates, best, batch_dims=1)
    return tf.pad(found, [[0, 0], [0, count - min(count, CANDIDATES)]], constant_values="")
