"""Who may do what: editors by a token, everyone within limits of size and rate, forms from this site only."""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from genre_tf.errors import InputError

SESSION = "genre_editor"
"""Name of the cookie of an editor's browser."""
SESSION_S = 12 * 3600
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
SHORTEST_TOKEN = 16  # a shorter one is guessed sooner
_MOST_CLIENTS = 10_000  # whose rate is remembered; the one that asked longest ago is forgotten


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for clients."""

    body_bytes: int = 1 << 20  # a thousand events
    body_s: float = 10.0  # for a body to arrive
    rate: float = 1_000.0  # requests a second of one client; a product's backend is one
    rate_of_all: float = 5_000.0
    write_rate: float = 5.0  # texts and answers a second of one client: each takes the writer seconds
    wrong_tokens: float = 0.2  # a second of one client


class Editors:
    """The tokens of the editors.

    A file has one editor a line: a token, or a name and a token. Without a file there is one new token.

    Raises:
        InputError: the file cannot be read, or has no token.
    """

    def __init__(self, file: Path | None) -> None:
        self.new_token = "" if file else secrets.token_urlsafe(24)
        lines = [self.new_token] if file is None else _read(file)
        self._names: dict[bytes, str] = {}
        self.weak_lines: list[int] = []
        for number, line in enumerate(lines, start=1):
            name, _, token = line.rpartition(" ")
            if len(token) < SHORTEST_TOKEN:
                self.weak_lines.append(number)
            self._names[_digest(token)] = name.strip() or "editor"
        self._key = sha256(b"".join(sorted(self._names))).digest()

    def named(self, token: str) -> str | None:
        """The editor with this token; all tokens are compared, each in constant time."""
        given, found = _digest(token), None
        for known, name in self._names.items():
            if hmac.compare_digest(given, known):
                found = name
        return found

    def session(self, name: str) -> str:
        """The cookie of an editor."""
        told = f"{name.encode().hex()}.{int(time.time()) + SESSION_S}"
        return f"{told}.{self._sign(told)}"

    def of_session(self, cookie: str) -> str | None:
        """The editor of a cookie; None if it is forged or has expired."""
        told, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign(told).encode(), signature.encode("utf-8", "replace")):
            return None
        name, _, ends = told.partition(".")
        return bytes.fromhex(name).decode() if time.time() < int(ends) else None

    def _sign(self, told: str) -> str:
        return hmac.new(self._key, told.encode("utf-8", "replace"), sha256).hexdigest()


def _read(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--editor-token-file {file} cannot be read: {error}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(
            f"--editor-token-file {file} has no token: write one, such as {secrets.token_urlsafe(24)}"
        )
    return found


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()


class Rate:
    """A limit of requests a second, of each client; a burst of one second's requests may come at once."""

    def __init__(self, per_second: float, least_burst: float = 10.0) -> None:
        self._per_second, self._burst = per_second, max(per_second, least_burst)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and as of when

    def allows(self, client: str, *, taking: float = 1.0) -> bool:
        """Whether a client may ask now; if so, it is counted."""
        now = time.monotonic()
        left, then = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_second)
        allowed = left >= 1
        self._left[client] = (left - taking if allowed else left, now)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return allowed


def from_this_site(headers: Headers) -> bool:
    """Whether a form comes from a page of this app, by what the browser says, which no page can change."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def is_own_host(headers: Mapping[str, str], hosts: frozenset[str]) -> bool:
    """Whether a request names this server; no name of another site may be bound to this address."""
    if not hosts:
        return True
    host = headers.get("host", "")
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return bare.lower() in hosts
