"""Made-up requests to every route: each gets an answer that the documents name, and the app lives on."""

from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genre_tf.serving.app.checks import ASK, DECISION, EVENT, WRITE

from .conftest import TOKEN

KNOWN = {200, 202, 204, 303, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429}
ROUTES = {"/v1/events": EVENT, "/v1/write": WRITE, "/v1/ask": ASK, "/v1/reviews/1": DECISION}
GOOD = {
    "reader": "r",
    "kind": "click",
    "article": "N1",
    "question": "Who?",
    "decision": "edit",
    "text": "words",
    "seconds": 1,
}
# Over HTTP each example takes milliseconds: a fifth of what the profile asks for.
SOME = settings(
    max_examples=settings.default.max_examples // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=6
)
words = st.text(max_size=200)


@st.composite
def bodies(draw):
    """A route that takes JSON, and a document that is nearly right for it."""
    path = draw(st.sampled_from(sorted(ROUTES)))
    fields = {
        name: draw(st.just(GOOD.get(name)) | values) for name in ROUTES[path] if draw(st.integers(0, 3))
    }
    fields |= draw(st.dictionaries(st.text(max_size=5), values, max_size=1))
    return path, draw(st.just(fields) | st.just([fields, fields]) | values)


@SOME
@given(request=bodies(), editor=st.booleans())
def test_documents_of_any_form_get_a_known_answer(app, request, editor):
    path, body = request
    status, told, _ = app.ask("POST", path, body, token=TOKEN if editor else "")
    assert status in KNOWN, (path, body, told)
    assert status not in (400, 404, 409, 422) or told["error"]


@SOME
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    path=st.sampled_from(
        ["/v1/readers/{}", "/v1/readers/{}/feed?k={}", "/v1/reviews/{}", "/?reader={}&lang={}", "/{}"]
    ),
    part=words,
    form=st.dictionaries(words, words, max_size=4),
)
def test_paths_and_forms_of_any_form_get_a_known_answer(app, method, path, part, form):
    place = path.replace("{}", quote(part, safe="", errors="replace"))
    status, told, _ = app.form(place, form) if method == "POST" else app.ask(method, place)
    assert status in KNOWN, (method, place, told)


def test_bytes_that_are_no_request_end_their_connection_alone(app):
    import socket

    host, port = app.url.removeprefix("http://").split(":")
    for sent in (
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert app.get("/health")["status"] == "ok"
