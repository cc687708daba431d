"""Servers that the tests of this room share: one for the transcripts, one for the contract of genre_tf."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOY_CONFIG = """
model_config_list {{
  config {{
    name: "toy" base_path: "{base}" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""


@pytest.fixture(scope="session")
def toy_models(transcripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The servable that the transcripts were recorded with, written by its own script."""
    folder = tmp_path_factory.mktemp("toy_models")
    spec = importlib.util.spec_from_file_location("make_toy_model", transcripts / "make_toy_model.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(str(folder / "toy" / "1"), 2.0)
    script.write(str(folder / "toy" / "2"), 3.0)
    (folder / "models.config").write_text(TOY_CONFIG.format(base=folder / "toy"))
    return folder


@pytest.fixture(scope="session")
def toy_server(toy_models: Path) -> Iterator[Any]:
    from genre_tf.serving.embedded_server import EmbeddedServer, ServerOptions

    with EmbeddedServer(toy_models, ServerOptions(grpc_port=0, rest_port=0)) as server:
        yield server
