"""What the operating system refuses is said in a line, without a traceback."""

import pytest

from genre_tf.data import checking

from .conftest import Genre


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (IsADirectoryError(21, "Is a directory", "mind/news.tsv"), 2, "mind/news.tsv: Is a directory"),
        (PermissionError(13, "Permission denied", "/private/mind"), 2, "/private/mind: Permission denied"),
        (OSError(28, "No space left on device", "run/config.toml"), 1, "No space left on device: free disk"),
        (OSError("something else"), 1, "genre: something else"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_the_reason(genre: Genre, monkeypatch, error, status, said):
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(checking, "check_data", refused)
    found = genre("check", "mind")
    assert found.returncode == status and not found.stdout
    assert said in found.stderr and "Traceback" not in found.stderr


def test_a_folder_in_the_place_of_a_file_is_named(genre: Genre, tmp_path):
    (tmp_path / "train" / "behaviors.tsv").mkdir(parents=True)
    (tmp_path / "train" / "news.tsv").write_text("N1\tnews\tworld\tSnow\t\t\t[]\t[]\n")
    found = genre("prepare", tmp_path, tmp_path / "out")
    assert found.returncode == 2 and "behaviors.tsv: Is a directory" in found.stderr
    assert not (tmp_path / "out").exists()
