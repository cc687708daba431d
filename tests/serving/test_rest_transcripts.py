"""Every recorded REST answer of TensorFlow Serving, given again by the embedded server."""

import base64
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

RECORDED = Path(__file__).with_name("transcripts") / "rest.jsonl"
CASES = [json.loads(line) for line in RECORDED.read_text("utf-8").splitlines()]


def body_of(case: dict[str, Any]) -> bytes:
    if "response_b64" in case:
        return base64.b64decode(case["response_b64"])
    return str(case["response"]).encode()


def parsed(body: bytes) -> Any:
    """JSON, its NaN as a word so that it equals itself, its raw bytes kept."""
    text = body.decode("utf-8", "surrogateescape")
    return json.loads(text, parse_constant=str)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_rest_answer_is_the_recorded_one(case: dict[str, Any], toy_server: Any) -> None:
    address = urlsplit(toy_server.rest_address)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request(case["method"], case["path"], body=case["body"])
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.status == case["status"]
    assert response.getheader("Content-Type") == case["content_type"]
    if case["content_type"] == "application/json":
        assert parsed(body) == parsed(body_of(case))
    else:
        assert body == body_of(case)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 83
