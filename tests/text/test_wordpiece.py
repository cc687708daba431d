import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from transformers import BertTokenizer, BertTokenizerFast

from genre_tf.errors import InputError
from genre_tf.text.wordpiece import MAX_TEXT_BYTES, SPECIAL_TOKENS, LongestMatch, WordPiece, learn_wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzéжσς日本語中文新闻한ا0123456789½…'!,.[]<|>-"
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "cafe", "##ve", "title", "news"]


def reference(tokenizer: WordPiece, folder: Path) -> BertTokenizerFast:
    tokenizer.save(folder)
    return BertTokenizerFast.from_pretrained(folder, split_special_tokens=True)


def ids_of(reference: BertTokenizerFast, texts: list[str]) -> list[list[int]]:
    reference.backend_tokenizer.no_truncation()
    reference.backend_tokenizer.no_padding()
    return reference(texts, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("lowercase", [True, False])
def test_gives_the_ids_of_the_reference(lowercase: bool, awkward_texts: list[str], tmp_path: Path) -> None:
    tokenizer = WordPiece(VOCABULARY, lowercase)
    expected = ids_of(reference(tokenizer, tmp_path), awkward_texts)
    assert tokenizer.pieces(tf.constant(awkward_texts)).to_list() == expected


def test_gives_the_ids_of_the_reference_on_every_title_of_the_sample(minilm: Path, titles: list[str]) -> None:
    tokenizer = WordPiece.from_folder(minilm)
    expected = ids_of(BertTokenizerFast.from_pretrained(minilm), titles)
    assert tokenizer.pieces(tf.constant(titles)).to_list() == expected


@pytest.mark.proof
def test_differs_on_no_character_that_unicode_has_known_for_ten_years(
    minilm: Path, characters: list[str]
) -> None:
    # The reference carries an older Unicode; 507 code points added since are the whole difference.
    texts = [f"a{character}b {character}" for character in characters]
    fast = BertTokenizerFast.from_pretrained(minilm, split_special_tokens=True)
    ours = WordPiece.from_folder(minilm).pieces(tf.constant(texts)).to_list()
    different = sum(a != b for a, b in zip(ours, ids_of(fast, texts), strict=True))
    assert different <= 507


def test_frames_cuts_and_pads_rows() -> None:
    tokenizer = WordPiece(VOCABULARY)
    ids = tokenizer(tf.constant(["news", "a b c d e f g", ""]), max_tokens=5)
    a = VOCABULARY.index("a")
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [
        [2, VOCABULARY.index("news"), 3, 0, 0],
        [2, a, a + 1, a + 2, 3],
        [2, 3, 0, 0, 0],
    ]
    assert tokenizer(tf.constant([""]), max_tokens=5).shape == (1, 2)
    assert tokenizer(tf.constant([], tf.string), max_tokens=5).shape[0] == 0


def test_never_gives_a_special_token_for_text(awkward_texts: list[str]) -> None:
    ids = WordPiece(VOCABULARY).pieces(tf.constant(awkward_texts)).flat_values.numpy()
    assert not set(ids) & {SPECIAL.index(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")}


def test_takes_any_bytes(random_bytes: list[bytes], tmp_path: Path) -> None:
    tokenizer = WordPiece(VOCABULARY)
    read = [text.decode("utf-8", errors="replace") for text in random_bytes]
    expected = ids_of(reference(tokenizer, tmp_path), read)
    assert tokenizer.pieces(tf.constant(random_bytes)).to_list() == expected


def test_reads_only_the_beginning_of_a_huge_text() -> None:
    ids = WordPiece(VOCABULARY).pieces(tf.constant(["a " * MAX_TEXT_BYTES]))
    assert ids.row_lengths().numpy().tolist() == [MAX_TEXT_BYTES // 2]


def test_works_inside_functions_and_datasets() -> None:
    tokenizer = WordPiece(VOCABULARY)
    texts = tf.constant(["Café news", "title"])
    eager = tokenizer(texts, 8).numpy()
    np.testing.assert_array_equal(tf.function(lambda text: tokenizer(text, 8))(texts), eager)
    batch = next(
        iter(tf.data.Dataset.from_tensor_slices(texts).batch(2).map(lambda text: tokenizer(text, 8)))
    )
    np.testing.assert_array_equal(batch, eager)


def test_reads_tokenizer_json_alone(tmp_path: Path) -> None:
    described = {
        "normalizer": {"type": "BertNormalizer", "lowercase": False},
        "model": {"type": "WordPiece", "vocab": {token: n for n, token in enumerate(VOCABULARY)}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    tokenizer = WordPiece.from_folder(tmp_path)
    assert tokenizer.vocabulary == tuple(VOCABULARY)
    assert not tokenizer.lowercase


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no tokenizer"),
        ({"vocab.txt": b"a\nb\n"}, r"lacks \[PAD\]"),
        ({"vocab.txt": "\n".join([*VOCABULARY, "a"]).encode()}, "'a' more than once"),
        ({"vocab.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"tokenizer.json": b"{"}, "not valid JSON"),
        ({"tokenizer.json": b"[]"}, "not a JSON object"),
        ({"tokenizer.json": b'{"model": {"type": "BPE"}}'}, "BPE tokenizer"),
    ],
)
def test_says_what_is_wrong_with_a_folder(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        WordPiece.from_folder(tmp_path)


def test_refuses_a_length_without_room() -> None:
    with pytest.raises(InputError, match="got 1"):
        WordPiece(VOCABULARY)(tf.constant(["a"]), max_tokens=1)


PIECES = ["[UNK]", "un", "##aff", "##able", "##a", "news", "##f", "新", "##闻", "é", "##é"]


def cut(*words: str) -> list[list[str]]:
    rows = LongestMatch(PIECES, 0)(tf.constant(list(words), tf.string)).to_list()
    return [[PIECES[piece] for piece in row] for row in rows]


def test_takes_the_longest_piece_first() -> None:
    assert cut("unaffable", "news", "una") == [["un", "##aff", "##able"], ["news"], ["un", "##a"]]


def test_a_word_with_one_dead_end_is_unknown_as_a_whole() -> None:
    assert cut("unaffx", "x", "newsnews", "un") == [["[UNK]"], ["[UNK]"], ["[UNK]"], ["un"]]


def test_counts_characters_and_not_bytes() -> None:
    assert cut("新闻", "éé", "闻") == [["新", "##闻"], ["é", "##é"], ["[UNK]"]]


def test_no_words_give_no_rows() -> None:
    assert LongestMatch(PIECES, 0)(tf.constant([], tf.string)).to_list() == []


TEXTS = [
    "Storms close schools",
    "storms hit schools and the Café",
    "颱風來襲,學校關閉",
    "颱風過後 2019年",
] * 3


def test_characters_and_frequent_words_become_tokens() -> None:
    tokenizer = learn_wordpiece(TEXTS, 200)
    assert tokenizer.vocabulary[:5] == SPECIAL_TOKENS
    assert {"storms", "schools", "cafe", "颱", "風", "年"} <= set(tokenizer.vocabulary)
    assert "颱風" not in tokenizer.vocabulary  # BERT never sees two ideographs in one word
    assert tokenizer.vocabulary == learn_wordpiece(TEXTS, 200).vocabulary
    ids = tokenizer.pieces(tf.constant(["颱風 storms"])).to_list()[0]
    assert [tokenizer.vocabulary[each] for each in ids] == ["颱", "風", "storms"]


def test_no_more_tokens_than_asked_for_and_none_without_room() -> None:
    many = ["".join(map(chr, range(0x4E00, 0x4E00 + 300)))]
    assert learn_wordpiece(many, 120).vocabulary_size <= 120
    with pytest.raises(InputError, match="vocabulary of 50 tokens"):
        learn_wordpiece(TEXTS, 50)


def test_five_thousand_chinese_titles_have_the_ids_of_transformers(
    mind_sample_zh: Path, tmp_path: Path
) -> None:
    lines = (mind_sample_zh / "train" / "news.tsv").read_text("utf-8").split("\n")
    titles = list(dict.fromkeys(line.split("\t")[3] for line in lines if line))[:5000]
    tokenizer = learn_wordpiece(titles, 6000)
    tokenizer.save(tmp_path)
    expected = BertTokenizer.from_pretrained(tmp_path)(titles, add_special_tokens=False)["input_ids"]
    assert len(titles) == 5000
    assert WordPiece.from_folder(tmp_path).pieces(tf.constant(titles)).to_list() == expected
    known = sum(each != tokenizer.unknown_id for row in expected for each in row)
    assert known > 0.99 * sum(map(len, expected))
