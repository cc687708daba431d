"""The sample of requests on disk: TensorFlow reads it, and a server replays it as warmup."""

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from genre_tf.errors import InputError
from genre_tf.serving.app import request_log
from genre_tf.serving.app.model_server import ModelServer, inputs, recommend_live
from genre_tf.serving.app.request_log import RequestLog
from genre_tf.serving.client.messages import PredictRequest, to_array

from .conftest import running

pytest.importorskip("google_crc32c", reason="google-crc32c is not installed: the extra genre-tf[app]")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tfrecord"))


def request(signature: str = "serving_default", rows: int = 2) -> Any:
    """A request to the toy model."""
    import numpy as np

    built = PredictRequest()
    built.ParseFromString(inputs({"x": np.ones(rows, np.float32)}))
    built.model_spec.name, built.model_spec.signature_name = "toy", signature
    built.model_spec.version_label = "stable"
    return built


def write(folder: Path, *requests: Any, share: float = 1.0) -> list[Path]:
    log = RequestLog(folder, share)
    for one in requests:
        log.offer(one, b"")
    log.close()
    return files(folder)


def test_what_the_model_server_was_asked_is_what_the_export_reads_back(models, server, tmp_path):
    from genre_tf.export.requests import read_warmup

    folder = tmp_path / "log"
    database = f"sqlite:///{tmp_path / 'a.db'}"
    with running(models, server.address, database, log_requests=folder, log_share=1.0) as app:
        app.click("reader-7", "N3")
        app.get("/v1/readers/reader-7/feed?k=3")
        app.post("/v1/ask", {"reader": "reader-7", "question": "Where?"})
        server.failing.add("recommend_live")
        app.get("/v1/readers/reader-7/feed?k=3")
    (file,) = files(folder)
    exchanges = read_warmup(file)
    assert [one.signature for one in exchanges] == ["recommend_live", "explain", "answer", "explain"]
    answered = [(name, told) for name, label, told, _ in server.asked if not label]
    assert answered.pop(3)[0] == "recommend_live"  # it failed
    for exchange, (name, told) in zip(exchanges, answered, strict=True):
        read = {
            key: [row.decode() if isinstance(row, bytes) else str(row) for row in rows]
            for key, rows in exchange.inputs.items()
        }
        assert (exchange.signature, read) == (name, told)
    assert exchanges[0].inputs["history"].tolist() == [b"N3"]
    assert b"reader-7" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_a_server_replays_a_file_as_warmup(toy_models, tmp_path, monkeypatch):
    from genre_tf.serving.embedded.manager import load_version
    from genre_tf.serving.embedded.servable import Servable

    ran: list[int] = []
    run = Servable.run

    def spy(self: Any, feeds: dict[str, Any], fetches: Any, api: str = "") -> list[Any]:
        ran.append(len(next(iter(feeds.values()))))
        return run(self, feeds, fetches, api)

    monkeypatch.setattr(Servable, "run", spy)
    version = tmp_path / "toy" / "1"
    shutil.copytree(toy_models / "toy" / "1", version)
    (version / "assets.extra").mkdir()
    (file,) = write(tmp_path / "log", request(rows=1), request(rows=4))
    shutil.copy(file, version / "assets.extra" / "tf_serving_warmup_requests")
    load_version("toy", 1, version).close()
    assert ran == [1, 4]


def test_records_are_those_of_tensorflow(tmp_path):
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    (file,) = write(tmp_path / "log", request(), request("other", rows=3))
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(tmp_path / "same")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "same").read_bytes() == file.read_bytes()
    told = PredictionLog.FromString(records[1]).predict_log.request
    spec = told.model_spec
    assert (spec.name, spec.signature_name, spec.version_label) == ("toy", "other", "")
    assert to_array(told.inputs["x"]).tolist() == [1.0] * 3


