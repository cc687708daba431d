"""A run's fine-tuned language models as `transformers` folders: PyTorch computes what the run computes."""

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.language_models import load_language_model, save_language_model
from genre_tf.config import GenerationConfig, NewsConfig, RunConfig, write_config
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.errors import FailureError, InputError
from genre_tf.export import transformers_folder
from genre_tf.export.transformers_folder import write_transformers_folder
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.layers.block import merged
from genre_tf.models.checkpoint import (
    FOLDER,
    WEIGHTS_FILE,
    load_generator,
    load_ranker,
    save_backbone,
    save_generator_sizes,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.news_encoder import Categories
from genre_tf.models.text_model import save_own_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
TITLES = ["Storm closes schools", "rates rise again; rain ends the match"]
ARTICLES = [Article(f"N{at}", "news", "", title, f"{title}, they said.") for at, title in enumerate(TITLES)]


def shaken(model: keras.Model, seed: int) -> keras.Model:
    """Every weight that is trained is moved, so that none can be left out unseen."""
    generator = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign_add(generator.normal(scale=0.1, size=weight.shape))
    return model


def ranking_run(run: Path, trainable: str, precision: str = "float32") -> Path:
    save_backbone("tiny", Categories.of(["news"]), run)
    news = NewsConfig(backbone="tiny", trainable=trainable, precision=precision)
    write_config(RunConfig(news=news), run / "config.toml")
    (run / "ranking").mkdir()
    save_own_weights(shaken(load_ranker(run, trained=False), 3), run / "ranking" / WEIGHTS_FILE)
    return run


def writing_run(run: Path, backbone: str, trainable: str) -> Path:
    settings = GenerationConfig(backbone=backbone, trainable=trainable, max_tokens=96)
    (run / FOLDER).mkdir(parents=True)
    write_config(RunConfig(generation=settings), run / "config.toml")
    parts = new_generator(settings, ArticleTable(ARTICLES), run / FOLDER)
    save_generator_sizes(parts, run / FOLDER)
    shaken(parts, 4).save_weights(run / FOLDER / WEIGHTS_FILE)
    return run


def states_of_run(news: Any, ids: np.ndarray) -> np.ndarray:
    mask = tf.constant(ids != news.bert.tokenizer.pad_id)
    lower = news.frozen.lower
    states = tf.constant(ids) if lower is None else lower(tf.constant(ids))
    return np.asarray(news.upper(states, mask=mask, training=False)) * mask.numpy()[..., None]


@pytest.mark.parametrize("trainable", ["none", "last 1", "lora 4 last 1", "all"])
def test_pytorch_computes_the_states_of_a_fine_tuned_bert(tmp_path: Path, trainable: str) -> None:
    run, out = ranking_run(tmp_path / "run", trainable), tmp_path / "bert"
    assert write_transformers_folder(run, "ranking", out) <= TOLERANCE
    news = load_ranker(run).news
    ids = news.bert.tokenizer(tf.constant(TITLES), 64).numpy()
    mask = ids != news.bert.tokenizer.pad_id
    expected = states_of_run(news, ids)
    read = transformers.AutoTokenizer.from_pretrained(out)(TITLES, padding=True, return_tensors="pt")
    np.testing.assert_array_equal(read["input_ids"].numpy(), ids)
    with torch.no_grad():
        theirs = transformers.AutoModel.from_pretrained(out).eval()(**read).last_hidden_state.numpy()
    np.testing.assert_allclose(theirs * mask[..., None], expected, atol=TOLERANCE)
    again = load_bert(str(out)).backbone
    inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}
    ours = np.asarray(again(inputs)["sequence_output"]) * mask[..., None]
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE)
    moved = np.abs(expected - states_of_run(load_ranker(run, trained=False).news, ids)).max()
    assert (moved > 0.01) == (trainable != "none")
    assert "AutoModel" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("family", "trainable"),
    [("gpt2", "lora 4"), ("gpt2", "adalora 4 last 1"), ("gpt2", "all"), ("llama", "lora 4")],
)
def test_pytorch_computes_the_logits_of_a_fine_tuned_writer(
    tmp_path: Path, family: str, trainable: str
) -> None:
    backbone = "tiny"
    if family == "llama":
        save_language_model(load_language_model("tiny", CONTROL_TOKENS), tmp_path / "llama")
        backbone = str(tmp_path / "llama")
    run, out = writing_run(tmp_path / "run", backbone, trainable), tmp_path / "writer"
    assert write_transformers_folder(run, "generation", out) <= TOLERANCE
    parts = load_generator(run)
    layers, tokenizer = parts.language_model, parts.prompts.tokenizer
    # Control tokens, and the ids that both tokenizers give to the text between them.
    text = f"{CONTROL_TOKENS[0]}{TITLES[0]}{CONTROL_TOKENS[-1]}"
    theirs_read = transformers.AutoTokenizer.from_pretrained(out)
    row = theirs_read(text)["input_ids"]
    inner = tokenizer.encode(tf.constant([TITLES[0]])).to_list()[0]
    assert row == [tokenizer.token_id(CONTROL_TOKENS[0]), *inner, tokenizer.token_id(CONTROL_TOKENS[-1])]
    assert theirs_read.decode(row, skip_special_tokens=True) == TITLES[0]
    ids = np.array([row], np.int32)
    expected = layers.logits(layers.states(layers.embed(tf.constant(ids)))).numpy()
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor(ids).long()).logits.numpy(), expected, atol=TOLERANCE)
    again = load_language_model(str(out))
    states = again.backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = again.backbone.token_embedding(states, reverse=True).numpy()
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_the_run_is_as_it_was_after_its_updates_were_merged(tmp_path: Path) -> None:
    news = load_ranker(ranking_run(tmp_path / "run", "lora 4")).news
    before = news.bert.backbone.get_weights()
    with merged(news.upper.blocks):
        during = news.bert.backbone.get_weights()
    after = news.bert.backbone.get_weights()
    assert any((now != then).any() for now, then in zip(during, before, strict=True))
    assert all((now == then).all() for now, then in zip(after, before, strict=True))


