"""The examples of the public names run, and a client needs no TensorFlow."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import genre_tf.serving


@pytest.mark.parametrize("name", genre_tf.serving.__all__)
def test_the_example_of_a_public_name_runs(name: str, contract_models: Path, contract_server: Any) -> None:
    public = getattr(genre_tf.serving, name)
    text = public.__doc__.replace("127.0.0.1:8500", contract_server.grpc_address)
    example = doctest.DocTestParser().get_doctest(text, {"models": contract_models}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_a_client_needs_no_tensorflow() -> None:
    code = (
        "import sys; from genre_tf.serving import AsyncClient, Client, choose_text; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Server'"):
        genre_tf.serving.Server  # noqa: B018
