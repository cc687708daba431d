"""Llama token by token against `transformers` and against its layers in training."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import LLAMA, LanguageModel, save_language_model, tiny_byte_pair
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.export import replay
from genre_tf.export.gate import portability_violations
from genre_tf.export.requests import Exchange, as_bytes, write_exchanges
from genre_tf.export.saved_model import write_saved_model
from genre_tf.generation.cached_decoder import CachedDecoder
from genre_tf.generation.decode import DecodeOptions, Greedy, Sample, decode

PROMPTS = [[5, 9, 3, 22, 8, 41, 2, 60], [4, 4, 17], [33]]
END = 256


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    sizes = {"layers": 2, "heads": 6, "key_heads": 2, "hidden": 24, "intermediate": 40, "max_tokens": 64}
    model = LLAMA.new(tiny_byte_pair(), **sizes)
    random = np.random.default_rng(3)
    for variable in model.backbone.weights:  # far enough from zero for texts that differ
        variable.assign(variable + random.normal(0, 0.25, variable.shape))
    return model


@pytest.fixture(scope="module")
def layers(llama: LanguageModel) -> LanguageLayers:
    """With updates and token rows that are not nothing."""
    built = LanguageLayers(llama.backbone, parse_trainable("lora 3"), (7, 256))
    random = np.random.default_rng(4)
    for weight in built.trainable_variables:
        weight.assign(random.normal(0, 0.1, weight.shape))
    return built


def left_padded(prompts: list[list[int]], width: int = 8) -> tuple[tf.Tensor, tf.Tensor]:
    ids = [[7] * (width - len(row)) + row for row in prompts]
    mask = [[False] * (width - len(row)) + [True] * len(row) for row in prompts]
    return tf.constant(ids), tf.constant(mask)


def test_greedy_equals_transformers(llama: LanguageModel, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import LlamaForCausalLM

    save_language_model(llama, tmp_path)
    reference = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    model = CachedDecoder(LanguageLayers(llama.backbone, parse_trainable("none")))
    ids, mask = left_padded(PROMPTS)
    seeds = tf.zeros([len(PROMPTS)], tf.int64)
    texts = tf.function(decode, autograph=False)(
        model, model.embed(ids), mask, seeds=seeds, end_id=END, max_tokens=20, options=DecodeOptions()
    ).ids.numpy()[:, 0]
    settings = {"do_sample": False, "eos_token_id": END, "pad_token_id": END, "max_new_tokens": 20}
    for prompt, ours in zip(PROMPTS, texts, strict=True):
        given = torch.tensor([prompt])
        theirs = reference.generate(given, attention_mask=torch.ones_like(given), **settings)
        assert ours[ours >= 0].tolist() == theirs[0, len(prompt) :].tolist()


def test_log_probability_is_that_of_the_layers_in_training(layers: LanguageLayers) -> None:
    texts, found = steps(CachedDecoder(layers))
    for row, prompt in enumerate(PROMPTS):
        for sample in range(texts.shape[1]):
            ids = tf.constant([[*prompt, *texts[row, sample], 9, 9]])  # padded on the right
            logits = layers.logits(layers.states(layers.embed(ids), False))[0].numpy()
            expected = logits[len(prompt) - 1 : -3]
            np.testing.assert_allclose(found[row, sample], expected, atol=5e-5)


def test_several_tokens_at_once_are_read_as_one_by_one(layers: LanguageLayers) -> None:
    model = CachedDecoder(layers)
    texts, one_by_one = steps(model)
    ids, mask = left_padded(PROMPTS)
    _, prompt = model.prefill(model.embed(ids), mask)
    written = model.nothing_written(len(PROMPTS), 2, room=6)
    start = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)[:, None, None]
    for first, last in ((0, 3), (1, 4)):  # the second time two tokens are read again, in their old places
        embeddings = model.embed(texts[:, :, first:last])
        positions = tf.repeat(start + tf.range(first, last), 2, axis=1)
        logits, written = model.read(embeddings, positions, prompt, written)
        logits = tf.reshape(logits, [len(PROMPTS), 2, last - first, -1])
        np.testing.assert_allclose(logits, one_by_one[:, :, first + 1 : last + 1], atol=5e-5)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(temperature=0.6, top_k=8)])
def test_drafts_change_no_text(strategy: Any, layers: LanguageLayers) -> None:
    model, (ids, mask) = CachedDecoder(layers), left_padded(PROMPTS)
    options = DecodeOptions(samples=2, strategy=strategy)

    def write(options: DecodeOptions, sources: Any) -> Any:
        return decode(
            model, model.embed(ids), mask, seeds=tf.constant([1, 2, 3], tf.int64), end_id=END, max_tokens=14,
            options=options, copy_from=sources,
        )  # fmt: skip

    plain = write(options, None)
    sources = tf.maximum(plain.ids[:, 0], 0)  # what is written stands there, so that drafts are right
    drafted = write(dataclasses.replace(options, draft_tokens=4), sources)
    np.testing.assert_array_equal(drafted.ids, plain.ids)
    np.testing.assert_allclose(drafted.log_probability, plain.log_probability, atol=1e-5)


def steps(model: CachedDecoder) -> tuple[np.ndarray, np.ndarray]:
    """Two texts of five tokens after each prompt, and the logits before each: [rows, 2, 5, vocabulary]."""
    texts = np.random.default_rng(6).integers(0, 257, (len(PROMPTS), 2, 5))
    ids, mask = left_padded(PROMPTS)

    @tf.function(autograph=False)
    def run() -> Any:
        logits, prompt = model.prefill(model.embed(ids), mask)
        found = [tf.repeat(logits, 2, axis=0)]
        written = model.nothing_written(len(PROMPTS), 2, room=6)
        start = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)[:, None]
        for number in range(4):
            embeddings = model.embed(texts[:, :, number : number + 1])
            positions = tf.repeat(start + number, 2, 1)[:, :, None]
            logits, written = model.read(embeddings, positions, prompt, written)
            found.append(logits)
        return tf.reshape(tf.stack(found, 1), [len(PROMPTS), 2, 5, -1])

    return texts, run().numpy()


def test_padding_and_company_do_not_change_a_row(layers: LanguageLayers) -> None:
    model = CachedDecoder(layers)
    options = DecodeOptions(samples=3, strategy=Sample(top_k=10))

    def write(ids: tf.Tensor, mask: tf.Tensor, seeds: tf.Tensor) -> Any:
        embeddings = model.embed(ids)
        return decode(model, embeddings, mask, seeds=seeds, end_id=END, max_tokens=12, options=options)

    together = write(*left_padded(PROMPTS, 14), tf.constant([11, 12, 13], tf.int64))
    for row, prompt in enumerate(PROMPTS):
        alone = write(*left_padded([prompt], len(prompt)), tf.constant([11 + row], tf.int64))
        longest = alone.ids.shape[2]
        np.testing.assert_array_equal(together.ids[row, :, :longest], alone.ids[0])
        np.testing.assert_allclose(together.log_probability[row], alone.log_probability[0], atol=1e-5)


def test_an_export_is_portable_and_answers_in_a_fresh_process(
    llama: LanguageModel, layers: LanguageLayers, tmp_path: Path
) -> None:
    model = CachedDecoder(layers)
    settings = {"end_id": END, "max_tokens": 6, "options": DecodeOptions()}

    def write(text: Any, seed: Any) -> dict[str, Any]:
        ids = llama.tokenizer.encode(text).to_tensor(-1)
        ids = tf.reverse(ids, [1])  # padding on the left; any order of the letters will do
        embeddings = model.embed(tf.maximum(ids, 0))
        logits, _ = model.prefill(embeddings, ids >= 0)
        written = decode(model, embeddings, ids >= 0, seeds=seed, **settings)
        return {"logits": logits, "text": llama.tokenizer.decode(written.ids[:, 0])}

    resources = [llama.tokenizer]
    write_saved_model(tmp_path / "1", resources, {"write": (write, {"text": tf.string, "seed": tf.int64})})
    assert [str(violation) for violation in portability_violations(tmp_path / "1")] == []
    request = {"text": as_bytes(["news", "x"]), "seed": np.array([1, 2], np.int64)}
    answer = {
        name: value.numpy()
        for name, value in write(**{k: tf.constant(v) for k, v in request.items()}).items()
    }
    write_exchanges(tmp_path / "asked.npz", [Exchange("write", "two rows", request, answer)])
    command = [sys.executable, "-I", replay.__file__, str(tmp_path / "1"), str(tmp_path / "asked.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.strip().split("\n")[-1])
    assert [exchange["faults"] for exchange in report["exchanges"]] == [[]]
    assert not any(name.startswith("genre_tf") for name in report["modules"])


def test_refresh_takes_over_what_was_learned(layers: LanguageLayers) -> None:
    model = CachedDecoder(layers)
    ids, mask = left_padded([[1, 2, 3]], 3)
    before = model.prefill(model.embed(ids), mask)[0].numpy()
    up = layers.blocks[0].additions["value"].up
    kept = tf.identity(up)
    up.assign(up + 1.0)
    np.testing.assert_array_equal(model.prefill(model.embed(ids), mask)[0], before)
    model.refresh()
    assert np.abs(model.prefill(model.embed(ids), mask)[0] - before).max() > 1e-3
    up.assign(kept)
