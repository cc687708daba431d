"""Packing and masking: every token once, nothing between texts, whole words hidden in the right shares."""

import numpy as np
import pytest

from genre_tf.backbones.language_models import tiny_byte_pair
from genre_tf.data.packing import Masking, lay_out, mask_words, pack
from genre_tf.pretraining.packed_batches import PackedBatches, TokenTexts, causal_texts


def test_every_text_is_packed_once_and_rows_are_full():
    random = np.random.default_rng(1)
    lengths = random.integers(3, 40, 3000)
    order = random.permutation(len(lengths)).tolist()
    rows = pack(lengths, 64, order)
    assert sorted(text for row in rows for text in row) == list(range(3000))
    filled = [int(lengths[row].sum()) for row in rows]
    assert max(filled) <= 64 and sum(filled) / (64 * len(rows)) > 0.97
    assert pack(lengths, 64, order) == rows
    assert pack(np.array([40, 24, 64]), 64, [0, 1, 2]) == [[0, 1], [2]], "a text that just fits"
    with pytest.raises(ValueError, match="cut it first"):
        pack(lengths, int(lengths.max()) - 1, order)


def test_packed_rows_by_hand():
    ids = [np.asarray(each, np.int32) for each in ([5, 6], [7], [8, 9, 10])]
    (out,), text, position = lay_out([ids], [[2, 1], [0]], 5)
    assert out.tolist() == [[8, 9, 10, 7, 0], [5, 6, 0, 0, 0]]
    assert text.tolist() == [[1, 1, 1, 2, 0], [1, 1, 0, 0, 0]]
    assert position.tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 0, 0]]


# 0 [PAD], 1 [CLS], 2 [MASK], even ids from 10 on begin a word, odd ones go on with it.
VOCABULARY = 110
SPECIAL = np.arange(VOCABULARY) < 3
MASKING = Masking(share=0.15, mask_id=2, begins_word=np.arange(VOCABULARY) % 2 == 0, special=SPECIAL)


def test_whole_words_are_hidden_in_devlins_shares():
    random = np.random.default_rng(2)
    hidden = as_mask = kept = tokens = 0
    for _ in range(300):
        words = [
            [10 + 2 * n, 11 + 2 * n, 11 + 2 * n][: random.integers(1, 4)] for n in random.integers(0, 50, 60)
        ]
        ids = np.asarray([1, *(token for word in words for token in word)], np.int32)
        seen, places = mask_words(ids, MASKING, random)
        untouched = np.setdiff1d(np.arange(len(ids)), places)
        assert 0 not in places and (seen[untouched] == ids[untouched]).all() and not (seen == 1)[1:].any()
        word_of = np.cumsum(ids % 2 == 0)
        assert set(word_of[places]).isdisjoint(word_of[untouched[1:]])  # whole words or nothing
        tokens, hidden = tokens + len(ids) - 1, hidden + len(places)
        as_mask, kept = as_mask + int((seen == 2).sum()), kept + int((seen == ids)[places].sum())
    assert hidden / tokens == pytest.approx(0.15, abs=0.005)
    assert as_mask / hidden == pytest.approx(0.8, abs=0.02)
    assert kept / hidden == pytest.approx(
        0.1, abs=0.015
    )  # those drawn at random that hit themselves among them


def test_a_row_without_words_hides_nothing():
    seen, places = mask_words(np.asarray([1, 1], np.int32), MASKING, np.random.default_rng(0))
    assert seen.tolist() == [1, 1] and not len(places)


@pytest.mark.parametrize("start", [0, 5, 40])
def test_the_texts_of_a_batch_are_named_without_making_it(start):
    random = np.random.default_rng(4)
    pieces = [np.full(random.integers(2, 12), number, np.int32) for number in range(60)]
    texts = TokenTexts(pieces, pieces, None, [100 + number for number in range(60)])
    packed = PackedBatches(texts, width=16, rows=3, seed=1)
    batches = list(packed.batches(start=start).take(2).as_numpy_iterator())
    held = {int(token) for batch in batches for token in batch["token_ids"][batch["text"] > 0]}
    assert packed.text_numbers(start, 2) == sorted(100 + number for number in held)


def test_pieces_know_the_text_that_they_were_cut_from():
    tokenizer = tiny_byte_pair(["<|endoftext|>"])
    pieces = causal_texts(["abc", "a long text that is cut", "x"], tokenizer, 8)
    assert pieces.numbers == sorted(pieces.numbers) and set(pieces.numbers) == {0, 1, 2}
    assert pieces.numbers.count(1) > 1 and len(pieces.numbers) == len(pieces.inputs)
