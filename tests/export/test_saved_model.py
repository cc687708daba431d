"""Modules attached to a SavedModel are read back without the rest; TensorFlow's own tool answers from it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.export.saved_model import attached_values, load_attached, write_saved_model


class Half(tf.Module):
    """Halves numbers, by an inner function and a variable."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1.0, 2.0])), 0.0
        )
        self.half = tf.Variable(0.5, trainable=False)
        inner = tf.function(lambda numbers: numbers * self.half, autograph=False)
        self.of = tf.function(
            lambda texts: inner(self.table.lookup(texts)),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )


class Shelf(tf.Module):
    """Holds variables alone."""

    def __init__(self):
        super().__init__()
        self.title = tf.Variable("news", trainable=False)
        self.inner = Half()


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attached") / "1"
    half, shelf = Half(), Shelf()

    def answer(text):
        return {"half": half.of(text) + shelf.inner.of(text), "title": shelf.title + text}

    attached = {"half": half, "shelf": shelf}
    write_saved_model(
        folder,
        [half.table, shelf.inner.table],
        {"answer": (answer, {"text": tf.string})},
        attached,
    )
    return folder


def test_it_is_read_back_where_tensorflow_reads_the_temporary_folder_as_a_pattern(
    version, tmp_path, monkeypatch
):
    (tmp_path / "tmp [lr=1]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp [lr=1]"))
    loaded = load_attached(version, "half")
    np.testing.assert_array_equal(loaded.of(tf.constant(["b"])), [1.0])
    assert [path.name for path in version.parent.iterdir()] == ["1"]


def test_functions_are_read_back_with_what_they_read_and_nothing_else(version):
    loaded = load_attached(version, "half")
    np.testing.assert_array_equal(loaded.of(tf.constant(["b", "c", "a"])), [1.0, 0.0, 0.5])
    assert not {"shelf", "signatures", "answer"} & set(dir(loaded))


def test_values_are_read_back_by_their_paths(version):
    values = attached_values(version, "shelf")
    assert values == {"title": b"news", "inner.half": np.float32(0.5)}


@pytest.mark.parametrize("read", [load_attached, attached_values])
def test_what_is_not_attached_is_no_module(version, read):
    with pytest.raises(KeyError, match="shelves"):
        read(version, "shelves")


def test_score_text_is_answered_from_raw_strings(exported):
    rows = {"history_text": ["rates rise\nrates fall"], "candidates_text": ["rain ends\ncolds"]}
    inputs = ";".join(f"{name}={json.dumps(texts)}" for name, texts in rows.items())
    command = [Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", exported]
    command += ["--tag_set", "serve", "--signature_def", "score_text", "--input_exprs", inputs]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-500:]
    found = re.search(r"output key click_probability:\n\[\[(\S+) (\S+)\]\]", answer.stdout)
    assert found and all(0.0 <= float(number) <= 1.0 for number in found.groups()), answer.stdout
