"""The database of the app: readers' events, what they were shown, written texts, counters.

One thread writes. It takes all writes that wait and runs them in one transaction; only when that is on disk
are they acknowledged, so many share one flush. All SQL here is understood by SQLite and PostgreSQL, and
values are always parameters.
"""

import queue
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from genre_tf.errors import FailureError, InputError

SCHEMA_VERSION = 1
SLOT_SECONDS = 60
"""Clicks and views are counted for each article and minute."""

_TOGETHER = 256  # writes of one transaction
_BUSY_S = 10  # how long SQLite waits for another process
_MOST_HISTORY = 1_000  # newest clicks of a reader; everything else of them is kept, too

Result = TypeVar("Result")

_metadata = sa.MetaData()
_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows by an INTEGER alone


def _table(name: str, *columns: Any) -> None:
    sa.Table(name, _metadata, *columns)


def _column(name: str, kind: Any = sa.Text, **options: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=options.pop("nullable", False), **options)


_table("schema_version", _column("version", sa.Integer, primary_key=True), _column("salt"))
_table("readers", _column("reader", primary_key=True), _column("created", sa.Double))
_table(
    "events",
    _column("seq", _serial, primary_key=True, autoincrement=True),
    _column("reader"),
    _column("kind"),
    _column("time", sa.Double),
    _column("event", nullable=True),  # the id that makes a repetition harmless
    _column("article", nullable=True),
    _column("impression", nullable=True),
    _column("seconds", sa.Double, nullable=True),
    _column("words", nullable=True),  # a question
    sa.UniqueConstraint("reader", "event"),
    sa.Index("events_of_reader", "reader", "kind", "seq"),
    sa.Index("events_by_time", "time"),
)
_table(
    "impressions",
    _column("impression", primary_key=True),
    _column("reader", index=True),
    _column("time", sa.Double, index=True),
    _column("model_version"),
    _column("trace"),
    _column("items"),  # JSON, in the order shown
)
_table(
    "counts",
    _column("article", primary_key=True),
    _column("slot", _serial, primary_key=True, autoincrement=False, index=True),
    _column("clicks", sa.Integer),
    _column("views", sa.Integer),
)
_table(
    "headlines",  # texts of articles that have several; text 0 is the article's own title
    _column("article", primary_key=True),
    _column("text", _serial, primary_key=True, autoincrement=False),
    _column("clicks", sa.Integer),
    _column("views", sa.Integer),
)
_table(
    "rates",
    _column("model_version", primary_key=True),
    _column("hour", sa.Integer, primary_key=True, autoincrement=False),
    _column("clicks", sa.Integer),
    _column("views", sa.Integer),
)
_table(
    "texts",
    _column("id", _serial, primary_key=True, autoincrement=True),
    _column("reader", nullable=True, index=True),
    _column("kind"),  # of KINDS, or answer
    _column("article", nullable=True),
    _column("question", nullable=True),
    _column("source"),
    _column("written"),
    _column("edited", nullable=True),
    _column("status", index=True),
    _column("interest", sa.Double),
    _column("grounding", sa.Double),
    _column("model_version"),
    _column("created", sa.Double),
    _column("decided", sa.Double, nullable=True),
    _column("editor", nullable=True),
    _column("note", nullable=True),
)

_ADD = (
    "INSERT INTO {table} ({keys}, clicks, views) VALUES ({places}, :clicks, :views) ON CONFLICT ({keys}) "
    "DO UPDATE SET clicks = {table}.clicks + excluded.clicks, views = {table}.views + excluded.views"
)
_COUNTED = {
    "counts": ("article", "slot"),
    "headlines": ("article", "text"),
    "rates": ("model_version", "hour"),
}
_INSERTS = {
    table.name: sa.text(
        f"INSERT INTO {table.name} ({', '.join(table.c.keys())}) "  # noqa: S608  (our own names)
        f"VALUES ({', '.join(f':{column.name}' for column in table.c)}) ON CONFLICT DO NOTHING"
    )
    for table in _metadata.tables.values()
}
_NEW_EVENT = sa.text(
    "INSERT INTO events (reader, kind, time, event, article, impression, seconds, words) VALUES (:reader, "
    ":kind, :time, :event, :article, :impression, :seconds, :words) ON CONFLICT (reader, event) DO NOTHING"
)
_NEW_TEXT = sa.text(
    "INSERT INTO texts (reader, kind, article, question, source, written, status, interest, grounding, "
    "model_version, created) VALUES (:reader, :kind, :article, :question, :source, :written, :status, "
    ":interest, :grounding, :model_version, :created) RETURNING id"
)


