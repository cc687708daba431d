"""`genre pretrain`: end to end for both models, resumed, loaded again here and by `transformers`."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.language_models import load_language_model
from genre_tf.cli import pretrain as verb
from genre_tf.config import OptimizerConfig, PretrainConfig, RunConfig
from genre_tf.data.learning_texts import read_corpus
from genre_tf.errors import InputError, StoppedError
from genre_tf.pretraining import pretrain as pretraining
from genre_tf.pretraining.language_models import MaskedLanguageModel
from genre_tf.pretraining.pretrain import pretrain
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

CONFIG = RunConfig(
    pretrain=PretrainConfig(
        vocabulary_size=400,
        layers=1,
        hidden=32,
        heads=2,
        max_tokens=48,
        checkpoint_rate=5e-3,
        optimizer=OptimizerConfig(learning_rate=1e-2, batch_size=4, steps=20, validate_every=10),
    )
)


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("pretraining") / "newsroom"
    write_newsroom(data, NewsroomSettings(seed=3, articles=300, readers=40, impressions=300))
    return data


def _silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def gpt2_folder(newsroom) -> Path:
    out = newsroom.parent / "gpt2"
    pretrain("gpt2", newsroom, out, CONFIG, _silent, evaluate=[(newsroom, "dev")])
    return out


def test_gpt2_learns_and_transformers_agrees_on_the_perplexity(newsroom, gpt2_folder):
    transformers, torch = (pytest.importorskip(name) for name in ("transformers", "torch"))
    report = json.loads((gpt2_folder / "reports" / "pretraining.json").read_text())
    held_out, dev = (report["perplexity"][name]["titles"] for name in ("held_out", f"{newsroom}:dev"))
    assert held_out["per_token"] < 0.5 * held_out["per_token_before"]
    assert dev["per_word"] < dev["per_word_before"] and dev["unigram_per_word"] > 1
    titles = read_corpus(newsroom).held_out.titles
    assert held_out["texts"] == len(titles) and held_out["words"] == sum(len(t.split()) for t in titles)
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    nats = 0.0
    for title in titles:
        end = tokenizer.eos_token_id
        ids = torch.tensor([[end, *tokenizer(title)["input_ids"], end]])
        nats += float(model(ids, labels=ids).loss.detach()) * (ids.shape[1] - 1)
    assert held_out["per_word"] == pytest.approx(np.exp(nats / held_out["words"]), rel=1e-4)
    assert list((gpt2_folder / "logs" / "pretraining" / "validation").glob("events.*"))


def test_the_same_call_keeps_what_is_there_and_another_measures_without_training(newsroom, gpt2_folder):
    said: list[str] = []
    written = (gpt2_folder / "model.safetensors").stat().st_mtime_ns
    again = pretrain("gpt2", newsroom, gpt2_folder, CONFIG, said.append, evaluate=[(newsroom, "dev")])
    assert "kept" in said[-1] and (gpt2_folder / "model.safetensors").stat().st_mtime_ns == written
    less = pretrain("gpt2", newsroom, gpt2_folder, CONFIG, said.append)
    assert not any("step" in line for line in said)
    held_out = [found["perplexity"]["held_out"]["titles"]["per_word"] for found in (again, less)]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-6)


@pytest.mark.proof
def test_ended_by_sigterm_it_goes_on_to_the_same_weights(newsroom, gpt2_folder, tmp_path):
    def end(line: str) -> None:
        if line.startswith("step 10/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="after step 10"):
        pretrain("gpt2", newsroom, tmp_path / "parts", CONFIG, end)
    said: list[str] = []
    pretrain("gpt2", newsroom, tmp_path / "parts", CONFIG, said.append)
    assert any("resuming after step 10" in line for line in said)
    whole, parts = (load_file(folder / "model.safetensors") for folder in (gpt2_folder, tmp_path / "parts"))
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_bert_learns_hidden_words_and_takes_its_head_along(newsroom, tmp_path):
    transformers, torch = (pytest.importorskip(name) for name in ("transformers", "torch"))
    config = dataclasses.replace(CONFIG, pretrain=dataclasses.replace(CONFIG.pretrain, backbone="tiny"))
    first = pretrain("bert", newsroom, tmp_path / "first", config, _silent)["perplexity"]["held_out"]
    assert first["titles"]["per_token"] < 0.8 * first["titles"]["per_token_before"]
    assert "per_word" not in first["titles"]
    with torch.no_grad():
        model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "first")
        logits = model(torch.tensor([[2, 9, 4, 11, 3]])).logits[0, 2].numpy()
    plain = load_bert(str(tmp_path / "first"))
    assert plain.config["architectures"] == ["BertForMaskedLM"]
    row = np.asarray([[2, 9, 4, 11, 3]], np.int32)
    batch = {"token_ids": row, "text": np.ones_like(row), "position": np.arange(5)[None], "places": [[2]]}
    own = MaskedLanguageModel(plain)({name: np.asarray(value, np.int32) for name, value in batch.items()})
    np.testing.assert_allclose(own[0], logits, atol=1e-4)


def test_the_folder_is_a_writer_backbone(gpt2_folder):
    named = load_language_model(str(gpt2_folder), special_tokens=("<|title|>",))
    assert (
        named.backbone.num_layers == 1
        and named.tokenizer.token_id("<|title|>") == named.config["vocab_size"] - 1
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 5}, "cannot be divided among 5 heads"),
        ({"max_tokens": 4}, "max_tokens must be between 8"),
        ({"optimizer": OptimizerConfig(batch_size=4000)}, "smaller --batch-size"),
    ],
)
def test_wrong_settings_are_said(newsroom, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        config = dataclasses.replace(CONFIG, pretrain=dataclasses.replace(CONFIG.pretrain, **changes))
        pretrain("gpt2", newsroom, tmp_path / "out", config, _silent)


def test_a_folder_of_something_else_is_not_written_into(newsroom, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds something other than a pretraining"):
        pretrain("gpt2", newsroom, tmp_path, CONFIG, _silent)


def test_options_become_settings_and_wrong_ones_are_refused(tmp_path, monkeypatch):
    given: list[tuple] = []
    monkeypatch.setattr(
        pretraining, "pretrain", lambda *settings, **more: given.append((settings, more)) or {}
    )
    app = typer.Typer()
    app.command()(verb.pretrain)

    def call(*options: str):
        return CliRunner().invoke(
            app, [options[0], "--data", str(tmp_path), "--out", "o", "--json", *options[1:]]
        )

    answer = call(
        "gpt2", "--layers", "3", "--learning-rate", "0.002", "--split", "a", "--evaluate", "b/c:dev"
    )
    assert answer.exit_code == 0, answer.output
    settings = given[0][0][3].pretrain
    assert (settings.layers, settings.optimizer.learning_rate, settings.checkpoint_rate) == (3, 0.002, 0.002)
    assert (given[0][1]["splits"], given[0][1]["evaluate"]) == (("a",), [(Path("b/c"), "dev")])
    for options, said in (
        (("bert", "--layers", "3"), "--layers is for new models only"),
        (("gpt2", "--backbone", "tiny", "--hidden", "8"), "--hidden is for new models only"),
        (("gpt2", "--evaluate", "dev"), "must be DIR:SPLIT"),
    ):
        error = call(*options).exception
        assert isinstance(error, InputError) and said in str(error)


def test_a_new_bert_has_the_vocabulary_of_its_corpus_and_transformers_reads_it(newsroom, tmp_path):
    transformers, torch = (pytest.importorskip(name) for name in ("transformers", "torch"))
    sizes = dataclasses.replace(CONFIG.pretrain, backbone="new")
    found = pretrain("bert", newsroom, tmp_path / "bert", RunConfig(pretrain=sizes), _silent)
    assert found["backbone"] is None
    held_out = found["perplexity"]["held_out"]["titles"]
    assert held_out["per_token"] < 0.7 * held_out["per_token_before"]
    bert = load_bert(str(tmp_path / "bert"))
    assert bert.tokenizer.vocabulary_size <= 400 and "##s" in bert.tokenizer.vocabulary
    reference, problems = transformers.BertForMaskedLM.from_pretrained(
        tmp_path / "bert", output_loading_info=True
    )
    assert not problems["missing_keys"]
    ids = np.array([[bert.tokenizer.start_id, 30, 31, bert.tokenizer.end_id]], np.int32)
    with torch.no_grad():
        expected = reference.bert(torch.tensor(ids, dtype=torch.long)).last_hidden_state.numpy()
    ones, zeros = np.ones_like(ids), np.zeros_like(ids)
    ours = bert.backbone({"token_ids": ids, "padding_mask": ones, "segment_ids": zeros})["sequence_output"]
    np.testing.assert_allclose(ours, expected, atol=1e-4)
