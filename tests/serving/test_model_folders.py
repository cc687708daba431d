"""Which versions of a MODELS folder are served, and what is said of the others."""

import shutil
from pathlib import Path

import pytest

from genre_tf.errors import InputError
from genre_tf.export.models_config import (
    edited,
    find_models,
    read_models_config,
    scan_models,
    version_fault,
)
from genre_tf.export.server_config import write_configuration
from genre_tf.serving.operations.model_server import LocalConfig
from genre_tf.serving.operations.version_choice import prune


def make_version(folder: Path, shards: int = 1, promised: int = 1) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    for shard in range(shards):
        (folder / "variables" / f"variables.data-{shard:05}-of-{promised:05}").write_bytes(b"data")
    return folder


def configure(models: Path, body: str) -> None:
    (models / "models.config").write_text("model_config_list { config { " + body + " } }")


def test_all_complete_versions_are_found_newest_first(tmp_path: Path) -> None:
    for version in ("2", "10", "1"):
        make_version(tmp_path / "news" / version)
    (tmp_path / "news" / "11.tmp").mkdir()
    (tmp_path / "empty").mkdir()
    (model,) = find_models(tmp_path)
    assert (model.name, list(model.versions)) == ("news", [10, 2, 1])


def test_half_written_versions_are_left_out_with_the_reason(tmp_path: Path) -> None:
    make_version(tmp_path / "news" / "1")
    (tmp_path / "news" / "2").mkdir()
    make_version(tmp_path / "news" / "3", shards=1, promised=2)
    (model,) = find_models(tmp_path)
    assert list(model.versions) == [1]
    assert sorted(model.left_out.values()) == [
        f"{tmp_path / 'news' / '3' / 'variables'} has 1 of 2 shards",
        "saved_model.pb is missing",
    ]


def test_each_missing_part_is_a_fault(tmp_path: Path) -> None:
    folder = make_version(tmp_path / "1")
    assert version_fault(folder) is None
    (folder / "variables" / "variables.index").unlink()
    assert "half-written" in str(version_fault(folder))
    (folder / "saved_model.pb").write_bytes(b"")
    assert version_fault(folder) == "saved_model.pb is empty"


def test_a_model_without_variables_is_complete(tmp_path: Path) -> None:
    folder = make_version(tmp_path / "1")
    shutil.rmtree(folder / "variables")
    assert version_fault(folder) is None


def test_only_half_written_versions_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "news" / "1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"model news .* no complete version .*saved_model.pb is missing"):
        find_models(tmp_path)


