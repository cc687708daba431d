"""The generator over tiny random models, answered by a session."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.export import replay
from genre_tf.export.gate import portability_violations
from genre_tf.export.generator import GeneratorReference, GeneratorServable, generator_requests
from genre_tf.generation.grounding import FUNCTION_WORDS
from genre_tf.generation.safety_classifier import SafetyClassifier
from genre_tf.generation.writer import Writer
from genre_tf.models.generator import Generator
from genre_tf.models.generator_checkpoint import TrainedGenerator
from genre_tf.models.prompts import CONTROL_TOKENS, Prompts, PromptSizes
from genre_tf.text.byte_pair import train_byte_pair

CORPUS = ["rates rise again in may", "rain ends the match", "a cure for colds is near"]
USUAL = {"history_text": "rates rise", "source": "The bank said rates rise in May.", "kind": "title"}


@pytest.fixture(scope="module")
def parts(models, tmp_path_factory):
    tokenizer = train_byte_pair(CORPUS * 3, 300, CONTROL_TOKENS, tmp_path_factory.mktemp("vocabulary"))
    sizes = PromptSizes.within(96, 2)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=300,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=96,
    )
    generator = Generator(backbone, user_dimension=models[0].encoder.dimension, prefix_tokens=2)
    random = np.random.default_rng(0)
    for weight in generator.weights:
        weight.assign(random.normal(scale=0.3, size=weight.shape))
    return TrainedGenerator(generator, Prompts(tokenizer, sizes), FUNCTION_WORDS, {})


@pytest.fixture(scope="module")
def classifier(models):
    """Calls most of the texts that the writer learned its vocabulary from unsafe."""
    weights = np.random.default_rng(1).normal(size=models[1].encoder.dimension)
    usual = {"weights": tuple(weights.tolist()), "bias": 0.1, "ranker": ""}
    logits = SafetyClassifier(**usual, threshold=0.0).logits(models[1].encoder(tf.constant(CORPUS)))
    return SafetyClassifier(**usual, threshold=float(np.min(logits)))


@pytest.fixture(scope="module")
def servable(models, parts, classifier):
    writer = Writer(parts.generator, parts.prompts)
    return GeneratorServable(writer, *models, max_history=50, classifier=classifier)


@pytest.fixture(scope="module")
def exported(servable, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator") / "1"
    servable.write(folder)
    return folder


@pytest.fixture(scope="module")
def ask(exported, open_session):
    return open_session(exported)


def generate(ask, *rows):
    columns = {name: [row.get(name, USUAL.get(name)) for row in rows] for name in USUAL}
    return ask("generate", **columns, seed=[row.get("seed", 7) for row in rows])


def test_the_graph_is_portable(exported):
    assert [str(violation) for violation in portability_violations(exported)] == []


def test_it_answers_as_the_writer_does_row_by_row(ask, servable, catalogue):
    reference = GeneratorReference(servable)
    for request in generator_requests(catalogue):
        expected = reference.answer(request).outputs
        columns = {name: rows.tolist() for name, rows in request.inputs.items()}
        difference, faults = replay.compare(expected, ask(request.signature, **columns))
        assert faults == [], (request.signature, request.case)
        assert difference <= 1e-5


def test_answers_have_the_shapes_of_the_contract(ask, servable):
    answer = generate(ask, {}, {"history_text": ""})
    texts = servable.writer.options.samples
    assert set(answer) == {"text", "interest", "log_probability", "grounding", "safe"}
    assert {column.shape for column in answer.values()} == {(2, texts)}
    assert ((answer["interest"] >= 0) & (answer["interest"] <= 1)).all()


def test_a_seed_decides_the_texts_and_other_rows_do_not(ask):
    alone = generate(ask, {"seed": 3})
    together = generate(ask, {"seed": 4, "source": "x " * 500}, {"seed": 3}, {"source": "", "kind": "body"})
    assert alone["text"][0].tolist() == together["text"][1].tolist()
    np.testing.assert_allclose(alone["interest"][0], together["interest"][1], atol=1e-5)
    assert generate(ask, {"seed": 5})["text"].tolist() != alone["text"].tolist()


def test_a_text_is_unsafe_where_the_classifier_says_so_of_its_vector(ask, models, classifier):
    answer = generate(ask, *({"seed": seed} for seed in range(4)))
    texts = answer["text"].reshape(-1)
    unsafe = classifier.is_unsafe(models[1].encoder(tf.constant(texts))).numpy().reshape(answer["safe"].shape)
    assert unsafe.any()
    np.testing.assert_array_equal(answer["safe"], ~unsafe)
    np.testing.assert_array_equal(unsafe, np.sort(unsafe, axis=1))  # false before true


def test_evaluation_writes_as_the_server_does(ask, parts, models, classifier):
    readers = [["rates rise", "rain ends the match"], ["a cure for colds"]]
    writer = ServedWriter(parts, *models, readers, classifier=classifier)
    sources = ["The bank said rates rise in May.", "x"]
    _, served = writer(readers, sources, [3, 4])
    answer = generate(
        ask,
        *(
            {"history_text": "\n".join(titles), "source": source, "seed": seed}
            for titles, source, seed in zip(readers, sources, (3, 4), strict=True)
        ),
    )
    np.testing.assert_array_equal(served.text, answer["text"])
    np.testing.assert_array_equal(served.safe, answer["safe"])
    np.testing.assert_allclose(served.interest, answer["interest"], atol=1e-5)
    texts = [[text.decode() for text in row] for row in served.text]
    np.testing.assert_allclose(writer.interest(readers, texts), served.interest, atol=1e-5)
