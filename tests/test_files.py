"""A file is written completely, or stays as it was."""

from pathlib import Path

import pytest

from genre_tf.errors import FailureError
from genre_tf.files import whole_file


def test_a_file_is_replaced_once_all_of_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with whole_file(file) as part:
        part.write_text("half")
        assert not file.exists()
    assert [path.read_text() for path in file.parent.iterdir()] == ["half"]


def test_whatever_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    for error, seen in ((ValueError("bad"), ValueError), (OSError(28, "No space left"), FailureError)):
        with (
            pytest.raises(seen, match=r"bad|file could not be written: .*No space left"),
            whole_file(file) as part,
        ):
            part.write_text("half")
            raise error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
