"""The form of a prompt: the fixed pieces before, between and behind the reader's titles and the source.

A model from scratch learns control tokens. A checkpoint tuned to follow instructions gets its own chat
template with a plain instruction, and the titles and the source as data.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genre_tf.contract import KINDS
from genre_tf.files import read_json_object

END, READER, SOURCE = "<|end|>", "<|reader|>", "<|source|>"
CONTROL_TOKENS = (END, READER, SOURCE, *(f"<|{kind}|>" for kind in KINDS))
"""The special tokens of a prompt without a chat template; a generator's vocabulary must have them."""

_TITLES = "Headlines that a reader clicked:\n"
# For each kind, what to do with a source, and without one.
_TASKS = {
    "title": ("Write a short headline for this article.", "Write a short headline of other news"),
    "summary": ("Write a short summary of this article.", "Write the short summary of a news article"),
    "body": (
        "Write a news article about this: a headline, and on the next line its text.",
        "Write a news article: a headline, and on the next line its text",
    ),
}
_USER, _ASSISTANT = "\x01", "\x02"  # stand for the two texts while a template is rendered


@dataclass(frozen=True)
class PromptForm:
    """Pieces of text in which special tokens are spelled out."""

    end: str  # the special token that ends a written text
    # For each kind, without and with titles, and of these without and with a source: the piece before the
    # titles, the piece between titles and source, and the piece behind the source
    pieces: tuple[tuple[str, str, str], ...]


def control_form() -> PromptForm:
    """`<|reader|> titles <|source|> source <|title|>`, ended by `<|end|>`."""
    return PromptForm(END, tuple((READER, SOURCE, f"<|{kind}|>") for kind in KINDS for _ in range(4)))


def chat_form(frame: Mapping[str, str]) -> PromptForm:
    """A user's message with titles, source and an instruction, in a frame that `chat_frame` returns."""
    pieces = []
    for kind, titles, source in itertools.product(KINDS, (False, True), (False, True)):
        with_source, without = _TASKS[kind]
        task = with_source
        if not source:
            task = without + (" that this reader would click." if titles else ".")
        elif titles:
            task = with_source.removesuffix(".") + ", for this reader."
        pieces.append(
            (
                frame["before"] + (_TITLES if titles else ""),
                ("\n" if titles else "") + ("Article:\n" if source else ""),
                ("\n\n" if source else "") + task + frame["between"],
            )
        )
    return PromptForm(frame["end"], tuple(pieces))


def chat_frame(folder: Path | None) -> dict[str, str] | None:
    """What a checkpoint's chat template puts around a user's message and the answer.

    The message is a later one of a conversation: without the system message that some templates begin with by
    themselves, which says nothing about news (SmolLM2's takes 21 tokens, and the perplexity of titles is 58
    with it and 54 without).

    Returns:
        "before" the message, "between" it and the answer, and the "end", all that is behind the answer; None
        if there is no template, or it cannot be used in this way.
    """
    settings = {} if folder is None else read_json_object(folder / "tokenizer_config.json")
    template = settings.get("chat_template")
    if not isinstance(template, str):
        return None
    # A template comes with a checkpoint from anywhere: it must not run any code.
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turn = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    ends = {name: settings.get(name) or "" for name in ("bos_token", "eos_token")}
    try:
        text = sandbox.from_string(template).render(messages=turn * 2, add_generation_prompt=False, **ends)
    except (TemplateError, TypeError, ValueError):
        return None
    parts = re.split(f"[{_USER}{_ASSISTANT}]", text)
    if len(parts) != 5 or not parts[4].strip():
        return None
    first, between, before, _, end = parts
    before = before.removeprefix(end)  # what ends the answer of the turn before
    bos = ends["bos_token"]
    if bos and first.startswith(bos) and not before.startswith(bos):
        before = bos + before
    return {"before": before, "between": between, "end": end.strip()}
