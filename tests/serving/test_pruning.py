"""`genre prune`: old versions go, and no version that is needed."""

import json
from pathlib import Path

import pytest

from genre_tf.cli.versions import prune as prune_verb
from genre_tf.errors import FailureError, InputError
from genre_tf.export import publishing
from genre_tf.export.models_config import edited
from genre_tf.export.publishing import versions
from genre_tf.serving.operations.version_choice import prune

NAME = "genre_recommender"


def add_version(models: Path, version: int, name: str = NAME) -> Path:
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    return folder


def configure(models: Path, *, listed: list[int] | None = None, labels: dict[str, int] | None = None) -> None:
    with edited(models) as config:
        entry = config.model_config_list.config.add(name=NAME, base_path=str(models / NAME))
        entry.model_version_policy.latest.num_versions = 1
        if listed is not None:
            entry.model_version_policy.specific.versions.extend(listed)
        for label, version in (labels or {}).items():
            entry.version_labels[label] = version


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for version in range(1, 9):
        add_version(tmp_path, version)
    return tmp_path


def test_the_newest_stay(models: Path) -> None:
    configure(models)
    (done,) = prune(models, 3)
    assert (done.removed, list(done.kept)) == ([1, 2, 3, 4, 5], [6, 7, 8])
    assert sorted(entry.name for entry in (models / NAME).iterdir()) == ["6", "7", "8", "models.config"]


def test_what_is_served_or_has_a_label_stays(models: Path) -> None:
    configure(models, listed=[2, 4, 99], labels={"stable": 2, "canary": 5})
    (done,) = prune(models, 1)
    assert done.removed == [1, 3, 6, 7]
    assert done.kept == {
        2: "label stable",
        4: "listed in the version policy",
        5: "label canary",
        8: "among the newest 1",
    }


def test_every_version_stays_where_the_policy_loads_all(models: Path) -> None:
    configure(models)
    with edited(models) as config:
        config.model_config_list.config[0].model_version_policy.all.SetInParent()
    assert prune(models, 1)[0].removed == []


def test_broken_versions_do_not_count_among_those_kept(models: Path) -> None:
    (models / NAME / "8" / "saved_model.pb").unlink()
    (models / NAME / "3" / "saved_model.pb").unlink()
    (done,) = prune(models, 2)
    assert (list(done.kept), done.removed) == ([6, 7, 8], [1, 2, 3, 4, 5])


def test_without_a_configuration_each_folder_is_pruned(models: Path) -> None:
    for version in (1, 2):
        add_version(models, version, "other")
    assert [(one.model, one.removed) for one in prune(models, 1)] == [
        (NAME, list(range(1, 8))),
        ("other", [1]),
    ]
    assert prune(models, 1, name="other")[0].removed == []


def test_a_dry_run_removes_nothing(models: Path) -> None:
    (done,) = prune(models, 2, dry_run=True)
    assert done.removed == [1, 2, 3, 4, 5, 6] and versions(models / NAME) == list(range(1, 9))


def test_a_version_is_hidden_before_the_first_file_goes(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def refuse(folder: Path) -> None:
        seen.append((folder.name, versions(models / NAME)))
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(publishing.shutil, "rmtree", refuse)
        with pytest.raises(FailureError, match="cannot remove version 1"):
            publishing.remove_version(models / NAME, 1)
    assert seen[0][0].startswith(".removed-1-") and seen[0][1] == list(range(2, 9))
    assert prune(models, 8)[0].removed == []
    assert not list((models / NAME).glob(".*")), "the next one takes away what was left"


def test_the_work_of_a_living_exporter_stays(models: Path) -> None:
    with publishing.staged(models / NAME) as staging:
        (staging / "saved_model.pb").write_bytes(b"half")
        prune(models, 1)
        assert (staging / "saved_model.pb").exists()


def test_wrong_input(models: Path) -> None:
    with pytest.raises(
        InputError, match="--keep must be at least 1, as the newest version is always kept; got 0"
    ):
        prune(models, 0)
    with pytest.raises(InputError, match="no servable 'other'"):
        prune(models, 1, name="other")
    with pytest.raises(InputError, match="no folder of models"):
        prune(models / "none", 1)


def test_the_verb(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune_verb(models, keep=7, dry_run=True)
    assert "would remove 1" in capsys.readouterr().out
    prune_verb(models, keep=7, json=True)
    assert json.loads(capsys.readouterr().out)["servables"][0]["removed"] == [1]
    assert versions(models / NAME) == list(range(2, 9))