def test_a_run_that_computes_in_16_bits_is_compared_in_32(tmp_path: Path) -> None:
    run = ranking_run(tmp_path / "run", "lora 4", "mixed_bfloat16")
    assert write_transformers_folder(run, "ranking", tmp_path / "bert") <= TOLERANCE


@pytest.mark.parametrize("trainable", ["adapters 4", "prefix 2"])
def test_what_has_no_place_in_transformers_is_refused(tmp_path: Path, trainable: str) -> None:
    run = ranking_run(tmp_path / "run", trainable)
    with pytest.raises(InputError, match="cannot be merged into its kernels"):
        write_transformers_folder(run, "ranking", tmp_path / "out")
    run = writing_run(tmp_path / "writer", "tiny", trainable)
    with pytest.raises(InputError, match=rf"generation\.trainable is '{trainable}'.* cannot be merged"):
        write_transformers_folder(run, "generation", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_input_is_told_and_a_difference_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = ranking_run(tmp_path / "run", "lora 4"), tmp_path / "out"
    with pytest.raises(InputError, match="no trained retrieval stage"):
        write_transformers_folder(run, "retrieval", out)
    with pytest.raises(InputError, match=r"the stage must be one of .*; got 'safety'"):
        write_transformers_folder(run, "safety", out)
    with pytest.raises(InputError, match="no configuration"):
        write_transformers_folder(tmp_path, "ranking", out)
    monkeypatch.setattr(transformers_folder, "merged", contextlib.nullcontext)  # forgets the updates
    with pytest.raises(FailureError, match="outputs of the folder differ from the run's"):
        write_transformers_folder(run, "ranking", out)
    assert not out.exists()
    out.mkdir()
    with pytest.raises(InputError, match="already exists"):
        write_transformers_folder(run, "ranking", out)


def test_a_run_is_never_replaced_nor_anything_else_that_is_no_such_folder(tmp_path: Path) -> None:
    run = ranking_run(tmp_path / "run", "lora 4")
    for out in (run, run / "." / "ranking", run / "new", tmp_path):
        with pytest.raises(InputError, match="one contains the other"):
            write_transformers_folder(run, "ranking", out, overwrite=True)
    thesis = tmp_path / "thesis" / "all.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for out in (thesis.parent, thesis):
        with pytest.raises(InputError, match=r"has no config\.json"):
            write_transformers_folder(run, "ranking", out, overwrite=True)
    with pytest.raises(InputError, match="is not a folder; give a run folder"):
        write_transformers_folder(tmp_path / "rum", "ranking", tmp_path / "out")
    assert thesis.read_text() == "years of work" and (run / "ranking" / WEIGHTS_FILE).is_file()
    (tmp_path / "out").mkdir()
    for _ in range(2):  # an empty folder, and then what was written into it
        write_transformers_folder(run, "ranking", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "config.json").is_file()
