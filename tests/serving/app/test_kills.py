"""An app that is killed under load loses no acknowledged event and counts none twice."""

import http.client
import json
import random
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy as sa

from .test_newsroom_app import started

KILLS, CLIENTS = 20, 6


class Client(threading.Thread):
    """Sends events and asks for feeds until the app is gone; sends an event without an answer again."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.reader, self.url = f"reader-{number}", ""
        self.acknowledged: list[str] = []
        self.unsure: dict[str, object] | None = None
        self.sent = 0

    def again(self, url: str) -> "Client":
        """A client that goes on where this one stopped."""
        other = Client(0)
        other.__dict__.update(reader=self.reader, url=url, acknowledged=self.acknowledged, sent=self.sent)
        other.unsure = self.unsure
        return other

    def run(self) -> None:
        while True:
            if self.unsure is None:
                self.sent += 1
                article = f"N{random.randint(1, 30)}"
                event = f"{self.reader}-{self.sent}"
                self.unsure = {"reader": self.reader, "kind": "click", "article": article, "event": event}
            try:
                self._ask("/v1/events", json.dumps(self.unsure).encode())
                self.acknowledged.append(str(self.unsure["event"]))
                self.unsure = None
                self._ask(f"/v1/readers/{self.reader}/feed")
            except (OSError, http.client.HTTPException):  # it was killed
                return

    def _ask(self, path: str, body: bytes | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


@pytest.mark.proof
def test_acknowledged_events_survive_kills_and_count_once(models: Path, server, database: str) -> None:
    clients = [Client(number) for number in range(CLIENTS)]
    for _ in range(KILLS):
        with started(str(models), "--database", database, "--server", server.address) as (process, url):
            clients = [client.again(url) for client in clients]
            for client in clients:
                client.start()
            time.sleep(random.uniform(0.2, 2.0))
            process.kill()
            for client in clients:
                client.join(90)
    url = database.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        kept = [
            row[0] for row in connection.execute(sa.text("SELECT event FROM events WHERE kind = 'click'"))
        ]
        counted = connection.execute(sa.text("SELECT sum(clicks) FROM counts")).scalar_one()
        shown = connection.execute(sa.text("SELECT items FROM impressions")).all()
        views = connection.execute(sa.text("SELECT sum(views) FROM counts")).scalar_one()
    engine.dispose()
    acknowledged = {event for client in clients for event in client.acknowledged}
    assert len(acknowledged) > KILLS
    assert acknowledged <= set(kept) and len(kept) == len(set(kept)) == counted
    assert views == counted + sum(len(json.loads(items)) for (items,) in shown)
