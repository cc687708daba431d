"""A tiny data set in MIND's format, to be spoilt one row at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ..cli.conftest import genre  # noqa: F401  (fixture)

NEWS = [
    "N1\tsports\tsoccer\tHome side wins late\tA late goal settled it.\t\t[]\t[]",
    "N2\tnews\tpolitics\tBudget passes\t\t\t[]\t[]",
    "N3\thealth\tfood\tSoup for winter\tFive soups.\t\t[]\t[]",
    "N4\tnews\tworld\tStorm nears the coast\t\t\t[]\t[]",
    "N5\tsports\ttennis\tFinal goes to five sets\tIt took four hours.\t\t[]\t[]",
]
BEHAVIORS = [
    "1\tU1\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0",
    "2\tU2\t11/9/2019 10:00:00 AM\t\tN3-0 N4-1 N5-0",
    "3\tU1\t11/9/2019 11:00:00 PM\tN1 N2 N3\tN4-0 N5-1 N2-0",
    "4\tU3\t11/10/2019 12:30:00 AM\tN5\tN1-1 N2-0 N3-0 N4-0",
]

WriteSplit = Callable[..., Path]


@pytest.fixture
def write_split(tmp_path: Path) -> WriteSplit:
    """Writes a split and returns its data set folder; rows of strings, or a whole file as bytes."""

    def write(
        name: str = "train",
        news: Sequence[str] | bytes = NEWS,
        behaviors: Sequence[str] | bytes = BEHAVIORS,
    ) -> Path:
        data = tmp_path / "data"
        (data / name).mkdir(parents=True, exist_ok=True)
        for file, rows in (("news.tsv", news), ("behaviors.tsv", behaviors)):
            content = rows if isinstance(rows, bytes) else "".join(f"{row}\n" for row in rows).encode()
            (data / name / file).write_bytes(content)
        return data

    return write
