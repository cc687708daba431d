"""Byte-pair vocabularies: their required content, their files in a folder, and their training."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError
from genre_tf.files import read_json_object, read_text_lines

_KNOWN_WORDS_FILE = "known_words.json"


class ByteVocabulary:
    """Tokens, ids and merges, checked; arguments and errors are those of `BytePair`."""

    def __init__(
        self,
        ids: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        known_words: Iterable[str] = (),
        *,
        split_digits: bool = False,
    ) -> None:
        self.ids = dict(ids)
        self.split_digits = split_digits
        self.merges = [(left, right) for left, right in merges]
        self.known_words = list(dict.fromkeys(known_words))
        numbers = self.ids.values()
        if not all(isinstance(n, int) for n in numbers) or sorted(numbers) != list(range(len(self.ids))):
            raise InputError(
                f"The byte-pair vocabulary has {len(self.ids)} tokens, but their ids are not 0 to "
                f"{len(self.ids) - 1}. Use vocab.json and added tokens of the same model."
            )
        # Some vocabularies lack bytes that did not occur in their training texts, but all have the visible
        # ASCII characters.
        missing = [token for token in printable_bytes() if token not in self.ids]
        if any(token.isascii() for token in missing):
            raise InputError(
                f"The byte-pair vocabulary lacks {len(missing)} of the 256 bytes (one is {missing[0]!r}). "
                "Name the vocabulary of a byte-level model such as GPT-2."
            )
        for left, right in self.merges:
            if not {left, right, left + right} <= self.ids.keys():
                raise InputError(
                    f"The merge {left!r} + {right!r} needs a token that the vocabulary lacks. "
                    "Use vocab.json and merges.txt of the same model."
                )

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that are neither a byte nor the result of a merge, so that no text produces them."""
        reached = {*printable_bytes(), *(left + right for left, right in self.merges)}
        return tuple(sorted(self.ids.keys() - reached, key=self.ids.__getitem__))

    def decoded_tokens(self) -> list[bytes]:
        """The bytes of each token, in the order of ids; empty for a special token."""
        byte_of = {character: value for value, character in enumerate(printable_bytes())}
        special = set(self.special_tokens)
        ordered = sorted(self.ids, key=self.ids.__getitem__)
        return [b"" if token in special else bytes(byte_of[c] for c in token) for token in ordered]


def printable_bytes() -> list[str]:
    """The printable character that GPT-2 uses for each byte from 0 to 255."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def read_byte_vocabulary(folder: Path) -> ByteVocabulary:
    """Read `vocab.json` and `merges.txt` (and added tokens), or else `tokenizer.json`."""
    described = read_json_object(folder / "tokenizer.json")
    split_digits = _splits_digits(described, folder)
    model = described.get("model", {})
    ids = read_json_object(folder / "vocab.json") or dict(model.get("vocab", {}))
    file = folder / "merges.txt"
    lines = read_text_lines(file) if file.is_file() else []
    lines = lines[1:] if lines and lines[0].startswith("#version") else lines
    rules = [line for line in lines if line.strip()] or model.get("merges", [])
    if not ids or not (rules or file.is_file() or described):
        raise InputError(
            f"{folder} has no byte-pair vocabulary. Name a folder with vocab.json and merges.txt, "
            "or tokenizer.json."
        )
    for token, number in read_json_object(folder / "added_tokens.json").items():
        ids.setdefault(token, number)
    for token in described.get("added_tokens", []):
        ids.setdefault(token["content"], token["id"])
    words = read_json_object(folder / _KNOWN_WORDS_FILE).get("words", [])
    return ByteVocabulary(ids, map(merge_pair, rules), words, split_digits=split_digits)


def write_byte_vocabulary(vocabulary: ByteVocabulary, folder: Path) -> None:
    """Write what `read_byte_vocabulary` and `transformers` read, and the known words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocabulary.ids)
    rules = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + rules, "utf-8")
    tokenizer = Tokenizer(models.BPE(vocabulary.ids, vocabulary.merges))
    splitting: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if vocabulary.split_digits:
        splitting.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitting) if len(splitting) > 1 else splitting[0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in vocabulary.special_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    # GPT-2's class in `transformers` would split words in its own way, whatever tokenizer.json says.
    kind = "PreTrainedTokenizerFast" if vocabulary.split_digits else "GPT2Tokenizer"
    end = "<|endoftext|>"
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end) if end in vocabulary.ids else {}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": kind, **ends})
    _write_json(folder / _KNOWN_WORDS_FILE, {"words": vocabulary.known_words})


def check_vocabulary_size(vocabulary_size: int, special_tokens: Sequence[str]) -> None:
    """Raise an `InputError` if the size leaves no room for the 256 bytes and the special tokens."""
    smallest = 256 + len(set(special_tokens))
    if vocabulary_size < smallest:
        raise InputError(
            f"A vocabulary of {vocabulary_size} tokens has no room for 256 bytes and "
            f"{len(set(special_tokens))} special tokens. Give at least {smallest}."
        )


def _splits_digits(described: dict[str, Any], folder: Path) -> bool:
    """Whether a tokenizer.json separates digits before it splits like GPT-2; rejects any other kind."""
    if not described:
        return False
    kind = described.get("model", {}).get("type", "BPE")
    splitting = described.get("pre_tokenizer") or {"type": "ByteLevel"}
    steps = splitting.get("pretokenizers", []) if splitting.get("type") == "Sequence" else [splitting]
    names = [step.get("type") for step in steps]
    digits = names == ["Digits", "ByteLevel"] and bool(steps[0].get("individual_digits"))
    plain = names == ["ByteLevel"] or digits
    if kind != "BPE" or not plain or not steps[-1].get("use_regex", True) or described.get("normalizer"):
        raise InputError(
            f"{folder / 'tokenizer.json'} describes another tokenizer than GPT-2's ({kind} after "
            f"{' and '.join(map(str, names)) or splitting.get('type')}). Name a GPT-2 folder, or one that "
            "differs only in separating digits."
        )
    if steps[-1].get("add_prefix_space"):
        raise InputError(f"{folder / 'tokenizer.json'} puts a space before each text, which GPT-2 does not.")
    return digits


def merge_pair(rule: Any) -> tuple[str, str]:
    """The two tokens that a merge names, in any form of the files."""
    parts = rule.split(" ") if isinstance(rule, str) else rule
    if len(parts) != 2:
        raise InputError(f"A merge must name two tokens; got {rule!r}. Fetch merges.txt again.")
    return parts[0], parts[1]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
