"""The chat form of a prompt: the checkpoint's own template around an instruction, titles and source."""

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import tiny_byte_pair
from genre_tf.errors import InputError
from genre_tf.generation.prompt_form import CONTROL_TOKENS, KINDS, chat_frame
from genre_tf.generation.prompts import Prompts, PromptSizes

SPECIAL = ("<|im_start|>", "<|im_end|>")
FRAME = {
    "before": "<|im_start|>user\n",
    "between": "<|im_end|>\n<|im_start|>assistant\n",
    "end": "<|im_end|>",
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
)
SIZES = PromptSizes(title_tokens=24, history_tokens=60, source_tokens=60, target_tokens=20)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(tiny_byte_pair(SPECIAL), SIZES, FRAME)


def spelled(prompts: Prompts, ids: Any) -> str:
    special = {prompts.tokenizer.token_id(token): token for token in prompts.tokenizer.special_tokens}
    return "".join(
        special.get(token) or prompts.tokenizer.decode(tf.constant([[token]]))[0].numpy().decode()
        for token in ids.numpy().tolist()
    )


def prompt_of(prompts: Prompts, history: str, source: str, kind: str) -> str:
    prompt = prompts.to_continue(tf.constant([history]), tf.constant([source]), tf.constant([kind]))
    return spelled(prompts, prompt.token_ids[0][prompt.mask[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_instruction_and_names_only_what_is_there(prompts: Prompts, kind: str) -> None:
    said = {
        (history, source): prompt_of(prompts, history, source, kind)
        for history in ("", "Storm hits")
        for source in ("", "Snow fell.")
    }
    assert len(set(said.values())) == 4
    for (history, source), prompt in said.items():
        assert prompt.startswith(FRAME["before"]) and prompt.endswith(FRAME["between"])
        assert ("clicked:\nStorm hits\n" in prompt) == bool(history) == ("reader" in prompt)
        assert ("Article:\nSnow fell.\n\n" in prompt) == bool(source)
    instructions = {prompt_of(prompts, "", "Snow fell.", each) for each in KINDS}
    assert len(instructions) == len(KINDS)


def test_a_row_to_learn_is_the_prompt_the_target_and_the_end_of_the_checkpoint(prompts: Prompts) -> None:
    texts = [tf.constant([text]) for text in ("Storm hits", "Snow fell.", "title", "Snow")]
    rows = prompts.to_learn(*texts, context_weight=0.0)
    ids, weight = rows["token_ids"][0], rows["label_weight"][0]
    assert spelled(prompts, ids) == prompt_of(prompts, "Storm hits", "Snow fell.", "title") + "Snow<|im_end|>"
    assert weight.numpy().tolist() == [0.0] * (len(ids) - 6) + [1.0] * 5 + [0.0]


def test_a_further_instruction_follows_the_form_s_own_and_takes_room_from_the_source(
    prompts: Prompts,
) -> None:
    told, long = "Write about snow.", "far " * 100
    history, kind = tf.constant(["", "", ""]), tf.constant(["title"] * 3)
    rows = prompts.to_continue(
        history, tf.constant(["Snow fell.", long, long]), kind, tf.constant([told, told, ""])
    )
    short, cut, plain = (
        spelled(prompts, ids[mask]) for ids, mask in zip(rows.token_ids, rows.mask, strict=True)
    )
    assert f"Snow fell.\n\nWrite a short headline for this article. {told}<|im_end|>" in short
    assert f" {told}<|im_end|>" in cut and plain == prompt_of(prompts, "", long, "title")
    lengths = tf.reduce_sum(tf.cast(rows.mask, tf.int32), axis=1).numpy()
    assert lengths[1] == lengths[2] <= prompts.tokens
    control = Prompts(tiny_byte_pair(CONTROL_TOKENS), SIZES)
    ignored = control.to_continue(history[:1], tf.constant(["Snow"]), kind[:1], tf.constant([told]))
    assert "about" not in spelled(control, ignored.token_ids[0])


@pytest.mark.parametrize("token", [*SPECIAL, "<|endoftext|>"])
def test_no_text_can_close_the_message_or_open_another(prompts: Prompts, token: str) -> None:
    calm = prompts.to_continue(tf.constant(["a"]), tf.constant(["b"]), tf.constant(["title"]))
    loud = prompts.to_continue(tf.constant([token]), tf.constant([token]), tf.constant([token]))
    special = [prompts.tokenizer.token_id(each) for each in prompts.tokenizer.special_tokens]

    def counted(prompt: Any) -> int:
        return sum(token_id in special for token_id in prompt.token_ids[0].numpy().tolist())

    assert counted(calm) == counted(loud) == 3


def test_only_the_end_of_the_checkpoint_may_be_written(prompts: Prompts) -> None:
    end = prompts.tokenizer.token_id("<|im_end|>")
    assert prompts.end_id == end and end not in prompts.control_ids
    assert len(prompts.control_ids) == len(prompts.tokenizer.special_tokens) - 1


def test_the_longest_prompt_fits(prompts: Prompts) -> None:
    everything = tf.constant(["words " * 100])
    for kind in KINDS:
        rows = prompts.to_learn(everything, everything, tf.constant([kind]), everything, context_weight=0.0)
        assert rows["token_ids"].shape[1] <= prompts.tokens


def described(folder: Path, **settings: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_the_frame_is_that_of_the_template(tmp_path: Path) -> None:
    assert chat_frame(described(tmp_path, chat_template=TEMPLATE)) == FRAME
    spoken = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe nice.<|im_end|>\n{% endif %}"
    assert chat_frame(described(tmp_path, chat_template=spoken + TEMPLATE)) == FRAME
    marked = {"chat_template": "{{ bos_token }}" + TEMPLATE, "bos_token": "<s>"}
    assert chat_frame(described(tmp_path, **marked)) == {**FRAME, "before": "<s>" + FRAME["before"]}


@pytest.mark.parametrize(
    "template",
    [None, 7, "no message", "{% for", "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__[1] }}"],
)
def test_without_a_template_that_can_be_used_there_is_no_frame(tmp_path: Path, template: Any) -> None:
    assert chat_frame(None) is None
    assert chat_frame(described(tmp_path, chat_template=template)) is None


def test_a_frame_whose_end_is_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="'<\\|im_end\\|>' is not a special token"):
        Prompts(tiny_byte_pair(), SIZES, FRAME)
