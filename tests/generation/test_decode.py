"""The decode loop against `transformers`, against the whole model, and against itself in other company."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.generation.beam import Beam, BeamLoop
from genre_tf.generation.cached_decoder import CachedDecoder, WrittenCache
from genre_tf.generation.constraints import Constraints, Rules, banned
from genre_tf.generation.decode import Decoded, DecodeOptions, Greedy, Loop, Sample, copied, decode

VOCABULARY, POSITIONS, END = 61, 64, 0
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 64}


@pytest.fixture(scope="module")
def backbone() -> Any:
    keras.utils.set_random_seed(3)
    model = keras_hub.models.GPT2Backbone(VOCABULARY, max_sequence_length=POSITIONS, **SIZES)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:  # far enough from zero for texts that differ
        variable.assign(variable + random.normal(0, 0.25, variable.shape))
    return model


@pytest.fixture(scope="module")
def write(backbone: Any) -> Callable[..., Decoded]:
    model = CachedDecoder(LanguageLayers(backbone))

    def run(
        prompts: list[list[int]], seeds: list[int] | None = None, width: int = 0, **options: Any
    ) -> Decoded:
        width = max(width, *map(len, prompts))
        token_ids = tf.constant([[7] * (width - len(row)) + row for row in prompts])
        mask = tf.constant([[False] * (width - len(row)) + [True] * len(row) for row in prompts])
        limits = options.pop("limits", None)
        others = {
            name: tf.constant(options.pop(name))
            for name in ("forbidden", "required", "copy_from")
            if name in options
        }
        # Tracing a graph takes longer than its few steps do without one.
        written = tf.function(decode, autograph=False) if options.pop("in_graph", False) else decode
        return written(
            model,
            model.embed(token_ids),
            mask,
            seeds=tf.constant(seeds or [0] * len(prompts), tf.int64),
            end_id=END,
            max_tokens=options.pop("max_tokens", 20),
            options=DecodeOptions(**options),
            limits=limits,
            **others,
        )

    return run


PROMPTS = [[5, 9, 3, 22, 8, 41, 2, 60], [4, 4, 17], [33]]


def test_greedy_equals_transformers(backbone: Any, write: Callable[..., Decoded]) -> None:
    pytest.importorskip("torch")
    reference = as_transformers(backbone)
    texts = write(PROMPTS, constraints=Constraints(min_tokens=0), in_graph=True).ids.numpy()[:, 0]
    for prompt, ours in zip(PROMPTS, texts, strict=True):
        theirs = generated(reference, prompt, max_new_tokens=20)[0]
        assert ours[ours >= 0].tolist() == theirs


def test_log_probability_is_that_of_the_whole_model(backbone: Any, write: Callable[..., Decoded]) -> None:
    sharp = Sample(temperature=0.3, top_k=5)  # must not show in the log probability
    decoded = write(PROMPTS, samples=2, strategy=sharp, constraints=Constraints(no_repeat_ngram=2))
    for row, prompt in enumerate(PROMPTS):
        for sample in range(2):
            text = [token for token in decoded.ids[row, sample].numpy().tolist() if token >= 0]
            ids = tf.constant([prompt + text])
            states = backbone({"token_ids": ids, "padding_mask": tf.ones_like(ids)})
            scores = tf.nn.log_softmax(backbone.token_embedding(states, reverse=True))[
                0, len(prompt) - 1 : -1
            ]
            expected = tf.reduce_mean(tf.gather(scores, text, batch_dims=1))
            np.testing.assert_allclose(decoded.log_probability[row, sample], expected, atol=1e-5)


def test_padding_and_company_do_not_change_a_row(write: Callable[..., Decoded]) -> None:
    options = {"samples": 3, "strategy": Sample(top_k=10)}
    together = write(PROMPTS, [11, 12, 13], width=14, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = write([prompt], [11 + row], **options)
        longest = alone.ids.shape[2]
        np.testing.assert_array_equal(together.ids[row, :, :longest], alone.ids[0])
        assert np.all(together.ids[row, :, longest:].numpy() == -1)
        np.testing.assert_allclose(together.log_probability[row], alone.log_probability[0], atol=1e-5)


def test_samples_and_seeds_differ(write: Callable[..., Decoded]) -> None:
    strategy = Sample(temperature=1.0, top_k=0, top_p=1.0)
    ids = write([PROMPTS[0]] * 2, [1, 2], samples=3, strategy=strategy, max_tokens=12).ids.numpy()
    assert len({tuple(text) for row in ids for text in row}) == 6


def test_rows_stop_at_their_own_limit_and_the_loop_with_the_last(write: Callable[..., Decoded]) -> None:
    never_ends = [[END]] * 3
    decoded = write(PROMPTS, limits=tf.constant([2, 5, 3]), forbidden=never_ends)
    assert (decoded.ids.numpy()[:, 0] >= 0).sum(axis=1).tolist() == [2, 5, 3]
    assert decoded.ids.shape[2] == 5


def test_forbidden_ids_never_come(write: Callable[..., Decoded]) -> None:
    forbidden = [list(range(55))] * 3
    strategy = Sample(temperature=5.0, top_k=0, top_p=1.0)
    ids = write(PROMPTS, samples=4, strategy=strategy, forbidden=forbidden).ids.numpy()
    assert ids.min() >= 55


def test_refresh_takes_over_what_the_backbone_learned(backbone: Any) -> None:
    model = CachedDecoder(LanguageLayers(backbone))
    mask = tf.ones([1, 3], tf.bool)

    def logits() -> np.ndarray:
        return model.prefill(model.embed(tf.constant([[1, 2, 3]])), mask)[0].numpy()

    variable = backbone.transformer_layers[0].weights[0]
    before, kept = logits(), tf.identity(variable)
    variable.assign(variable + 1.0)
    np.testing.assert_array_equal(logits(), before)
    model.refresh()
    assert np.abs(logits() - before).max() > 1e-3
    variable.assign(kept)


SOURCES = [[5, 9, 3, 22, 8, 41, 2, 60] * 3, [4, 4, 17, 30, 12] * 4 + [-1] * 4, [-1] * 24]
RULES = Constraints(min_tokens=3, repetition_penalty=1.2, no_repeat_ngram=3, forbidden_words=((9, 3),))


@pytest.mark.parametrize(
    ("strategy", "constraints"),
    [(Greedy(), Constraints()), (Greedy(), RULES), (Sample(temperature=0.6, top_k=8), RULES)],
)
def test_drafts_change_no_text(
    write: Callable[..., Decoded], strategy: Any, constraints: Constraints
) -> None:
    options = {"samples": 2, "strategy": strategy, "constraints": constraints, "seeds": [1, 2, 3]}
    limits = tf.constant([20, 9, 20])
    plain = write(PROMPTS, limits=limits, **options)
    # What is written without drafts stands in the first source, so that its drafts are right.
    written = [max(token, 0) for token in plain.ids[0, 0].numpy().tolist()]
    sources = [(written + [-1] * 24)[:24], *SOURCES[1:]]
    drafted = write(PROMPTS, limits=limits, **options, draft_tokens=4, copy_from=sources)
    np.testing.assert_array_equal(drafted.ids, plain.ids)
    np.testing.assert_allclose(drafted.log_probability, plain.log_probability, atol=1e-5)


def test_a_copied_text_takes_few_steps(backbone: Any, write: Callable[..., Decoded]) -> None:
    text = write(PROMPTS[:1], forbidden=[[END]]).ids[0, 0].numpy().tolist()
    reads = []

    class Counted(CachedDecoder):
        def read(self, *inputs: Any) -> Any:
            reads.append(inputs)
            return super().read(*inputs)

    model = Counted(LanguageLayers(backbone))
    logits, prompt = model.prefill(model.embed(tf.constant(PROMPTS[:1])), tf.ones([1, 8], tf.bool))
    rules = Rules(END, Constraints(), tf.constant([20]), banned(tf.constant([[END]]), VOCABULARY))
    source = tf.constant([text])
    ids, _ = Loop(model, prompt, tf.constant([[8]]), 20, rules, Greedy(), None, source, 4).run(logits)
    # The first token comes of the prompt; then, while nothing repeats itself, five a step.
    assert ids[0].numpy().tolist() == text and len(reads) <= 11
    assert copied(tf.constant([[7, 3, 5, 9, -1]]), tf.constant([[2, 3]]), 3).numpy().tolist() == [[5, 9, -1]]
    assert copied(tf.constant([[3, 8, 2, 3, 5]]), tf.constant([[2, 3]]), 2).numpy().tolist() == [[5, -1]]


@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
def test_beams_equal_transformers(
    backbone: Any, write: Callable[..., Decoded], length_penalty: float
) -> None:
    pytest.importorskip("torch")
    reference = as_transformers(backbone)
    beam = Beam(width=3, length_penalty=length_penalty)
    options = {"strategy": beam, "samples": 3, "constraints": Constraints(min_tokens=0)}
    together = write(PROMPTS, in_graph=length_penalty > 0, **options).ids.numpy()
    for prompt, ours in zip(PROMPTS, together, strict=True):
        settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": length_penalty}
        theirs = generated(reference, prompt, max_new_tokens=20, **settings)
        assert [text[text >= 0].tolist() for text in ours] == theirs


class OneOrTwoTokens:
    """Ends at once with probability 0.37; after token 1 it ends with probability 0.91."""

    AFTER = tf.constant([[0.37, 0.61, 0.02], [0.91, 0.05, 0.04], [0.5, 0.25, 0.25]])

    def nothing_written(self, *_: Any) -> WrittenCache:
        return WrittenCache((), ())

    def embed(self, token_ids: Any) -> Any:
        return token_ids

    def read(self, token_ids: Any, _positions: Any, _prompt: Any, cache: WrittenCache) -> Any:
        return tf.math.log(tf.gather(self.AFTER, tf.reshape(token_ids, [-1]))), cache


@pytest.mark.parametrize(("length_penalty", "best"), [(0.0, [[1, END], [END]]), (-1.0, [[END], [1, END]])])
def test_a_length_penalty_weighs_length_against_probability(
    length_penalty: float, best: list[list[int]]
) -> None:
    model: Any = OneOrTwoTokens()
    rules = Rules(END, Constraints(min_tokens=0), tf.constant([4, 4]), None, None)
    beam = Beam(width=2, length_penalty=length_penalty)
    no_prompt: Any = None
    loop = BeamLoop(model, no_prompt, tf.zeros([1, 2], tf.int32), 4, rules, beam)
    ids, _ = loop.run(tf.math.log(model.AFTER[:1]) + tf.zeros([2, 1]), 2)
    assert [text[text >= 0].tolist() for text in ids.numpy()[0]] == best


def test_beams_of_a_row_depend_on_it_alone_and_keep_the_rules(write: Callable[..., Decoded]) -> None:
    options = {"strategy": Beam(width=4), "samples": 2, "constraints": RULES, "max_tokens": 12}
    together = write(PROMPTS, limits=tf.constant([12, 5, 12]), required=[[[50, 51]]] * 3, **options)
    for row, (prompt, limit) in enumerate(zip(PROMPTS, [12, 5, 12], strict=True)):
        alone = write([prompt], limits=tf.constant([limit]), required=[[[50, 51]]], **options)
        longest = alone.ids.shape[2]
        np.testing.assert_array_equal(together.ids[row, :, :longest], alone.ids[0])
        np.testing.assert_allclose(together.log_probability[row], alone.log_probability[0], atol=1e-5)
        for text in alone.ids[0].numpy().tolist():
            assert (50, 51) in pairwise(text)
            assert (9, 3) not in pairwise(text)


def test_groups_of_beams_differ_from_their_first_token(write: Callable[..., Decoded]) -> None:
    diverse = write(PROMPTS, strategy=Beam(width=4, groups=2, diversity=50.0), samples=2).ids.numpy()
    assert (diverse[:, 0, 0] != diverse[:, 1, 0]).all()
    plain = write(PROMPTS, strategy=Beam(width=2), samples=1).ids.numpy()
    longest = min(plain.shape[2], diverse.shape[2])
    np.testing.assert_array_equal(diverse[:, 0, :longest], plain[:, 0, :longest])


@pytest.mark.parametrize("strategy", [Greedy(), Sample(temperature=1.0)])
def test_required_words_come_within_the_limit(write: Callable[..., Decoded], strategy: Any) -> None:
    words = [[[33, 34, 35], [40, -1, -1]], [[7, 7, -1], [-1] * 3], [[-1] * 3] * 2]
    options = {"strategy": strategy, "limits": tf.constant([6, 4, 8])}
    texts = write(PROMPTS, required=words, **options).ids.numpy()[:, 0].tolist()
    joined = [" ".join(map(str, text)) for text in texts]
    assert "33 34 35" in joined[0] and 40 in texts[0]
    assert "7 7" in joined[1] and all(
        len([t for t in x if t >= 0]) <= n for x, n in zip(texts, [6, 4, 8], strict=True)
    )


def test_what_does_not_fit_together_is_refused() -> None:
    for wrong in ({"samples": 3, "strategy": Beam(width=2)}, {"draft_tokens": 2, "strategy": Beam()}):
        with pytest.raises(ValueError, match=r"samples|draft_tokens"):
            DecodeOptions(**wrong)
    with pytest.raises(ValueError, match="multiple of groups"):
        Beam(width=3, groups=2)


def generated(reference: Any, prompt: list[int], **settings: Any) -> list[list[int]]:
    """What `transformers` writes behind a prompt, without padding."""
    import torch

    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "eos_token_id": END, "pad_token_id": VOCABULARY - 1} | settings
    texts = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)[
        :, len(prompt) :
    ].tolist()
    return [text[: text.index(END) + 1] if END in text else text for text in texts]


def as_transformers(backbone: Any) -> Any:
    """The same weights as a `transformers` model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=backbone.hidden_dim, n_head=2,
                        n_layer=backbone.num_layers, bos_token_id=END, eos_token_id=END)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    state = {weight.name: torch.tensor(weight.write()) for weight in GPT2.weights(backbone)}
    model.transformer.load_state_dict(state)
    return model
