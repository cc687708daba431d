import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from genre_tf.errors import InputError
from genre_tf.text.byte_pair import MAX_TEXT_BYTES, BytePair, train_byte_pair
from genre_tf.text.byte_pair_files import printable_bytes

from .conftest import reference_ids

CORPUS = [
    "The storm reached the coast on Monday, officials said.",
    "Don't miss the storm: they've said it's the season's worst!",
    "Café owners say 2019's prices won't fall... naïve 日本語 😀😀",
    "aaaa bbbb aaab the the the  coast   officials\n\nsaid",
] * 3
SPECIAL = ["<|endoftext|>", "<|title|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary")
    train_byte_pair(CORPUS, 420, SPECIAL, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> BytePair:
    return BytePair.from_folder(folder)


def test_gives_the_ids_of_the_reference(tokenizer: BytePair, folder: Path, awkward_texts: list[str]) -> None:
    texts = awkward_texts + CORPUS
    assert tokenizer.encode(tf.constant(texts)).to_list() == reference_ids(folder, texts)


def test_known_words_change_the_speed_and_nothing_else(
    tokenizer: BytePair, folder: Path, awkward_texts: list[str]
) -> None:
    plain = BytePair(*_parts(folder))
    learned = plain.with_known_words(awkward_texts)
    assert learned.encode(tf.constant(awkward_texts)).to_list() == reference_ids(folder, awkward_texts)


def test_reads_bytes_that_are_no_text_as_python_does(
    tokenizer: BytePair, folder: Path, random_bytes: list[bytes]
) -> None:
    read = [text.decode("utf-8", errors="replace") for text in random_bytes]
    encoded = tokenizer.encode(tf.constant(random_bytes))
    assert encoded.to_list() == reference_ids(folder, read)
    assert [text.decode("utf-8") for text in tokenizer.decode(encoded).numpy()] == read


def test_reads_ten_thousand_characters(tokenizer: BytePair, folder: Path) -> None:
    letters = np.random.default_rng(3).choice(list("abcdefghijklmnopqrstuvwxyz"), 10_000)
    texts = ["".join(letters), "a" * 10_000, " " * 10_000, "日" * 10_000, "😀" * 10_000, "the coast " * 1000]
    assert tokenizer.encode(tf.constant(texts)).to_list() == reference_ids(folder, texts)


def test_reads_only_the_beginning_of_a_huge_text(tokenizer: BytePair) -> None:
    begun = time.monotonic()
    encoded = tokenizer.encode(tf.constant(["x" * 10_000_000]))
    assert tokenizer.decode(encoded).numpy()[0] == b"x" * MAX_TEXT_BYTES
    assert time.monotonic() - begun < 10


def test_decodes_what_it_encoded(tokenizer: BytePair, awkward_texts: list[str]) -> None:
    decoded = tokenizer.decode(tokenizer.encode(tf.constant(awkward_texts))).numpy()
    assert [text.decode("utf-8") for text in decoded] == awkward_texts


def test_decodes_any_ids_to_valid_text_without_special_tokens(tokenizer: BytePair) -> None:
    ids = np.random.default_rng(4).integers(-5, tokenizer.vocabulary_size + 5, (200, 20)).astype(np.int32)
    for text in tokenizer.decode(tf.constant(ids)).numpy():
        assert "<|title|>" not in text.decode("utf-8")
    special = [tokenizer.token_id(token) for token in SPECIAL]
    assert tokenizer.decode(tf.constant([special])).numpy()[0] == b""


def test_never_gives_a_special_token_for_text(tokenizer: BytePair) -> None:
    ids = tokenizer.encode(tf.constant(["<|title|> <|endoftext|>"])).flat_values.numpy()
    assert not set(ids) & {tokenizer.token_id(token) for token in SPECIAL}


def test_adds_special_tokens_at_the_end(tokenizer: BytePair) -> None:
    larger = tokenizer.with_special_tokens(["<|title|>", "<|body|>"])
    assert larger.token_id("<|body|>") == tokenizer.vocabulary_size
    assert larger.vocabulary_size == tokenizer.vocabulary_size + 1
    with pytest.raises(InputError, match="not a special token"):
        tokenizer.token_id("<|body|>")


def test_reads_texts_in_batches_of_any_size(tokenizer: BytePair) -> None:
    assert tokenizer.encode(tf.constant([], tf.string)).to_list() == []
    assert tokenizer.encode(tf.constant(["", ""])).to_list() == [[], []]
    together = tokenizer.encode(tf.constant(CORPUS)).to_list()
    assert together == [tokenizer.encode(tf.constant([text])).to_list()[0] for text in CORPUS]


def test_works_inside_functions_and_datasets(tokenizer: BytePair) -> None:
    texts = tf.constant(CORPUS)
    eager = tokenizer.encode(texts).to_list()
    assert tf.function(tokenizer.encode)(texts).to_list() == eager
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(len(CORPUS)).map(tokenizer.encode)
    assert next(iter(dataset)).to_list() == eager


def test_transformers_reads_the_saved_folder(tokenizer: BytePair, folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs(CORPUS)["input_ids"] == tokenizer.encode(tf.constant(CORPUS)).to_list()
    assert theirs.convert_tokens_to_ids("<|title|>") == tokenizer.token_id("<|title|>")


def test_training_twice_gives_the_same_vocabulary(folder: Path, tmp_path: Path) -> None:
    train_byte_pair(CORPUS, 420, SPECIAL, tmp_path)
    for name in ("vocab.json", "merges.txt", "known_words.json"):
        assert json.loads(json.dumps((tmp_path / name).read_text())) == (folder / name).read_text()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no byte-pair vocabulary"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b""}, "of the 256 bytes"),
        ({"vocab.json": b'{"a": 1}', "merges.txt": b""}, "ids are not 0 to 0"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b c\n"}, "A merge must name two tokens"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"\xff\xfe"}, "not UTF-8"),
        ({"tokenizer.json": b'{"model": {"type": "WordPiece"}}'}, "another tokenizer than GPT-2's"),
    ],
)
def test_says_what_is_wrong_with_a_folder(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        BytePair.from_folder(tmp_path)


def test_refuses_a_merge_without_its_token(folder: Path) -> None:
    vocabulary, merges = _parts(folder)
    with pytest.raises(InputError, match="'z' \\+ 'q' needs a token"):
        BytePair(vocabulary, [*merges, ("z", "q")])


def test_refuses_a_vocabulary_without_room(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 258"):
        train_byte_pair(CORPUS, 200, SPECIAL, tmp_path)


def test_gives_the_ids_of_the_reference_with_the_vocabulary_of_gpt2(
    gpt2_vocabulary: Path, awkward_texts: list[str]
) -> None:
    tokenizer = BytePair.from_folder(gpt2_vocabulary)
    assert tokenizer.special_tokens == ("<|endoftext|>",)
    expected = reference_ids(gpt2_vocabulary, awkward_texts)
    assert tokenizer.encode(tf.constant(awkward_texts)).to_list() == expected


@pytest.mark.proof
def test_gives_the_ids_of_the_reference_on_every_character_and_title(
    gpt2_vocabulary: Path, titles: list[str], characters: list[str]
) -> None:
    texts = titles + [f"a{character}b {character} 1{character}'s" for character in characters]
    tokenizer = BytePair.from_folder(gpt2_vocabulary)
    assert tokenizer.encode(tf.constant(texts)).to_list() == reference_ids(gpt2_vocabulary, texts)


NUMBERS = ["2019", "a  1", "1  2", "x12  34y", "'s5's 6 's", "½ Ⅷ7\n\n 8", "٣٤ ੬", "\n9\n", " 1", "1 "]


@pytest.fixture(scope="module")
def digits_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary that cuts digits apart and lacks some bytes, of emoji among them."""
    vocabulary, merges = _parts(folder)
    absent = {printable_bytes()[byte] for byte in (0xC0, 0xF0, 0xFF)}
    kept = [token for token in vocabulary if not absent & set(token)]
    pairs = [pair for pair in merges if not absent & set("".join(pair))]
    path = tmp_path_factory.mktemp("digits")
    ids = {token: number for number, token in enumerate(kept)}
    BytePair(ids, pairs, ["the 2", " coast"], split_digits=True).save(path)
    return path


def test_gives_the_ids_of_the_reference_where_digits_stand_alone(
    digits_folder: Path, awkward_texts: list[str], random_bytes: list[bytes]
) -> None:
    tokenizer = BytePair.from_folder(digits_folder)
    given = [*NUMBERS, *awkward_texts[:500], *CORPUS, "1234567890 " * 800, " " * 9000 + "1"]
    read = [*given, *(text.decode("utf-8", errors="replace") for text in random_bytes[:500])]
    texts = tf.constant([*(text.encode() for text in given), *random_bytes[:500]])
    expected = digits_reference(digits_folder, read)
    assert tokenizer.encode(texts).to_list() == expected
    larger = tokenizer.with_known_words(given).with_special_tokens(["<|body|>"])
    assert larger.encode(texts).to_list() == expected
    special = {tokenizer.token_id(token) for token in SPECIAL}
    assert not special & {number for row in expected for number in row}
    ids = tokenizer.encode(tf.constant([*NUMBERS, "a😀b"]))
    assert [text.decode("utf-8") for text in tokenizer.decode(ids[:-1]).numpy()] == NUMBERS
    assert tokenizer.decode(ids[-1:]).numpy()[0].decode("utf-8").startswith("a\ufffd")  # lacks a byte


def test_transformers_cuts_the_digits_of_the_saved_folder_too(digits_folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(digits_folder)
    tokenizer = BytePair.from_folder(digits_folder)
    assert theirs(NUMBERS)["input_ids"] == tokenizer.encode(tf.constant(NUMBERS)).to_list()


@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel"}],
        [{"type": "Split", "pattern": {"Regex": "x"}}, {"type": "ByteLevel", "use_regex": False}],
        [],
    ],
)
def test_refuses_other_ways_of_splitting(steps: list[Any], digits_folder: Path, tmp_path: Path) -> None:
    described = json.loads((digits_folder / "tokenizer.json").read_text("utf-8"))
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(InputError, match="another tokenizer than GPT-2's"):
        BytePair.from_folder(tmp_path)


def digits_reference(folder: Path, texts: list[str]) -> list[list[int]]:
    """What the `tokenizers` library gives where no special token is looked for in the text."""
    described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    assert described["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    reference = Tokenizer.from_str(json.dumps({**described, "added_tokens": []}))
    return [encoding.ids for encoding in reference.encode_batch(texts)]


def _parts(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    rules = (folder / "merges.txt").read_text("utf-8").split("\n")[1:-1]
    return vocabulary, [(left, right) for left, right in (rule.split(" ") for rule in rules)]
