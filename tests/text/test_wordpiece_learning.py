"""A vocabulary learned from a corpus, and whether `transformers` reads texts by it as we do."""

from pathlib import Path

import pytest
import tensorflow as tf
from transformers import BertTokenizer

from genre_tf.errors import InputError
from genre_tf.text.wordpiece import WordPiece
from genre_tf.text.wordpiece_learning import SPECIAL_TOKENS, learn_wordpiece

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