class Writes:
    """The writes of one transaction; what is only counted is added up and written at its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._clicks: dict[str, Counter[tuple[Any, ...]]] = {name: Counter() for name in _COUNTED}
        self._views: dict[str, Counter[tuple[Any, ...]]] = {name: Counter() for name in _COUNTED}

    def run(self, statement: str, **values: Any) -> Any:
        """Run a statement."""
        return self.connection.execute(sa.text(statement), values)

    def insert(self, table: str, **values: Any) -> None:
        """Insert a row unless its key is there."""
        self.connection.execute(_INSERTS[table], values)

    def new_event(self, **values: Any) -> bool:
        """Insert an event of a reader; False if it was there already."""
        row = dict.fromkeys(("event", "article", "impression", "seconds", "words")) | values
        return bool(self.connection.execute(_NEW_EVENT, row).rowcount)

    def new_text(self, **values: Any) -> int:
        """Insert a written text and return its number."""
        return int(self.connection.execute(_NEW_TEXT, values).scalar_one())

    def count(self, table: str, *key: Any, clicks: int = 0, views: int = 0) -> None:
        """Add clicks and views to `counts`, `headlines` or `rates`."""
        self._clicks[table][key] += clicks
        self._views[table][key] += views

    def flush(self) -> None:
        """Write what was counted, in the same order in every process, so that no two wait for each other."""
        for table, keys in _COUNTED.items():
            rows = [
                {**dict(zip(keys, key, strict=True)), "clicks": self._clicks[table][key], "views": views}
                for key, views in sorted(self._views[table].items())
            ]
            if rows:
                places = ", ".join(f":{key}" for key in keys)
                statement = _ADD.format(table=table, keys=", ".join(keys), places=places)
                self.connection.execute(sa.text(statement), rows)


Work = Callable[[Writes], Any]


class Store:
    """An open database; its methods may be called from any thread.

    Args:
        url: as SQLAlchemy has it, such as sqlite:///app.db or postgresql+psycopg://user@host/name.
        create: make the file of SQLite if there is none.

    Raises:
        InputError: the URL is wrong, its driver is not installed, or a newer version of the app made the
            tables.
        FailureError: the database does not answer.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._engine = _engine(url)
        file = str(self._engine.url.database)
        if not create and self._engine.dialect.name == "sqlite" and not Path(file).is_file():
            raise InputError(f"there is no database {file}: give the --database that `genre app` has")
        self._writer_engine = _engine(url, writes=True)
        self.salt = ""
        """Random, the same in every process of a database: for hashes of readers."""
        self._waiting: queue.SimpleQueue[tuple[Work, Future[Any]] | None] = queue.SimpleQueue()
        try:
            self._prepare()
        except sa.exc.DBAPIError as error:
            self._dispose()
            raise FailureError(f"the database {_shown(url)} does not answer: {error.orig}") from None
        except InputError:
            self._dispose()
            raise
        self._thread = threading.Thread(target=self._write_all, name="writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Writes], Result]) -> "Future[Result]":
        """Run `work` in a transaction; the future has its result once that is on disk."""
        future: Future[Result] = Future()
        self._waiting.put((work, future))
        return future

    def read(self, statement: str, **values: Any) -> Sequence[Any]:
        """The rows of a query."""
        with self._engine.connect() as connection:
            return connection.execute(sa.text(statement), values).all()

    def clicks_and_hides(self, reader: str) -> tuple[list[str], set[str]]:
        """What a reader clicked, oldest first and each article once, and what they hid."""
        rows = self.read(
            "SELECT kind, article FROM events WHERE reader = :reader AND kind IN ('click', 'hide') "
            "ORDER BY seq DESC LIMIT :most",
            reader=reader,
            most=_MOST_HISTORY,
        )
        clicked = dict.fromkeys(article for kind, article in reversed(rows) if kind == "click")
        return list(clicked), {article for kind, article in rows if kind == "hide"}

    def close(self) -> None:
        """Finish the writes that wait, and close all connections."""
        self._waiting.put(None)
        self._thread.join()
        self._dispose()

    def _dispose(self) -> None:
        for engine in (self._engine, self._writer_engine):
            engine.dispose()

    def _prepare(self) -> None:
        for attempt in (1, 2):
            try:
                with self._writer_engine.begin() as connection:
                    _metadata.create_all(connection)
                    row = {"version": SCHEMA_VERSION, "salt": secrets.token_hex(16)}
                    if not connection.execute(sa.text("SELECT count(*) FROM schema_version")).scalar():
                        connection.execute(_INSERTS["schema_version"], row)
                    newest = "SELECT version, salt FROM schema_version ORDER BY version DESC"
                    found, self.salt = connection.execute(sa.text(newest)).first() or (0, "")
                break
            except sa.exc.DBAPIError:
                if attempt == 2:  # at first another process may have made the tables meanwhile
                    raise
        if found > SCHEMA_VERSION:
            raise InputError(
                f"the database has tables of version {found}, this genre_tf knows {SCHEMA_VERSION}: install "
                "a newer genre_tf, or give another --database"
            )

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            together = [first]
            with suppress(queue.Empty):
                while len(together) < _TOGETHER:
                    following = self._waiting.get_nowait()
                    if following is None:
                        self._waiting.put(None)
                        break
                    together.append(following)
            together = [(work, future) for work, future in together if future.set_running_or_notify_cancel()]
            if not self._commit(together) and len(together) > 1:
                for one in together:  # each for itself: one that fails must not fail the others
                    self._commit([one])

    def _commit(self, together: list[tuple[Work, "Future[Any]"]]) -> bool:
        try:
            with self._writer_engine.begin() as connection:
                writes = Writes(connection)
                results = [work(writes) for work, _ in together]
                writes.flush()
        except Exception as error:
            if len(together) == 1:
                together[0][1].set_exception(error)
            return False
        for (_, future), result in zip(together, results, strict=True):
            future.set_result(result)
        return True


def _engine(url: str, *, writes: bool = False) -> sa.Engine:
    try:
        parts = sa.make_url(url)
        if parts.get_backend_name() not in ("sqlite", "postgresql"):
            raise InputError(f"--database must be SQLite or PostgreSQL; got {_shown(url)}")
        if parts.get_backend_name() == "sqlite" and parts.database in (None, "", ":memory:"):
            raise InputError("--database must be a file, such as sqlite:///app.db: memory does not last")
        if parts.drivername == "postgresql":
            parts = parts.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parts, pool_pre_ping=parts.get_backend_name() == "postgresql")
    except (sa.exc.ArgumentError, ValueError):
        raise InputError(f"--database {_shown(url)} is not a URL such as sqlite:///app.db") from None
    except ImportError as error:
        raise InputError(
            f"the driver of {_shown(url)} is not installed ({error.name}): pip install it"
        ) from None
    if engine.dialect.name == "sqlite":
        _tune_sqlite(engine, writes)
    return engine


def _tune_sqlite(engine: sa.Engine, writes: bool) -> None:
    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin as said below, not by the driver's guess
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def begins(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _shown(url: str) -> str:
    """The URL without its password."""
    with suppress(sa.exc.ArgumentError):
        return sa.make_url(url).render_as_string()
    return "(not shown: it may have a password)"
