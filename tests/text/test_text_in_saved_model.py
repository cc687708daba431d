"""Tokenizers in a SavedModel, run by session in a process that does not know this package."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tf.text.byte_pair import BytePair, train_byte_pair
from genre_tf.text.wordpiece import WordPiece

TEXTS = ["Café news, don't  wait\n日本 😀", "", "unseenword x", "<|title|> [SEP]"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz'日,", "##a", "##e", "##t"]
FRESH = """
import json, sys
import tensorflow as tf, tensorflow_text
texts = [text.encode() for text in json.loads(sys.argv[2])]
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], sys.argv[1])
    signature = meta.signature_def["ask"]
    answer = session.run(
        {key: info.name for key, info in signature.outputs.items()},
        {signature.inputs["text"].name: texts},
    )
print(json.dumps({key: value.tolist() for key, value in answer.items() if value.dtype != object}))
print(json.dumps([text.decode() for text in answer.get("decoded", [])]))
assert not any(name.startswith(("genre_tf", "keras_hub")) for name in sys.modules)
"""


def export(folder: Path, tokenizer: tf.Module, function: Callable[..., Any]) -> set[str]:
    """Writes a SavedModel with one signature and returns the names of all its operations."""
    archive = keras.export.ExportArchive()
    archive.track(tokenizer)
    archive.add_endpoint("ask", function, [tf.TensorSpec([None], tf.string, "text")])
    archive.write_out(str(folder), verbose=False)
    read = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = read.meta_graphs[0].graph_def
    return {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}


def ask_in_fresh_process(folder: Path) -> tuple[dict[str, Any], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    numbers, texts = done.stdout.strip().split("\n")[-2:]
    return json.loads(numbers), json.loads(texts)


@pytest.fixture(scope="module")
def byte_pair(tmp_path_factory: pytest.TempPathFactory) -> BytePair:
    return train_byte_pair(
        ["news of the day, don't wait"] * 3, 300, ["<|title|>"], tmp_path_factory.mktemp("bp")
    )


def assert_portable(operations: set[str]) -> None:
    assert not {
        name for name in operations if name.startswith("Xla") or "PyFunc" in name or "Mutable" in name
    }


def test_wordpiece_answers_by_session(tmp_path: Path) -> None:
    tokenizer = WordPiece(VOCABULARY)
    operations = export(tmp_path / "model", tokenizer, lambda text: {"ids": tokenizer(text, 12)})
    answer, _ = ask_in_fresh_process(tmp_path / "model")
    assert answer["ids"] == tokenizer(tf.constant(TEXTS), 12).numpy().tolist()
    assert_portable(operations)


def test_byte_pair_answers_by_session(byte_pair: BytePair, tmp_path: Path) -> None:
    def ask(text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = byte_pair.encode(text)
        return {"ids": ids.to_tensor(-1), "decoded": byte_pair.decode(ids)}

    operations = export(tmp_path / "model", byte_pair, ask)
    answer, decoded = ask_in_fresh_process(tmp_path / "model")
    assert answer["ids"] == byte_pair.encode(tf.constant(TEXTS)).to_tensor(-1).numpy().tolist()
    assert decoded == TEXTS
    assert_portable(operations)
