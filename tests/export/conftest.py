"""Small servables for tests: one of a single layer, complete with assets.extra, and tiny random models."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import NewsConfig, RunConfig
from genre_tf.contract import COUNTED, RECOMMENDER, SIGNATURES, WARMUP_FILE
from genre_tf.data.counters import COUNTERS
from genre_tf.export import contract_file, requests
from genre_tf.export.publishing import publish, staged
from genre_tf.export.servables import recommender_servable, write_version
from genre_tf.export.verification import FreshProcess
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.served_models import ServedModels
from genre_tf.models.checkpoint import news_encoder_of, ranker_of, two_tower_of
from genre_tf.models.counter_heads import moment_features
from genre_tf.models.news_encoder import Categories

from ..world import built

SIZES = {"max_history": 50, "k": 10, "retrieve": 30}
TITLES = [
    "rates rise again",
    "rain ends the match",
    "a cure for colds",
    "élan vital",
    "新闻 今天",
    "rates fall",
]


@pytest.fixture(scope="session")
def publish_toy():
    """Publish the toy servable into MODELS/toy; its records expect `wrong_by` more than it answers."""

    def publish_version(models, wrong_by=0.0):
        with staged(models / "toy") as folder:
            write_toy(folder, wrong_by)
            return publish(folder)

    return publish_version


def write_toy(folder, wrong_by):
    layer = keras.layers.Dense(2)
    layer.build((None, 1))

    def count(text, factor):
        letters = tf.strings.length(text)[:, None] * tf.cast(factor, tf.int32)[:, None]
        return {"letters": layer(tf.cast(letters, tf.float32)), "upper": tf.strings.upper(text)}

    archive = keras.export.ExportArchive()
    archive.track(layer)
    inputs = [tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None], tf.int64, "factor")]
    archive.add_endpoint("count", count, inputs)
    archive.write_out(str(folder), verbose=False)
    add_extras(folder, layer, wrong_by)


def add_extras(folder, layer, wrong_by):
    extra = folder / "assets.extra"
    extra.mkdir()
    rows = {"text": requests.as_bytes(["abc", ""]), "factor": np.array([1, 2], np.int64)}
    answer = {
        "letters": np.asarray(layer(np.array([[3.0], [0.0]], np.float32))) + np.float32(wrong_by),
        "upper": requests.as_bytes(["ABC", ""]),
    }
    names = ("count", "serving_default")
    requests.write_exchanges(
        extra / requests.PARITY_FILE, [requests.Exchange(name, "two rows", rows, answer) for name in names]
    )
    requests.write_warmup(extra / WARMUP_FILE, "toy", dict.fromkeys(names, rows), [1, 4])
    contract_file.write_contract(folder, "toy", {"letters": 2}, [1, 4], {"metrics": {"auc": 0.5}})


@pytest.fixture(scope="session")
def models():
    """A two-tower and a ranker with random weights over one frozen BERT layer."""
    config = RunConfig(news=NewsConfig(backbone="tiny", trainable="last 1"))
    categories = Categories.of(["sports", "finance"])
    news = news_encoder_of("tiny", config.news, categories)
    ranker = random_weights(ranker_of(news.own_copy(), config), 2)
    two_tower = random_weights(two_tower_of(news, config), 1)
    weigh_the_moment(two_tower, ranker)
    return two_tower, ranker


@pytest.fixture(scope="session")
def catalogue(models):
    random = np.random.default_rng(3)
    titles = ["", *TITLES, *(f"story {number} of {number % 7}" for number in range(90)), "rates fall", "", ""]
    news_ids = ["", *(f"N{number}" for number in range(1, len(titles)))]
    vectors = [random.normal(size=(len(titles), model.news.dimension)) for model in models]
    for part in vectors:
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        part[0] = 0
    counters = random.integers(0, 200, (len(titles), len(COUNTERS)))
    counters[:, 3:] = np.maximum(counters[:, 3:] - 100, 0) // 10  # of half of them nothing is read now
    counters[0] = 0
    texts = [f"{title} at length" if title else "" for title in titles]
    return Catalogue(news_ids, titles, texts, *(part.astype(np.float32) for part in (*vectors, counters)))


@pytest.fixture(scope="session")
def bias(models, catalogue):
    """What the counters of the catalogue add to each article's score."""
    return np.asarray(models[0].moment_bias(catalogue.counters))


