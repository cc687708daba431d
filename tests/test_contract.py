"""One list of what is served: the documents, the clients and the writer say the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from genre_tf import contract
from genre_tf.contract import DEFAULT_SIGNATURE, GENERATOR, RECOMMENDER, SIGNATURES
from genre_tf.serving.client import calls

SERVING_PAGE = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
COUNTERS = {"N1": range(len(contract.COUNTERS))}
CALLS = [
    calls.recommend([["N1"]]),
    calls.recommend_text([["a title"]]),
    calls.recommend_live([["N1"]], [COUNTERS]),
    calls.score([["N1"]], [["N2"]]),
    calls.score_text([["a title"]], [["another"]]),
    calls.score_counters([["N1"]], [["N2"]], [[1]], [[1]], [[1]]),
    calls.embed_news(["a text"]),
    calls.embed_user([["N1"]]),
    calls.explain([["N1"]], [["N2"]]),
    calls.generate([["a title"]], ["a source"], ["summary"], [1]),
    calls.generate_styled([["a title"]], ["a source"], ["title"], [1], ["lively"], ["sports"]),
    calls.answer(["a question?"], [["a title"]], [1]),
]


def document_row(signature):
    """The row of a signature in the table of the page about serving."""
    inputs = ", ".join(f"`{name}`" for name in signature.input_names)
    outputs = [f"`{one.name}` {one.dtype} [{','.join(one.shape)}]{_padded(one)}" for one in signature.outputs]
    return f"| `{signature.name}` | {inputs} | {', '.join(outputs)} |"


def _padded(output):
    return "" if output.padding is None else f" (padding `{output.padding!r}`)".replace("''", '""')


def test_the_page_about_serving_lists_every_signature_with_its_inputs_and_outputs():
    rows = [line for line in SERVING_PAGE.read_text("utf-8").splitlines() if "| `" in line]
    for signatures in SIGNATURES.values():
        for name, signature in signatures.items():
            assert name == DEFAULT_SIGNATURE or document_row(signature) in rows


def test_clients_send_what_the_signatures_take():
    assert {(call.servable, call.signature) for call in CALLS} == {
        (servable, name)
        for servable, signatures in SIGNATURES.items()
        for name in signatures
        if name not in (DEFAULT_SIGNATURE, "regress")
    }
    for call in CALLS:
        inputs = SIGNATURES[call.servable][call.signature].inputs
        kinds = {"string": "O", "int64": "i"}
        assert {name: value.dtype.kind for name, value in call.inputs.items()} == {
            one.name: kinds[one.dtype] for one in inputs
        }


def test_the_first_signature_is_the_default():
    assert SIGNATURES[RECOMMENDER][DEFAULT_SIGNATURE].name == "recommend"
    assert SIGNATURES[GENERATOR][DEFAULT_SIGNATURE].name == "generate"


@pytest.mark.parametrize("module", ["tensorflow", "numpy"])
def test_the_contract_is_read_without(module):
    code = f"import sys; import genre_tf.contract; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
