"""What an accelerator may compute as a whole has a name in the SavedModel."""

import keras
import pytest
import tensorflow as tf

from genre_tf.export.gate import portability_violations, read_saved_model
from genre_tf.export.saved_model import write_saved_model

INPUTS = {"text": tf.string}


def layer():
    dense = keras.layers.Dense(2)
    dense.build((None, 1))
    return dense


def test_a_device_function_is_found_by_its_alias_and_computes_the_same(tmp_path, open_session):
    dense = layer()
    device = tf.function(lambda lengths: dense(lengths) * 2.0, autograph=False)

    def score(text):
        return {"score": device(tf.cast(tf.strings.length(text), tf.float32)[:, None])}

    write_saved_model(
        tmp_path / "1", [dense], {"score": (score, INPUTS)}, device_functions={"encoder": device}
    )
    (graph,) = read_saved_model(tmp_path / "1").meta_graphs
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    named = [functions[name] for name in graph.meta_info_def.function_aliases if name in functions]
    assert set(graph.meta_info_def.function_aliases.values()) == {"encoder"}
    assert len(named) == 1 and {node.op for node in named[0].node_def} >= {"MatMul", "Mul"}
    called = [
        node.attr["f"].func.name
        for function in functions.values()
        for node in function.node_def
        if node.op in ("PartitionedCall", "StatefulPartitionedCall")
    ]
    assert named[0].signature.name in called  # the signature runs through it
    assert portability_violations(tmp_path / "1") == []
    answer = open_session(tmp_path / "1")("score", text=["abc", ""])["score"]
    assert answer == pytest.approx(score(tf.constant(["abc", ""]))["score"].numpy(), abs=1e-6)


def test_strings_and_tables_in_a_device_function_are_violations(tmp_path):
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4]), -1)
    inner = tf.function(lambda text: tf.cast(tf.strings.length(text), tf.float32), autograph=False)
    lengths = tf.function(lambda text: inner(text) * 2.0, autograph=False)
    rows = tf.function(lambda numbers: table.lookup(numbers), autograph=False)

    def score(text):
        return {"length": lengths(text), "row": rows(tf.strings.length(text))}

    aliases = {"lengths": lengths, "rows": rows}
    write_saved_model(tmp_path / "1", [table], {"score": (score, INPUTS)}, device_functions=aliases)
    found = [str(violation) for violation in portability_violations(tmp_path / "1")]
    assert len(found) == 2 and all("no accelerator computes strings" in violation for violation in found)
    assert "PartitionedCall" in found[0] or "StringLength" in found[0]
    assert "LookupTableFindV2" in found[1]


def test_a_function_that_nothing_calls_is_an_error_of_ours(tmp_path):
    def score(text):
        return {"length": tf.strings.length(text)}

    unused = tf.function(lambda x: x)
    with pytest.raises(ValueError, match="device function encoder was called by no signature"):
        write_saved_model(
            tmp_path / "1", [], {"score": (score, INPUTS)}, device_functions={"encoder": unused}
        )