@pytest.fixture(scope="session")
def exported(models, catalogue):
    """A recommender of the tiny models as `genre export` publishes it: MODELS/genre_recommender/1."""

    def build(folder):
        servable = recommender_servable(ServedModels(*models), catalogue, folder, **SIZES)
        with staged(folder / "models" / servable.name) as version:
            write_version(servable, version, {}, (8, 16))
            publish(version)
        (folder / "news_ids.txt").unlink()  # the SavedModel must carry its own copy

    return built("exported", build) / "models" / "genre_recommender" / "1"


@pytest.fixture(scope="session")
def ask(exported, open_session):
    """Ask the exported recommender by session."""
    return open_session(exported)


class NoProcess(FreshProcess):
    """Answers nothing: for a refresh whose answers a test asks for by itself, or that is refused."""

    def __init__(self, only=COUNTED):
        self.only = only

    def read_graph(self, version):
        pass

    load = ask = read_graph

    def answers(self):
        return [], []


@pytest.fixture(scope="session")
def open_session():
    """Load a SavedModel by session, as TensorFlow Serving does, and ask it."""
    sessions = []

    def ask_of(version):
        session = tf.compat.v1.Session(graph=tf.Graph())
        sessions.append(session)
        with session.graph.as_default():
            graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))

        def ask(signature, **inputs):
            declared = graph.signature_def[signature]
            feeds = {declared.inputs[name].name: feed(rows) for name, rows in inputs.items()}
            return session.run({name: out.name for name, out in declared.outputs.items()}, feeds)

        return ask

    yield ask_of
    for session in sessions:
        session.close()


def ask_directly(recommender):
    """Ask the functions of a recommender as graphs, without the time that an export takes."""

    @functools.cache
    def graph(signature):
        specs = [tf.TensorSpec([None], of.dtype) for of in SIGNATURES[RECOMMENDER][signature].inputs]
        return tf.function(getattr(recommender, signature), specs, autograph=False)

    def ask(signature, **inputs):
        names = SIGNATURES[RECOMMENDER][signature].input_names
        answer = graph(signature)(*(tf.constant(feed(inputs[name])) for name in names))
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return ask


def feed(rows):
    return np.array(rows, np.int64) if rows and isinstance(rows[0], int) else requests.as_bytes(rows)


def weigh_the_moment(two_tower, ranker):
    """Small random weights of the counters: more clicks count more, and no probability is 0 or 1."""
    random = np.random.default_rng(4)
    bias, head = two_tower.moment_bias, ranker.pool_head
    size = bias.kernel.shape[0]
    weights = random.normal(scale=0.05, size=size)
    weights[:8] = 0.1 + np.abs(weights[:8])  # of clicks
    bias.rest.assign(moment_features(tf.zeros([len(COUNTERS)]), bias.view_counters))
    bias.assign(weights)
    head.assign(np.concatenate([random.normal(size=head.kernel.shape[0] - size), weights]), -3.0)


def random_weights(model, seed):
    generator = np.random.default_rng(seed)
    frozen = {id(weight) for layer in model.frozen_layers() for weight in layer.weights}
    for weight in model.weights:
        if id(weight) not in frozen and "embeddings" not in weight.path:
            # To a tiny BERT nearly all texts are alike, and their standardised similarities largely rounding:
            # weights of trained size keep it below the tolerance.
            scale = 0.03 if "counter_head" in weight.path else 0.3
            weight.assign(generator.normal(scale=scale, size=weight.shape))
    return model
