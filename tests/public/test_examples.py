"""Each public class and function has an example in its docstring, and it says the truth."""

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import genre_tf

PUBLIC = [
    (f"{room}.{name}", getattr(importlib.import_module(f"genre_tf.{room}"), name))
    for room in ("data", "export", "losses", "metrics", "models")
    for name in importlib.import_module(f"genre_tf.{room}").__all__
]


@pytest.fixture(scope="module")
def names(mind: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    log, folder = genre_tf.data.read_mind(mind, split="dev"), tmp_path_factory.mktemp("examples")
    return {"genre_tf": genre_tf, "mind": mind, "log": log, "folder": folder}


@pytest.mark.parametrize(("name", "of"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_the_example_in_the_docstring_runs(name: str, of: Any, names: dict[str, Any]) -> None:
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(of) or "", dict(names), name, None, None)
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    failed, _ = doctest.DocTestRunner().run(example, out=said.append)
    assert not failed, "".join(said)
