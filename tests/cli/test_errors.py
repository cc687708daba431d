"""What the operating system refuses is said in a line, without a traceback."""

import pytest
import tensorflow as tf

from genre_tf.data import checking
from genre_tf.errors import FailureError, InputError
from genre_tf.export.publishing import check_models_path

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


@pytest.mark.parametrize(("error", "status"), [(InputError("wrong"), 2), (FailureError("failed"), 1)])
def test_wrong_input_and_failed_work_have_a_line_and_a_status_of_their_own(
    genre: Genre, monkeypatch, error, status
):
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(checking, "check_data", refused)
    found = genre("check", "mind")
    assert (found.returncode, found.stderr) == (status, f"genre: {error}\n")


def test_a_folder_in_the_place_of_a_file_is_named(genre: Genre, tmp_path):
    (tmp_path / "train" / "behaviors.tsv").mkdir(parents=True)
    (tmp_path / "train" / "news.tsv").write_text("N1\tnews\tworld\tSnow\t\t\t[]\t[]\n")
    found = genre("prepare", tmp_path, tmp_path / "out")
    assert found.returncode == 2 and "behaviors.tsv: Is a directory" in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["exp [lr=1e-3], v:2", "back\\slash"])
@pytest.mark.parametrize("verb", [("export", "run"), ("verify",), ("serve",), ("refresh",), ("demo",)])
def test_a_folder_from_which_tensorflow_loads_no_model_is_refused_at_once(genre: Genre, tmp_path, verb, name):
    (tmp_path / name).mkdir()
    found = genre(*verb, tmp_path / name / "models")
    assert found.returncode == 2 and "as a file pattern: give a folder for the models" in found.stderr
    assert not list((tmp_path / name).iterdir())


def test_the_refused_folders_are_those_from_which_tensorflow_loads_no_model(tmp_path):
    """Commas, colons, blanks, lone brackets, * and ? stand for themselves."""
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    for name in ("a [b]", "a\\b", "exp [lr", "exp lr]", "a, v:2", "a*b", "a?b", "a{b}"):
        tf.saved_model.save(module, str(tmp_path / name))
        try:
            tf.saved_model.load(str(tmp_path / name))
        except (FileNotFoundError, ValueError, tf.errors.OpError):
            with pytest.raises(InputError, match="as a file pattern"):
                check_models_path(tmp_path / name)
        else:
            check_models_path(tmp_path / name)