def test_a_configuration_serves_the_newest_version_unless_it_says_more(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        make_version(tmp_path / "news" / version)
    configure(tmp_path, f'name: "news" base_path: "{tmp_path}/news"')
    assert list(find_models(tmp_path)[0].versions) == [3]
    configure(tmp_path, 'name: "news" base_path: "/models/news" model_version_policy { all {} }')
    assert list(find_models(tmp_path)[0].versions) == [3, 2, 1]
    policy = "model_version_policy { specific { versions: 1 versions: 3 } }"
    label = 'version_labels { key: "stable" value: 1 }'
    configure(tmp_path, f'name: "news" base_path: "/models/news" {policy} {label}')
    model = find_models(tmp_path)[0]
    assert (list(model.versions), model.labels) == ([3, 1], {"stable": 1})


def test_a_newest_version_that_is_half_written_leaves_the_one_before(tmp_path: Path) -> None:
    make_version(tmp_path / "news" / "1")
    (tmp_path / "news" / "2").mkdir()
    configure(tmp_path, f'name: "news" base_path: "{tmp_path}/news"')
    assert list(find_models(tmp_path)[0].versions) == [1]


def test_half_written_versions_older_than_the_newest_are_nobodys_concern(tmp_path: Path) -> None:
    (tmp_path / "news" / "1").mkdir(parents=True)
    make_version(tmp_path / "news" / "2")
    (tmp_path / "news" / "3").mkdir()
    configure(tmp_path, f'name: "news" base_path: "{tmp_path}/news"')
    assert list(find_models(tmp_path)[0].left_out) == [tmp_path / "news" / "3"]


def test_a_scan_reports_what_a_server_could_not_start_from(tmp_path: Path) -> None:
    (tmp_path / "news" / "1").mkdir(parents=True)
    configure(tmp_path, 'name: "news" base_path: "/models/news" version_labels { key: "stable" value: 7 }')
    (model,) = scan_models(tmp_path)
    assert (model.versions, model.labels) == ({}, {"stable": 7})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            'name: "news" base_path: "/nowhere/news" version_labels { key: "stable" value: 7 }',
            "label stable .* version 7, which is not served",
        ),
        ('name: "other" base_path: "/nowhere/other"', "no folder for model other"),
        ('name: "news" nonsense: 3', "is not a valid ModelServerConfig"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_an_error(tmp_path: Path, body: str, words: str) -> None:
    make_version(tmp_path / "news" / "1")
    configure(tmp_path, body)
    with pytest.raises(InputError, match=words):
        find_models(tmp_path)


def test_a_copy_of_a_folder_is_served_and_pruned_by_itself(tmp_path: Path) -> None:
    original, copy = tmp_path / "models", tmp_path / "models2"
    for version in ("1", "2", "3"):
        make_version(original / "news" / version)
    write_configuration(original, ["news"])
    shutil.copytree(original, copy)
    assert list(find_models(copy)[0].versions.values()) == [copy / "news" / "3"]
    config = LocalConfig(copy, tmp_path / "scratch.config", print)
    assert f'base_path: "{copy}/news"' in config.file.read_text()
    assert prune(copy, 1)[0].removed == [1, 2]
    assert sorted(entry.name for entry in (copy / "news").iterdir() if entry.is_dir()) == ["3"]
    assert sorted(entry.name for entry in (original / "news").iterdir() if entry.is_dir()) == ["1", "2", "3"]


def test_the_server_of_a_copy_follows_edits_of_its_models_config(tmp_path: Path) -> None:
    copy, file, said = tmp_path / "models2", tmp_path / "scratch.config", list[str]()
    for version in ("1", "2"):
        make_version(tmp_path / "models" / "news" / version)
    write_configuration(tmp_path / "models", ["news"])
    shutil.copytree(tmp_path / "models", copy)
    corrected = LocalConfig(copy, file, said.append)
    with edited(copy) as config:  # as `genre rollback` and `genre label` do
        config.model_config_list.config[0].model_version_policy.specific.versions.append(1)
        config.model_config_list.config[0].version_labels["stable"] = 1
    corrected.follow()
    entry = read_models_config(file).model_config_list.config[0]
    assert (entry.base_path, list(entry.model_version_policy.specific.versions)) == (f"{copy}/news", [1])
    assert dict(entry.version_labels) == {"stable": 1}
    followed = file.read_text()
    (copy / "models.config").write_text("model_config_list { config {")
    corrected.follow()
    corrected.follow()
    assert file.read_text() == followed
    assert len(said) == 1 and "is not a valid ModelServerConfig" in said[0]


def test_a_model_that_lives_elsewhere_is_found_at_its_path(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    make_version(tmp_path / "elsewhere" / "news" / "1")
    configure(models, f'name: "news" base_path: "{tmp_path}/elsewhere/news"')
    assert list(find_models(models)[0].versions.values()) == [tmp_path / "elsewhere" / "news" / "1"]


def test_folders_without_models_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_models(tmp_path / "none")
    with pytest.raises(InputError, match="holds no model"):
        find_models(tmp_path)
    make_version(tmp_path / "news" / "1")
    with pytest.raises(InputError, match=f"did you mean its parent, {tmp_path}"):
        find_models(tmp_path / "news")
