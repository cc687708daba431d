"""Any runner writes the bytes that one process writes, and says the same where the data are wrong."""

import gzip
import random

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install 'genre-tf[beam]'")

from genre_tf.data import preparing
from genre_tf.data.beam import prepare as beam_prepare
from genre_tf.data.beam.runners import Runner
from genre_tf.data.preparing import prepare
from genre_tf.errors import FailureError, InputError
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

DIRECT = Runner("DirectRunner")
GOOD = "1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0"


@pytest.fixture(scope="module")
def newsroom(tmp_path_factory):
    """A log out of the order of time, with many impressions in one second, as no live log would be."""
    data = tmp_path_factory.mktemp("beam") / "newsroom"
    write_newsroom(
        data, NewsroomSettings(articles=120, readers=30, days=3, impressions=240, seed=3, signals=True)
    )
    log = data / "train" / "behaviors.tsv"
    rows = [row.split("\t") for row in log.read_text("utf-8").splitlines()]
    for row in rows:
        day, clock, half = row[2].split(" ")
        row[2] = f"{day} {clock.split(':')[0]}:00:0{int(clock[-2:]) % 2} {half}"
    random.Random(5).shuffle(rows)
    log.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")
    return data


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Lines are cut by range ends everywhere."""
    monkeypatch.setattr(beam_prepare, "RANGE_BYTES", 2000)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def both(data, tmp_path, runner=DIRECT, **settings):
    """What one process and a runner write of the same data."""
    prepare(data, tmp_path / "local", **settings)
    prepare(data, tmp_path / "beam", runner=runner, **settings)
    return files_of(tmp_path / "local"), files_of(tmp_path / "beam")


def test_every_line_is_read_once_wherever_ranges_end(tmp_path, monkeypatch):
    log = tmp_path / "behaviors.tsv"
    log.write_bytes(b"one\n\n three words here\r\nfour\n" + b"five " * 9 + b"\nsix\nlast")
    for size in range(1, log.stat().st_size + 2):
        monkeypatch.setattr(beam_prepare, "RANGE_BYTES", size)
        ranges = beam_prepare.byte_ranges(log.stat().st_size, gzipped=False)
        raw = [line for part in ranges for line, _ in beam_prepare.range_lines(str(log), part)]
        lines = [line.decode().rstrip("\r\n") for line in raw]
        assert lines == ["one", "", " three words here", "four", "five " * 9, "six", "last"], size


@pytest.mark.parametrize(("shards", "share"), [(1, 0.0), (3, 0.3)])
def test_a_runner_writes_the_bytes_of_one_process(newsroom, tmp_path, monkeypatch, shards, share):
    for module in (preparing, beam_prepare):
        monkeypatch.setattr(module, "SHARD_IMPRESSIONS", 200 if shards == 1 else 70)
    local, beam = both(newsroom, tmp_path, validation_share=share, max_history=4)
    assert len(local) == 3 + shards
    assert list(beam) == list(local)
    assert [name for name in local if beam[name] != local[name]] == []
    assert b'"signals": true' in local["manifest.json"]


def test_ages_of_published_articles_are_those_of_one_process(newsroom, tmp_path):
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    log = (newsroom / "train" / "behaviors.tsv").read_bytes()
    (folder / "behaviors.tsv").write_bytes(log)
    rows = (newsroom / "train" / "news.tsv").read_text("utf-8").splitlines()
    times = ["\t", "\t2025-03-01T10:30:00", "\t2025-03-04T10:30:00", "\t2025-03-09T10:30:00"]
    news = [row + times[number % 4] for number, row in enumerate(rows)]
    unseen = rows[0].replace(rows[0].split("\t")[0], "Nunseen", 1) + "\t2025-03-01T10:30:00"
    (folder / "news.tsv").write_text("\n".join([*news, unseen]) + "\n", "utf-8")
    local, beam = both(tmp_path / "data", tmp_path)
    assert beam == local
    prepare(newsroom, tmp_path / "without")
    assert local["counters.npz"] != files_of(tmp_path / "without")["counters.npz"]


def test_a_gzipped_log_and_results_by_way_of_temp_location(newsroom, tmp_path):
    data, temporary = tmp_path / "data" / "train", tmp_path / "temporary"
    data.mkdir(parents=True)
    (data / "news.tsv").write_bytes((newsroom / "train" / "news.tsv").read_bytes())
    (data / "behaviors.tsv.gz").write_bytes(
        gzip.compress((newsroom / "train" / "behaviors.tsv").read_bytes())
    )
    runner = Runner("DirectRunner", (f"temp_location={temporary}",))
    local, beam = both(tmp_path / "data", tmp_path, runner)
    assert beam == local
    assert list(temporary.iterdir()) == []


def test_bad_rows_are_skipped_and_listed_alike(write_split, tmp_path, monkeypatch):
    monkeypatch.setattr(beam_prepare, "RANGE_BYTES", 60)  # nearly every row is a range of its own
    rows = [
        b"1\tU1\tnever\tN1\tN3-1",
        b"2\tU2\t11/9/2019 9:00:00 AM\tN1\tN3 N4",  # usable by itself: the log has no labels before it
    ]
    unlabelled = write_split(behaviors=b"\n".join(rows))
    for runner in (None, DIRECT):
        with pytest.raises(InputError, match="no clicks to learn from"):
            prepare(unlabelled, tmp_path / "out", max_bad_rows=1, runner=runner)
    rows = [
        b"\xef\xbb\xbf1\tU1\tnever\tN1\tN3 N4",  # its id stays free, and no log before it has labels
        GOOD.encode(),
        b"2\tU2\t11/9/2019 8:00:00 AM\tN1\tN3 N4",  # no labels, after rows that have them
        b"3\tU2\t11/9/2019 10:00:00 AM\t\tN3-0 N4-1 N5-0\r",
        b"1\tU3\t11/9/2019 11:00:00 AM\tN5\tN1-1 N2-0",  # its id stood before
        b"1\tU3\t11/9/2019 11:00:00 AM\tN5 N99 N98\tN1-0 N1-0",  # and more is wrong with this one
        b"",
        b"x\ty",
        b"4\tU\xff\t11/9/2019 11:00:00 AM\tN5\tN1-1 N2-0",
        b"3\tU\0\t11/9/2019 11:00:00 AM\tN5\tN1-1 N2-0",
        b"5\tU4\t11/9/2019 11:00:00 AM\tN5\tN1-1 N2-0",
        b"6 6\tU4\t11/9/2019 11:00:00 AM\tN5\tN1-1 N2-0",
        b"4\tU4\t11/9/2019 9:00:00 AM\tN5 N2\tN1-1 N2-0 N3-0",
        b"7\tU4\t11/9/2019 9:00:00 AM\tN5\tN1-1 N2-0\tN5:dwell=9",  # signals, after rows without
        b"8\tU4\t11/9/2019 9:30:00 AM\tN5\tN1-0 N2-0",  # nothing was clicked, which is no fault
    ]
    local, beam = both(write_split(behaviors=b"\n".join(rows)), tmp_path, max_bad_rows=10)
    assert beam == local
    assert b'"bad_rows": 10' in local["manifest.json"]


@pytest.mark.parametrize(
    ("behaviors", "max_bad_rows", "share"),
    [
        (["x", GOOD, "2\tU1\tnever\tN77\tN3-1"], 1, 0.0),
        (b"", 0, 0.0),
        ([GOOD], 0, 0.9),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_in_the_same_words(
    write_split, tmp_path, behaviors, max_bad_rows, share
):
    data, told = write_split(behaviors=behaviors), []
    for runner in (None, DIRECT):
        with pytest.raises(InputError) as error:
            prepare(
                data,
                tmp_path / "a" / "out",
                max_bad_rows=max_bad_rows,
                validation_share=share,
                runner=runner,
            )
        told.append(str(error.value))
    assert told[0] == told[1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_broken_gz_is_refused_in_the_same_words(write_split, tmp_path):
    data, told = write_split(), []
    log = data / "train" / "behaviors.tsv"
    log.with_name("behaviors.tsv.gz").write_bytes(gzip.compress(log.read_bytes())[:-20])
    log.unlink()
    for runner in (None, DIRECT):
        with pytest.raises(InputError, match="cannot be decompressed") as error:
            prepare(data, tmp_path / "out", runner=runner)
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        (Runner("NoRunner"), "Unexpected pipeline runner: NoRunner"),
        (Runner("DirectRunner", ("direct_num_workers=many",)), "invalid int value: 'many'$"),
        (Runner("DirectRunner", ("direct_number_of_workers=2",)), "no option 'direct_number_of_workers'"),
        (
            Runner("DirectRunner", ("temp_location=nowhere://bucket",)),
            "cannot reach temp_location nowhere://",
        ),
    ],
)
def test_what_beam_does_not_know_is_told(write_split, tmp_path, runner, message):
    with pytest.raises(InputError, match=message):
        prepare(write_split(), tmp_path / "out", runner=runner)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_pipeline_that_fails_leaves_nothing(write_split, tmp_path, monkeypatch):
    def full_disk(folder, name, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genre_tf.data.beam.prepare.write_whole", full_disk)
    with pytest.raises(FailureError, match="No space left"):
        prepare(write_split(), tmp_path / "out", runner=DIRECT)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
