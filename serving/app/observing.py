"""What the app tells of itself: metrics for Prometheus, log lines without readers' ids, traces."""

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from genre_tf.serving.app.drift import Drifts

LOGGER = logging.getLogger("genre_tf.serving.app")

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_LATENCIES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_LONGEST_MESSAGE = 2_000  # of a log line; other servers' words may be in it


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def named(kind: Any, name: str, what: str, *labels: str, **options: Any) -> Any:
            return kind(f"genre_app_{name}", what, labels, registry=registry, **options)

        self.requests = named(Counter, "requests", "Answered requests", "route", "status")
        self.seconds = named(Histogram, "request_seconds", "Time to answer", "route", buckets=_LATENCIES_S)
        self.model_seconds = named(
            Histogram, "model_seconds", "Time of the model server", "signature", buckets=_LATENCIES_S
        )
        self.model_failures = named(
            Counter, "model_failures", "Requests that the model server failed", "signature"
        )
        self.events = named(Counter, "events", "Events on disk", "kind")
        self.repeated = named(Counter, "repeated_events", "Events that were there already")
        self.views = named(Counter, "views", "Articles shown", "version")
        self.clicks = named(Counter, "clicks", "Clicks on shown articles", "version")
        self.sources = named(Counter, "items", "Articles shown, by why they were", "source")
        self.texts = named(Counter, "texts", "Written texts", "status")
        self.waiting = named(Gauge, "texts_waiting", "Texts that wait for an editor")
        self.agreement = named(
            Histogram,
            "shadow_agreement",
            "Average overlap of the shadow's list with the one shown",
            "label",
            buckets=tuple(part / 10 for part in range(1, 11)),
        )
        self.shadow_seconds = named(
            Histogram, "shadow_seconds", "Time of shadow requests", "label", buckets=_LATENCIES_S
        )
        self.drift = named(Gauge, "drift_psi", "Population stability index against the first values", "what")
        self.drifts = Drifts()
        """Values whose distribution should not change."""

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        self.drift.clear()
        for what, index in self.drifts.indexes().items():
            self.drift.labels(what).set(index)
        return prometheus_client.generate_latest(self.registry)


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Average overlap of two ranked lists, 0 to 1: the mean, over depths, of the share that both have.

    Source: Webber et al., "A Similarity Measure for Indefinite Rankings", 2010.
    """
    depth = max(len(first), len(second))
    shares = [len({*first[:n]} & {*second[:n]}) / n for n in range(1, depth + 1)]
    return sum(shares) / depth if depth else 1.0


def trace_of(header: str | None) -> str:
    """The W3C traceparent of this step: of the client's trace if it sent one, else of a new one."""
    found = _TRACE.fullmatch(header or "")
    trace = found[1] if found and int(found[1], 16) else secrets.token_hex(16)
    return f"00-{trace}-{secrets.token_hex(8)}-01"


def hashed(reader: str, salt: str) -> str:
    """What log lines call a reader."""
    return hashlib.sha256(f"{salt}\0log\0{reader}".encode("utf-8", "replace")).hexdigest()[:16]


class JsonLines(logging.Formatter):
    """Log records as JSON, one a line, in ASCII: nothing in them can control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; fields come from `extra={"fields": …}`."""
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname.lower(),
            "message": record.getMessage()[:_LONGEST_MESSAGE],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)
