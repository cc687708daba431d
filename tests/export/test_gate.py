import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from genre_tf.errors import InputError
from genre_tf.export.gate import portability_violations, servable_ops

TEXT = [tf.TensorSpec([None], tf.string, "text")]


def export(folder, function, signature=TEXT, resource=None):
    archive = keras.export.ExportArchive()
    if resource is not None:
        archive.track(resource)
    archive.add_endpoint("answer", function, signature)
    archive.write_out(str(folder), verbose=False)
    return [str(violation) for violation in portability_violations(folder)]


def test_a_plain_graph_passes(tmp_path):
    assert export(tmp_path / "1", lambda text: {"length": tf.strings.length(text)}) == []


def test_tensorflow_text_ops_pass(tmp_path):
    import tensorflow_text as text_ops

    found = export(tmp_path / "1", lambda text: {"folded": text_ops.case_fold_utf8(text)})
    assert found == []


def test_an_xla_op_is_found_inside_functions(tmp_path):
    def update(text):
        @tf.function
        def inner(lengths):
            start = keras.ops.zeros([1], "int32")
            return keras.ops.slice_update(lengths, start, tf.zeros([1], tf.int32))

        return {
            "length": tf.cond(
                tf.size(text) > 3, lambda: inner(tf.strings.length(text)), lambda: tf.strings.length(text)
            )
        }

    found = export(tmp_path / "1", update)
    assert len(found) == 1 and found[0].startswith("op XlaDynamicUpdateSlice in ")


def test_a_function_that_must_be_compiled_is_found(tmp_path):
    def compiled(text):
        double = tf.function(lambda x: x * 2, jit_compile=True)
        return {"length": double(tf.strings.length(text))}

    found = export(tmp_path / "1", compiled)
    assert any(violation.startswith("_XlaMustCompile") for violation in found)


def test_python_inside_the_graph_is_found(tmp_path):
    def python(text):
        return {
            "length": tf.ensure_shape(
                tf.numpy_function(lambda t: np.zeros(len(t)), [text], tf.float64), [None]
            )
        }

    assert any("calls Python" in violation for violation in export(tmp_path / "1", python))


def test_a_table_that_grows_is_found(tmp_path):
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    def remember(text):
        table.insert(text, tf.ones_like(text, tf.int64))
        return {"row": table.lookup(text)}

    found = export(tmp_path / "1", remember, resource=table)
    assert any("LookupTableInsertV2" in violation for violation in found)


def test_an_op_newer_than_the_server_is_found(tmp_path):
    found = export(
        tmp_path / "1",
        lambda text: {
            "size": tf.map_fn(
                lambda t: tf.size(tf.raw_ops.DecodeJxl(contents=t)), text, fn_output_signature=tf.int32
            )
        },
    )
    assert any(violation.startswith("op DecodeJxl") for violation in found)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (tf.TensorSpec([None], tf.float32, "x"), "dtype float32"),
        (tf.TensorSpec([None, None], tf.string, "x"), "rank 1"),
        (tf.TensorSpec(None, tf.string, "x"), "rank 1"),
        (tf.TensorSpec([4], tf.int64, "x"), "batch fixed to 4"),
    ],
)
def test_an_input_that_batching_would_spoil_is_found(tmp_path, spec, reason):
    found = export(tmp_path / "1", lambda x: {"y": tf.reshape(x, [-1])}, [spec])
    assert any(violation.startswith("input x") and reason in violation for violation in found)


@pytest.mark.parametrize("shape", [[], [1]])
def test_an_output_without_batch_is_found(tmp_path, shape):
    found = export(tmp_path / "1", lambda text: {"size": tf.reshape(tf.size(text), shape)})
    assert any(violation.startswith("output size") for violation in found)


def test_every_violation_is_listed(tmp_path):
    def bad(x):
        double = tf.function(lambda y: y * 2, jit_compile=True)
        return {"size": tf.size(double(x)), "y": tf.numpy_function(lambda v: v, [x], tf.float32)}

    found = export(tmp_path / "1", bad, [tf.TensorSpec([2, 2], tf.float32, "x")])
    for part in ("_XlaMustCompile", "PyFunc", "dtype float32", "rank 1", "output size"):
        assert any(part in violation for violation in found), (part, found)


def test_the_list_of_ops_has_core_and_text_and_nothing_newer():
    assert {"MatMul", "WordpieceTokenizeWithOffsets", "TFText>ByteSplitWithOffsets"} <= servable_ops()
    assert "DecodeJxl" not in servable_ops()


def test_no_model_and_a_damaged_model_are_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"saved_model.pb is missing"):
        portability_violations(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff no protobuf")
    with pytest.raises(InputError, match="damaged"):
        portability_violations(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(saved_model_pb2.SavedModel().SerializeToString())
    with pytest.raises(InputError, match="empty"):
        portability_violations(tmp_path)
