"""The generator over tiny random models, answered by a session."""

import dataclasses
import json
import shutil
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.language_models import GPT2
from genre_tf.contract import GENERATOR as NAME
from genre_tf.data.articles import Article
from genre_tf.evaluation.personalisation import ServedWriter
from genre_tf.export import replay
from genre_tf.export.gate import portability_violations, read_saved_model
from genre_tf.export.generator import GeneratorServable
from genre_tf.export.publishing import publish, staged
from genre_tf.export.refreshing import refresh_evidence
from genre_tf.export.requests import RowByRow, recorded_requests, warmup_requests
from genre_tf.export.servables import Servable, write_version
from genre_tf.export.server_config import write_configuration
from genre_tf.funnel.evidence import Evidence
from genre_tf.funnel.served_models import ServedModels
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.safety import SafetyClassifier
from genre_tf.generation.writer import WritingGraph
from genre_tf.models.writer import Writer
from genre_tf.serving import Client
from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions
from genre_tf.text.byte_pair import train_byte_pair

CORPUS = ["rates rise again in may", "rain ends the match", "a cure for colds is near"]
USUAL = {"history_text": "rates rise", "source": "The bank said rates rise in May.", "kind": "title"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tokenizer = train_byte_pair(CORPUS * 3, 300, CONTROL_TOKENS, tmp_path_factory.mktemp("vocabulary"))
    gpt2 = GPT2.new(tokenizer, layers=2, heads=2, hidden=16, max_tokens=96)
    writer = Writer(gpt2, max_tokens=96)
    random = np.random.default_rng(0)
    for weight in writer.weights:
        if "int" not in weight.dtype:
            weight.assign(random.normal(scale=0.3, size=weight.shape))
    return writer


@pytest.fixture(scope="module")
def classifier(models):
    """Calls most of the texts that the writer learned its vocabulary from unsafe."""
    weights = np.random.default_rng(1).normal(size=models[1].news.dimension)
    usual = {"weights": tuple(weights.tolist()), "bias": 0.1, "ranker": ""}
    logits = SafetyClassifier(**usual, threshold=0.0).logits(models[1].news(tf.constant(CORPUS)))
    return SafetyClassifier(**usual, threshold=float(np.median(logits)))


@pytest.fixture(scope="module")
def servable(models, parts, classifier, catalogue):
    evidence = Evidence(catalogue.news_ids, catalogue.titles, catalogue.texts)
    writer = WritingGraph(parts)
    rules = {"classifier": classifier, "show_unsafe": True}
    return GeneratorServable(writer, ServedModels(*models), evidence, max_history=50, **rules)


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
    reference = RowByRow(NAME, servable)
    for request in recorded_requests(NAME, catalogue):
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


def test_an_answer_names_its_evidence_best_first_and_each_title_once(ask, catalogue):
    answer = ask("answer", question=["rates fall"], history_text=[""], seed=[1])
    assert answer["evidence_title"][0][0] == b"rates fall"  # the very title of two articles
    assert answer["evidence_id"][0][0] == catalogue.news_ids[catalogue.titles.index("rates fall")].encode()
    named = [title for title in answer["evidence_title"][0] if title]
    assert len(set(named)) == len(named)
    # The classifier calls most texts unsafe, and those are no answers.
    np.testing.assert_array_equal(answer["interest"] >= 0, answer["text"] != b"")


def test_a_question_that_no_article_answers_has_no_answer_beside_one_that_has(ask):
    questions = [" \n", "rates fall", "What is the capital of France?"]
    answer = ask("answer", question=questions, history_text=["rates rise", "", ""], seed=[1] * 3)
    for row in (0, 2):
        assert not any(answer["text"][row]) and not any(answer["evidence_id"][row])
        assert (answer["interest"][row] == -1).all()
    assert answer["evidence_id"][1][0] != b""


def test_a_text_is_unsafe_where_the_classifier_says_so_of_its_vector(ask, models, classifier):
    answer = generate(ask, *({"seed": seed} for seed in range(4)))
    texts = answer["text"].reshape(-1)
    unsafe = classifier.is_unsafe(models[1].news(tf.constant(texts))).numpy().reshape(answer["safe"].shape)
    assert unsafe.any()
    np.testing.assert_array_equal(answer["safe"], ~unsafe)
    np.testing.assert_array_equal(unsafe, np.sort(unsafe, axis=1))  # false before true


def test_unsafe_texts_are_held_back_unless_they_are_to_be_shown(servable):
    inputs = [tf.constant([USUAL[name]] * 4) for name in USUAL]
    seeds = tf.range(4, dtype=tf.int64)
    shown = servable.generate(*inputs, seeds)
    held_back = dataclasses.replace(servable, show_unsafe=False).generate(*inputs, seeds)
    safe = shown["safe"].numpy()
    assert not safe.all()
    np.testing.assert_array_equal(held_back["safe"], safe)
    for name, nothing in (("text", b""), ("interest", -1), ("log_probability", -1), ("grounding", -1)):
        np.testing.assert_array_equal(held_back[name], np.where(safe, shown[name], nothing))


def test_evaluation_writes_as_the_server_does(ask, parts, models, classifier):
    readers = [["rates rise", "rain ends the match"], ["a cure for colds"]]
    writer = ServedWriter(parts, models[1], readers, classifier=classifier)
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
    np.testing.assert_allclose(writer.click_model(readers, texts), served.interest, atol=1e-5)


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    models = tmp_path_factory.mktemp("served")
    shutil.copytree(exported, models / NAME / "1")
    write_configuration(models, [NAME])
    with EmbeddedServer(models, ServerOptions(grpc_port=0, rest_port=0, poll_s=0)) as opened:
        yield opened


def by_rest(server, signature, columns):
    """The predictions for rows of raw strings, as any HTTP client asks for them."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    body = json.dumps({"signature_name": signature, "instances": rows}).encode()
    url = f"{server.rest_address}/v1/models/{NAME}:predict"
    with urllib.request.urlopen(url, body, timeout=120) as response:
        return json.load(response)["predictions"]


def test_a_server_writes_from_raw_strings_over_grpc_and_rest(server, ask):
    columns = {
        "history_text": ["rates rise\nélan vital", ""],
        "source": ["The bank said rates rise in May.", ""],
        "kind": ["title", "summary"],
        "seed": [3, 4],
    }
    expected = ask("generate", **columns)
    with Client(server.grpc_address, timeout_s=120) as client:
        histories = [["rates rise", "élan vital"], []]
        written = client.generate(histories, columns["source"], columns["kind"], columns["seed"])
    for row, found in enumerate(by_rest(server, "generate", columns)):
        assert found["text"] == [text.decode() for text in expected["text"][row]]
        assert found["safe"] == expected["safe"][row].tolist()
        for name in ("interest", "log_probability", "grounding"):
            np.testing.assert_allclose(found[name], expected[name][row], atol=1e-5)
        said = [place for place, text in enumerate(found["text"]) if text]
        assert [one.text for one in written[row]] == [found["text"][place] for place in said]
        assert [one.safe for one in written[row]] == [found["safe"][place] for place in said]
        interests = [found["interest"][place] for place in said]
        np.testing.assert_allclose([one.interest for one in written[row]], interests, atol=1e-5)
    assert all(written)


def test_a_refresh_answers_from_new_articles_and_no_longer_from_withdrawn_ones(
    servable, catalogue, tmp_path, open_session
):
    reference = RowByRow(NAME, servable)
    requests = [reference.answer(one) for one in recorded_requests(NAME, catalogue)]
    sizes = {"max_history": 50, "texts": 4, "evidence": 5}
    whole = Servable(NAME, servable.write, requests, warmup_requests(NAME, catalogue), sizes)
    with staged(tmp_path / NAME) as folder:
        write_version(whole, folder, {}, [1])
        version = publish(folder)
    gone = catalogue.news_ids[catalogue.titles.index("rain ends the match")]
    new = Article("N900", "", "", "Glaciers melt in Norway", "The glaciers lost nine meters in May.")
    renewed = refresh_evidence(version, {"N900": new}, {gone}, lambda line: None)
    assert renewed == tmp_path / NAME / "2"
    asked = ["How much did glaciers melt in Norway?", "Who ends the match?", "rates fall"]
    answer = open_session(renewed)("answer", question=asked, history_text=[""] * 3, seed=[1] * 3)
    assert answer["evidence_id"][0][0] == b"N900"
    assert not any(answer["evidence_id"][1])
    assert answer["evidence_title"][2][0] == b"rates fall"
    assert refresh_evidence(renewed, {"N900": new}, {gone}, lambda line: None) is None


def test_a_server_answers_questions_from_raw_strings_over_grpc_and_rest(server, ask):
    columns = {"question": ["rates fall", " "], "history_text": ["rates rise", ""], "seed": [1, 1]}
    expected = ask("answer", **columns)
    with Client(server.grpc_address, timeout_s=120) as client:
        answered = client.answer(columns["question"], [["rates rise"], []], columns["seed"])
    found = by_rest(server, "answer", columns)
    for row, ours in enumerate(found):
        for name in ("text", "evidence_id", "evidence_title"):
            assert ours[name] == [value.decode() for value in expected[name][row]]
        np.testing.assert_allclose(ours["interest"], expected["interest"][row], atol=1e-5)
        assert [text for text, _ in answered[row].texts] == [text for text in ours["text"] if text]
    assert answered[0].evidence[0][1] == "rates fall"
    assert answered[1].texts == [] == answered[1].evidence and not any(found[1]["text"])


def test_export_for_tpus_names_its_decoding_and_answers_by_session(models, parts, catalogue, tmp_path):
    evidence = Evidence(catalogue.news_ids, catalogue.titles, catalogue.texts)
    writer = WritingGraph(parts, fixed_shapes=True)
    GeneratorServable(writer, ServedModels(*models), evidence, max_history=50).write(tmp_path / "1")

    (graph,) = read_saved_model(tmp_path / "1").meta_graphs
    assert set(graph.meta_info_def.function_aliases.values()) == {"write_tokens"}
    assert not portability_violations(tmp_path / "1")
