"""What editors decided, as files to learn from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genre_tf.data.approved_texts import TEXTS, read_texts
from genre_tf.data.articles import Article
from genre_tf.data.lines import FaultPolicy
from genre_tf.serving.app.storage import Store
from genre_tf.serving.loop.desk_log import write_approved

ARTICLES = {name: Article(name, "news", "", f"Title of {name}", "") for name in ("N1", "N2")}


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()


def text(store: Store, written: str, status: str, **more: Any) -> None:
    """A text of reader Ann, and what an editor decided about it."""
    row = {
        "reader": "Ann",
        "kind": "title",
        "article": "N1",
        "question": None,
        "source": "S",
        "interest": 0.5,
    }
    row |= {"grounding": 1.0, "model_version": "v", "created": 1.0, "status": status, "written": written}
    decided = {"edited": None, "decided": 50.0} | more
    row |= {name: decided.pop(name) for name in [*decided] if name in row}
    changes = ", ".join(f"{name} = :{name}" for name in decided)
    number = store.write(lambda writes: writes.new_text(**row)).result()
    store.write(
        lambda writes: writes.run(f"UPDATE texts SET {changes} WHERE id = :id", id=number, **decided)
    ).result()


def test_approved_and_edited_texts_are_written_in_order_without_a_reader(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / TEXTS
    assert write_approved(store, ARTICLES, file, 100) == 0 and not file.exists()
    text(store, "As it was written", "approved")
    text(store, "Before", "approved", edited="As an editor\twants it")
    text(store, "A headline\nAnd its text", "approved", kind="body", article="N2")
    text(store, "As it was written", "approved")  # twice is once
    for status in ("waiting", "shown", "rejected", "withdrawn"):
        text(store, f"This one is {status}", status)
    text(store, "Decided later", "approved", decided=100.0)
    text(store, "Of an unknown article", "approved", article="N9")
    text(store, "An answer", "approved", kind="answer")

    assert write_approved(store, ARTICLES, file, 100) == 3
    assert [tuple(one) for one in read_texts(file, ARTICLES, FaultPolicy())] == [
        ("title", "N1", "As it was written"),
        ("title", "N1", "As an editor wants it"),
        ("body", "N2", "A headline\nAnd its text"),
    ]
    assert "Ann" not in file.read_text("utf-8")
