import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from genre_tf import files
from genre_tf.errors import InputError
from genre_tf.export import publishing


def write_version(servable, text):
    with publishing.staged(servable) as folder:
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text(text)
        (folder / "saved_model.pb").write_text(text)
        return publishing.publish(folder)


def entries(servable):
    return sorted(entry.name for entry in servable.iterdir())


def test_versions_count_up_and_nothing_else_is_left(tmp_path):
    servable = tmp_path / "models" / "toy"
    assert [write_version(servable, text).name for text in "abc"] == ["1", "2", "3"]
    assert entries(servable) == ["1", "2", "3"]
    assert publishing.versions(servable) == [1, 2, 3]


def test_versions_are_compared_as_numbers(tmp_path):
    (tmp_path / "toy" / "9").mkdir(parents=True)
    (tmp_path / "toy" / "10").mkdir()
    assert write_version(tmp_path / "toy", "a").name == "11"


def test_an_export_that_fails_leaves_nothing(tmp_path):
    servable = tmp_path / "models" / "toy"
    with pytest.raises(RuntimeError), publishing.staged(servable) as folder:
        (folder / "saved_model.pb").write_text("half")
        raise RuntimeError("the graph would not build")
    assert not (tmp_path / "models").exists()


def test_exporters_at_the_same_time_get_different_versions(tmp_path):
    servable = tmp_path / "toy"
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda number: write_version(servable, str(number)), range(24)))
    assert sorted(int(version.name) for version in published) == list(range(1, 25))
    assert sorted(int((version / "saved_model.pb").read_text()) for version in published) == list(range(24))


def test_an_exporter_does_not_remove_the_work_of_a_living_one(tmp_path):
    with publishing.staged(tmp_path / "toy") as first:
        (first / "saved_model.pb").write_text("first")
        assert write_version(tmp_path / "toy", "second").name == "1"
        assert publishing.publish(first).name == "2"


def test_a_killed_exporter_leaves_no_version_and_is_cleaned_up_after(tmp_path):
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from genre_tf.export import publishing
        with publishing.staged(Path(sys.argv[1])) as folder:
            (folder / "saved_model.pb").write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    servable = tmp_path / "toy"
    child = subprocess.Popen([sys.executable, "-c", program, servable], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = entries(servable)
    assert publishing.versions(servable) == []
    assert len(left) == 2 and left[0].startswith(".") and left[1] == f"{left[0]}.lock"
    time.sleep(0.01)
    write_version(servable, "whole")
    assert entries(servable) == ["1"]


def test_what_has_no_lock_is_abandoned_and_a_lock_alone_too(tmp_path):
    servable = tmp_path / "toy"
    (servable / ".unfinished-1").mkdir(parents=True)
    (servable / ".unfinished-1" / "saved_model.pb").write_text("half")
    (servable / ".unfinished-2.lock").write_text("")
    write_version(servable, "whole")
    assert entries(servable) == ["1"]


def test_a_lock_that_was_removed_before_it_was_had_holds_nothing(tmp_path, monkeypatch):
    file, flock = tmp_path / "some.lock", files.fcntl.flock

    def removed_meanwhile(descriptor, operation):
        file.unlink()
        flock(descriptor, operation)

    with monkeypatch.context() as patched:
        patched.setattr(files.fcntl, "flock", removed_meanwhile)
        assert files.hold(file, create=True) is None
    held = files.hold(file, create=True)
    assert held is not None and files.hold(file, wait=False) is None
    os.close(held)
    assert files.hold(tmp_path / "absent.lock") is None


def test_a_folder_of_somebody_else_is_wrong_input_and_not_tried_for_ever(tmp_path, monkeypatch):
    really = os.open

    def refuse(file, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return really(file, flags, *mode)

    monkeypatch.setattr(files.os, "open", refuse)  # root, who may run this, may write everywhere
    with pytest.raises(InputError, match=r"Permission denied.*give a writable folder"):
        write_version(tmp_path / "toy", "whole")
    (tmp_path / "theirs.lock").write_text("")
    held = files.hold(tmp_path / "theirs.lock", create=True)
    assert held is not None
    os.close(held)


def test_a_disk_without_locks_is_wrong_input_and_nothing_is_left(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"No locks available.*supports file locks"):
        write_version(tmp_path / "models" / "toy", "whole")
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_wrong_input(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="give a writable folder"),
        publishing.staged(tmp_path / "file" / "toy"),
    ):
        pass
