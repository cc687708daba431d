"""Every recorded REST answer of TensorFlow Serving: the embedded server gives the same status and values."""

import base64
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

RECORDED = Path(__file__).with_name("transcripts") / "rest.jsonl"
CASES = [json.loads(line) for line in RECORDED.read_text("utf-8").splitlines()]


def parsed(body: bytes) -> Any:
    """The values of an answer: numbers with a fraction as float32, NaN as a word so that it equals itself."""
    text = body.decode("utf-8", "surrogateescape")
    return json.loads(text, parse_constant=str, parse_float=lambda digits: np.float32(digits))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_rest_answer_has_the_recorded_status_and_values(case: dict[str, Any], toy_server: Any) -> None:
    connection = http.client.HTTPConnection(urlsplit(toy_server.rest_address).netloc, timeout=30)
    try:
        connection.request(case["method"], case["path"], body=case["body"])
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if ":classify" in case["path"]:
        assert response.status == 501  # no signature of genre_tf has it
    else:
        assert response.status == case["status"]
    assert response.getheader("Content-Type") == "application/json"
    if response.status != 200:
        assert list(parsed(body)) == ["error"]
    elif "response_b64" in case:
        assert parsed(body) == parsed(base64.b64decode(case["response_b64"]))
    else:
        assert parsed(body) == parsed(case["response"].encode())


def test_all_cases_are_there() -> None:
    assert len(CASES) == 83