def test_files_rotate_by_records_and_by_size_and_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "MOST_FILES", 3)
    monkeypatch.setattr(request_log, "_MOST_WAITING", 10_000)
    folder = tmp_path / "log"
    for _ in range(2):
        write(folder, *[request()] * 1_001)
    assert len(files(folder)) == 3
    (folder / "notes.txt").write_text("not ours")
    size = max(file.stat().st_size for file in files(folder))  # of 1,000 records
    monkeypatch.setattr(request_log, "FILE_BYTES", size // 100)
    found = write(folder, *[request()] * 1_000)
    assert len(found) == 3 and (folder / "notes.txt").exists()
    assert all(file.stat().st_size <= size // 100 for file in found)


def test_a_share_is_a_share(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "_MOST_WAITING", 10_000)
    (file,) = write(tmp_path / "log", *[request(rows=1)] * 2_000, share=0.1)
    (one,) = write(tmp_path / "one", request(rows=1))
    assert 120 < file.stat().st_size / one.stat().st_size < 290


def test_large_requests_and_those_that_a_slow_disk_cannot_take_are_left_out(tmp_path, monkeypatch):
    assert write(tmp_path / "large", request(rows=2_000_000)) == []
    monkeypatch.setattr(request_log, "_MOST_WAITING", 2)
    slow = threading.Event()
    append = RequestLog._append
    monkeypatch.setattr(RequestLog, "_append", lambda self, record: (slow.wait(30), append(self, record))[1])
    log = RequestLog(tmp_path / "log", 1.0)
    for _ in range(50):
        log.offer(request(), b"")  # none waits for the disk
    slow.set()
    log.close()
    (one,) = write(tmp_path / "one", request())
    (file,) = files(tmp_path / "log")
    assert 1 <= file.stat().st_size / one.stat().st_size <= 3


def test_a_full_disk_leaves_whole_records_and_is_told_once(tmp_path, monkeypatch, caplog):
    log = RequestLog(tmp_path / "log", 1.0)
    whole = log._next_file()

    class Full:
        tell, seek, truncate, close = whole.tell, whole.seek, whole.truncate, whole.close
        left = 1

        def write(self, record: bytes) -> int:
            self.left -= 1
            return whole.write(record if self.left >= 0 else record[:-5])

    log._file = Full()  # type: ignore[assignment]
    with caplog.at_level("WARNING", "genre_tf.serving.app"):
        for _ in range(4):
            log.offer(request(), b"")
        log.close()
    assert [line.message for line in caplog.records] == ["requests are not logged: the disk is full"]
    (one,) = write(tmp_path / "one", request())
    assert files(tmp_path / "log")[0].read_bytes() == one.read_bytes()


def test_a_folder_that_is_gone_holds_up_no_request(server, tmp_path, caplog):
    log = RequestLog(tmp_path / "log", 1.0)
    (tmp_path / "log").rmdir()
    asked = ModelServer(server.address, request_log=log)
    call = recommend_live(["N1"])
    live = inputs(_live())
    assert asked.ask(call, 5.0, more=live).version == "genre_recommender/1"
    log.close()
    asked.close()
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert str(errno.ENOENT) in caplog.text


def _live() -> dict[str, Any]:
    from genre_tf.serving.client import calls

    found = calls.recommend_live([[]], [{"N2": [0.0] * 9}]).inputs
    return {name: value for name, value in found.items() if name != "history"}


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_wrong_share_is_refused(tmp_path, share):
    with pytest.raises(InputError, match="--log-share must be"):
        RequestLog(tmp_path, share)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RequestLog(tmp_path / "file", 0.5)


def test_without_its_package_the_option_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[app\]'"):
        RequestLog(tmp_path, 0.5)


def test_the_log_is_written_without_tensorflow(tmp_path):
    code = (
        "import sys; from pathlib import Path; from genre_tf.serving.app import running\n"
        "from genre_tf.serving.app.request_log import RequestLog\n"
        "from genre_tf.serving.client.messages import PredictRequest\n"
        f"log = RequestLog(Path({str(tmp_path)!r}), 1.0); log.offer(PredictRequest(), b''); log.close()\n"
        "assert not {'tensorflow', 'tensorflow_serving', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert len(files(tmp_path)) == 1
