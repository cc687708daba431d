"""The database: what is acknowledged is on disk, once."""

from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa

from genre_tf.errors import FailureError, InputError
from genre_tf.serving.app.feed import record_events
from genre_tf.serving.app.storage import SCHEMA_VERSION, Store

CLICK = {"reader": "r", "kind": "click", "article": "N1", "impression": None, "seconds": None, "event": None}


@pytest.fixture
def store(database):
    opened = Store(database)
    yield opened
    opened.close()


def record(store, *events, now=1_000_000.0):
    return store.write(lambda writes: record_events(writes, events, now)).result(30)


def counts(store):
    return {row[0]: tuple(row[1:]) for row in store.read("SELECT article, clicks, views FROM counts")}


def test_an_event_with_an_id_counts_once_and_one_without_counts_each_time(store):
    named = CLICK | {"event": "e-1"}
    assert record(store, named, named)[0] == ["click"]
    assert record(store, named)[0] == []
    record(store, CLICK | {"article": "N2"}, CLICK | {"article": "N2"})
    assert counts(store) == {"N1": (1, 1), "N2": (2, 2)}
    assert store.clicks_and_hides("r") == (["N1", "N2"], set())


def test_ids_of_events_belong_to_their_reader(store):
    for reader in ("r", "s"):
        assert record(store, CLICK | {"event": "1", "reader": reader})[0] == ["click"]
    assert counts(store) == {"N1": (2, 2)}


def test_a_history_has_each_article_once_oldest_first_and_no_hidden_ones(store):
    for article in ("N2", "N1", "N2", "N3"):
        record(store, CLICK | {"article": article})
    record(store, CLICK | {"kind": "hide", "article": "N9"})
    assert store.clicks_and_hides("r") == (["N2", "N1", "N3"], {"N9"})


def test_a_write_that_fails_fails_alone(store):
    """Also among others that share its transaction."""

    def broken(writes):
        writes.run("INSERT INTO nowhere VALUES (1)")

    futures = [
        store.write(lambda writes, n=n: record_events(writes, [CLICK], n) if n % 3 else broken(writes))
        for n in range(9)
    ]
    failed = [future.exception(30) is not None for future in futures]
    assert failed == [n % 3 == 0 for n in range(9)]
    assert counts(store) == {"N1": (6, 6)}


def test_a_write_that_nobody_waits_for_any_more_stops_no_other(store):
    given_up: Future[None] = store.write(lambda writes: None)
    given_up.cancel()
    assert record(store, CLICK)[0] == ["click"]


def test_what_was_written_is_there_after_a_new_start(database):
    first = Store(database)
    record(first, CLICK)
    first.close()
    second = Store(database)
    assert second.salt == first.salt and counts(second) == {"N1": (1, 1)}
    second.close()


def test_two_processes_may_write_at_the_same_time(database):
    stores = [Store(database), Store(database)]
    futures = [
        store.write(lambda writes: record_events(writes, [CLICK], 0.0)) for _ in range(40) for store in stores
    ]
    for future in futures:
        future.result(30)
    assert counts(stores[0]) == {"N1": (80, 80)}
    for store in stores:
        store.close()


def test_sqlite_waits_for_the_disk(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'app.db'}")
    assert store.read("PRAGMA journal_mode")[0][0] == "wal"
    assert store.write(lambda writes: writes.run("PRAGMA synchronous").scalar()).result(30) == 2  # FULL
    store.close()


def test_tables_of_a_newer_version_are_refused(database):
    store = Store(database)
    store.write(lambda writes: writes.run("UPDATE schema_version SET version = version + 1")).result(30)
    store.close()
    with pytest.raises(InputError, match=rf"version {SCHEMA_VERSION + 1}, .* newer genre_tf"):
        Store(database)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("app.db", "not a URL"),
        ("mysql://localhost/app", "SQLite or PostgreSQL"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("postgresql+nothing://localhost/app", "not a URL|not installed"),
    ],
)
def test_a_wrong_url_is_refused(url, said):
    with pytest.raises(InputError, match=said):
        Store(url)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(FailureError, match="does not answer") as failed:
        Store("postgresql://me:secret@127.0.0.1:1/app")
    assert "secret" not in str(failed.value)
    assert sa.make_url("postgresql://me:secret@h/a").password == "secret"
