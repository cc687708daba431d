"""A writer with fixed shapes: XLA compiles its decoding, and its texts are those of the portable one."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2, LLAMA
from genre_tf.errors import InputError
from genre_tf.generation.beam import Beam
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.writer import WriterOptions, WritingGraph
from genre_tf.models.writer import Writer
from genre_tf.text.byte_pair import train_byte_pair

CORPUS = ["rates rise again in may", "rain ends the match", "a cure for colds is near"]
OPTIONS = WriterOptions(samples=2, title_tokens=9)


@pytest.fixture(scope="module", params=["GPT-2", "Llama"])
def writer(request, tmp_path_factory) -> Writer:
    tokenizer = train_byte_pair(CORPUS * 3, 300, CONTROL_TOKENS, tmp_path_factory.mktemp("vocabulary"))
    sizes = {"layers": 2, "heads": 4, "hidden": 16, "max_tokens": 96}
    if request.param == "Llama":
        model = LLAMA.new(tokenizer, **sizes, key_heads=2, intermediate=24)
    else:
        model = GPT2.new(tokenizer, **sizes)
    writer = Writer(model, max_tokens=96)
    random = np.random.default_rng(0)
    for weight in writer.weights:
        if "int" not in weight.dtype:
            weight.assign(weight + random.normal(scale=0.3, size=weight.shape))
    return writer


def test_compiled_texts_are_those_of_the_portable_writer(writer: Writer) -> None:
    portable, fixed = WritingGraph(writer, OPTIONS), WritingGraph(writer, OPTIONS, fixed_shapes=True)
    (write,) = fixed.device_functions().values()
    fixed.compiled = tf.function(write.python_function, autograph=False, jit_compile=True)
    request = (
        tf.constant(["rates rise\nrain ends", "", "a cure"]),
        tf.constant(["The match ended in May because of rain.", "rates", ""]),
        tf.constant(["title", "summary", "body"]),
        tf.constant([1, 2, 3], tf.int64),
    )

    expected, found = portable.decode(*request), fixed.decode(*request)

    longest = expected.ids.shape[2]
    np.testing.assert_array_equal(found.ids[:, :, :longest], expected.ids)
    assert (found.ids.numpy()[:, :, longest:] < 0).all()
    np.testing.assert_allclose(found.log_probability, expected.log_probability, atol=1e-4)


def test_served_decoding_is_the_function_that_xla_compiles(writer: Writer) -> None:
    assert WritingGraph(writer, OPTIONS).device_functions() == {}
    (write,) = WritingGraph(writer, OPTIONS, fixed_shapes=True).device_functions().values()
    graph = write.get_concrete_function().graph

    functions = [graph.as_graph_def(), *graph.as_graph_def().library.function]
    ops = {node.op for one in functions for node in (getattr(one, "node", None) or one.node_def)}
    assert "InplaceUpdate" not in ops and "TensorScatterUpdate" in ops
    assert all(spec.shape[1:].is_fully_defined() for spec in write.input_signature)


@pytest.mark.parametrize("refused", [{"draft_tokens": 3}, {"strategy": Beam(width=2)}])
def test_search_and_drafts_are_refused(writer: Writer, refused: dict) -> None:
    with pytest.raises(InputError, match="strategy to sample or greedy, and draft_tokens to 0"):
        WritingGraph(writer, WriterOptions(samples=2, **refused), fixed_shapes=True)
