"""Write the toy servable that the transcripts were recorded with.

Use: make_toy_model.py OUT   -> OUT/toy/1 and OUT/toy/2 (version 2 adds 3 instead of 2)
Signatures: serving_default (x float32 [B] -> y = x / 2 + 2), strings (s string [B] -> upper, bytes int32),
matrix (m float32 [B,W] -> sum float32 [B], width int32 [B]),
two (a float32 [B], b int64 [B] -> c float32 [B]),
odd (x float32 [B] -> ratio = x / 0, raw string = two bytes that are no UTF-8),
image (in_bytes string [B] -> out_bytes), regress_x, classify_x (tf.Example with float feature x).
"""

import sys
from pathlib import Path

import tensorflow as tf

v1 = tf.compat.v1


def write(folder: str, offset: float) -> None:
    builder = v1.saved_model.builder.SavedModelBuilder(folder)
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        half = v1.get_variable("half", initializer=tf.constant(0.5))
        y = tf.add(x * half, offset, name="y")
        s = v1.placeholder(tf.string, [None], name="s")
        m = v1.placeholder(tf.float32, [None, None], name="m")
        a = v1.placeholder(tf.float32, [None], name="a")
        b = v1.placeholder(tf.int64, [None], name="b")
        blob = v1.placeholder(tf.string, [None], name="in_bytes")
        examples = v1.placeholder(tf.string, [None], name="examples")
        parsed = v1.parse_example(examples, {"x": v1.FixedLenFeature([], tf.float32)})
        score = tf.add(parsed["x"] * half, offset)
        classes = tf.tile([["low", "high"]], [tf.size(score), 1])
        both = tf.stack([1.0 - score, score], axis=1)
        width = tf.fill([tf.shape(m)[0]], tf.shape(m)[1])
        raw = tf.fill([tf.shape(x)[0]], tf.constant(b"\xff\xfe"))
        info = v1.saved_model.utils.build_tensor_info

        def predict(inputs, outputs):
            return v1.saved_model.signature_def_utils.build_signature_def(
                {k: info(v) for k, v in inputs.items()},
                {k: info(v) for k, v in outputs.items()},
                "tensorflow/serving/predict",
            )

        signatures = {
            "serving_default": predict({"x": x}, {"y": y}),
            "strings": predict({"s": s}, {"upper": tf.strings.upper(s), "bytes": tf.strings.length(s)}),
            "matrix": predict({"m": m}, {"sum": tf.reduce_sum(m, 1), "width": width}),
            "two": predict({"a": a, "b": b}, {"c": a + tf.cast(b, tf.float32)}),
            "odd": predict({"x": x}, {"ratio": x / 0.0, "raw": raw}),
            "image": predict({"in_bytes": blob}, {"out_bytes": tf.identity(blob)}),
            "regress_x": v1.saved_model.signature_def_utils.regression_signature_def(examples, score),
            "classify_x": v1.saved_model.signature_def_utils.classification_signature_def(
                examples, classes, both
            ),
        }
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


if __name__ == "__main__":
    for version, offset in (("1", 2.0), ("2", 3.0)):
        write(str(Path(sys.argv[1], "toy", version)), offset)
