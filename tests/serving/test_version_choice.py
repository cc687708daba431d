"""`genre rollback` and `genre label`: what models.config says, and that a running server takes it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genre_tf.cli.versions import label as label_verb
from genre_tf.cli.versions import rollback as rollback_verb
from genre_tf.errors import FailureError, InputError
from genre_tf.export.models_config import chosen_versions, find_models, read_models_config
from genre_tf.export.publishing import versions
from genre_tf.export.server_config import write_configuration
from genre_tf.serving.operations.version_choice import (
    follow_newest,
    held_back,
    remove_label,
    roll_back,
    served_version,
    set_label,
)

NAME = "genre_recommender"


def add_version(models: Path, version: int) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    folder = models / NAME / str(version)
    (folder / "variables").mkdir(parents=True)
    model = saved_model_pb2.SavedModel()
    model.meta_graphs.add().meta_info_def.tags.append("serve")
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Versions 1 to 4; the newest is served, as after an export."""
    for version in range(1, 5):
        add_version(tmp_path, version)
    write_configuration(tmp_path, [NAME])
    return tmp_path


def entry(models: Path) -> Any:
    return read_models_config(models / "models.config").model_config_list.config[0]


class RunningServer:
    """What ServerCore::ReloadConfig of tensorflow/serving does with one model, polling its file."""

    def __init__(self, models: Path) -> None:
        self.models, self.loaded, self.labels = models, set[int](), dict[str, int]()
        self.poll()

    def poll(self) -> None:
        config = entry(self.models)
        for name, version in config.version_labels.items():
            moved = self.labels.get(name, version) != version
            assert not moved or version in self.loaded, f"label {name} moves to {version}, not available"
        self.labels = dict(config.version_labels)
        self.loaded = set(chosen_versions(config, versions(self.models / NAME)))

    def answer(self, name: str | None = None) -> int:
        version = max(self.loaded) if name is None else self.labels[name]
        assert version in self.loaded
        return version


def test_a_rollback_holds_when_a_newer_version_is_exported(models: Path) -> None:
    server = RunningServer(models)
    assert server.answer() == 4
    choice = roll_back(models, NAME)
    assert (choice.loaded, choice.default, choice.newest_follow, choice.waits_for) == ([3], 3, False, None)
    add_version(models, 5)
    write_configuration(models, [NAME])  # what `genre export` does
    server.poll()
    assert server.answer() == 3
    assert list(find_models(models)[0].versions) == [3]  # the embedded server's view
    assert roll_back(models, NAME).default == 2
    assert roll_back(models, NAME, 5).default == 5


def test_a_version_that_no_server_will_load_is_told_with_the_remedy(models: Path) -> None:
    newest = models / NAME / "4"
    assert held_back(newest) is None
    roll_back(models, NAME, 2)
    told = str(held_back(newest))
    assert "version 4 is not served" in told and "limits servers to version 2" in told
    assert told.endswith(f"genre rollback {models} {NAME} --to latest")
    assert held_back(models / NAME / "2") is None
    set_label(models, NAME, "stable", 2)
    assert str(held_back(newest)).endswith(f"genre label {models} {NAME} stable 4 --load")
    assert held_back(models / "unlisted" / "1") is None
    (models / "models.config").unlink()
    assert held_back(newest) is None


def test_the_newest_is_followed_again_when_asked_for(models: Path) -> None:
    roll_back(models, NAME, 2)
    choice = follow_newest(models, NAME)
    assert (choice.loaded, choice.newest_follow) == ([4], True)
    add_version(models, 5)
    server = RunningServer(models)
    assert server.answer() == 5


def test_a_rollback_skips_broken_versions(models: Path) -> None:
    (models / NAME / "3" / "variables" / "variables.data-00000-of-00001").unlink()
    assert roll_back(models, NAME).default == 2


def test_labels_of_newer_versions_move_once_the_version_is_loaded(models: Path) -> None:
    set_label(models, NAME, "stable", 4)
    set_label(models, NAME, "old", 2, load=True)
    server = RunningServer(models)
    choice = roll_back(models, NAME, 3)
    assert (choice.waits_for, choice.loaded, choice.labels) == (3, [2, 3, 4], {"old": 2, "stable": 4})
    server.poll()
    assert server.answer("stable") == 4
    choice = roll_back(models, NAME, 3)
    assert (choice.waits_for, choice.loaded, choice.labels) == (None, [2, 3], {"old": 2, "stable": 3})
    server.poll()
    assert (server.answer(), server.answer("stable"), server.answer("old")) == (3, 3, 2)


def test_one_step_would_be_refused_by_a_running_server(models: Path) -> None:
    set_label(models, NAME, "stable", 4)
    server = RunningServer(models)
    text = (models / "models.config").read_text()
    (models / "models.config").write_text(text.replace("4", "3"))
    with pytest.raises(AssertionError, match="not available"):
        server.poll()


def test_a_canary_beside_a_stable_version(models: Path) -> None:
    choice = set_label(models, NAME, "stable", 4)
    assert (choice.loaded, choice.newest_follow) == ([4], False)
    add_version(models, 5)
    server = RunningServer(models)
    with pytest.raises(InputError, match=r"load version 4 .*not 5.*--load"):
        set_label(models, NAME, "canary", 5)
    assert set_label(models, NAME, "canary", 5, load=True).loaded == [4, 5]
    server.poll()
    assert (server.answer("stable"), server.answer("canary")) == (4, 5)
    assert set_label(models, NAME, "stable", 5).labels == {"canary": 5, "stable": 5}
    server.poll()
    assert remove_label(models, NAME, "canary").labels == {"stable": 5}
    server.poll()
    assert server.answer("stable") == 5


def test_a_label_in_use_moves_to_an_unloaded_version_in_two_steps(models: Path) -> None:
    set_label(models, NAME, "stable", 4)
    server = RunningServer(models)
    choice = set_label(models, NAME, "stable", 3, load=True)
    assert (choice.waits_for, choice.labels, choice.loaded) == (3, {"stable": 4}, [3, 4])
    server.poll()
    assert set_label(models, NAME, "stable", 3).labels == {"stable": 3}
    server.poll()
    assert server.answer("stable") == 3


def test_a_policy_of_all_versions_stays(models: Path) -> None:
    text = (models / "models.config").read_text()
    start, end = text.index("latest {"), text.index("}", text.index("latest {"))
    (models / "models.config").write_text(text[:start] + "all { }" + text[end + 1 :])
    choice = set_label(models, NAME, "canary", 1)
    assert (choice.loaded, choice.newest_follow) == ([1, 2, 3, 4], True)
    assert roll_back(models, NAME, 3).loaded == [1, 3]  # 1 for its label


def test_what_no_server_could_serve_is_refused_and_nothing_changes(models: Path) -> None:
    before = (models / "models.config").read_text()
    (models / NAME / ".unfinished-1").mkdir()
    (models / NAME / "2" / "saved_model.pb").write_bytes(b"\xff\xff\xff no protobuf")
    for action, words in [
        (lambda: roll_back(models, NAME, 9), r"no version 9 .*published: 1, 2, 3, 4"),
        (lambda: roll_back(models, NAME, 2), "damaged"),
        (lambda: set_label(models, NAME, "stable", 9), "no version 9"),
        (lambda: set_label(models, NAME, "no label/..", 4), "letters, digits"),
        (lambda: set_label(models, "other", "stable", 4), r"no servable 'other' .*lists: genre_recommender"),
        (lambda: remove_label(models, NAME, "stable"), "no label 'stable'"),
        (lambda: roll_back(models / "none", NAME), "no folder of models"),
    ]:
        with pytest.raises(InputError, match=words):
            action()
    (models / NAME / "3" / "saved_model.pb").unlink()
    with pytest.raises(InputError, match="broken"):
        roll_back(models, NAME, 3)
    assert (models / "models.config").read_text() == before
    assert not list(models.glob(".models*"))


def test_a_chosen_version_that_is_gone_from_the_disk_can_be_left(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_label(models, NAME, "stable", 4)
    shutil.rmtree(models / NAME / "4")
    label_verb(models, NAME, "stable", remove=True)
    assert "loaded none; requests without a label get none" in capsys.readouterr().out
    assert served_version(models, NAME) is served_version(models, "unlisted") is None
    assert roll_back(models, NAME).loaded == [3] == [served_version(models, NAME)]


def test_without_an_earlier_version_there_is_nothing_to_go_back_to(models: Path) -> None:
    roll_back(models, NAME, 1)
    with pytest.raises(InputError, match="no valid version before 1"):
        roll_back(models, NAME)


def test_labels_keep_the_newest_from_being_followed(models: Path) -> None:
    set_label(models, NAME, "stable", 4)
    with pytest.raises(InputError, match=r"stable = 4.*--remove"):
        follow_newest(models, NAME)


def test_comments_of_people_stay_and_ours_are_written_anew(models: Path) -> None:
    file = models / "models.config"
    text = file.read_text()
    assert "#: genre_recommender: the newest version" in text
    file.write_text(
        "# on call: ask the newsroom first\n" + text.replace("  config {", "  config {  \n# mine")
    )
    roll_back(models, NAME, 3)
    text = file.read_text()
    assert "# on call: ask the newsroom first" in text and "# mine" in text
    assert text.count("#:") == 2  # one of the header, which explains them, and one of the policy
    assert "only version 3;" in text and "the newest version;" not in text
    roll_back(models, NAME, 2)
    assert file.read_text().count("# mine") == 1


def test_containers_see_the_same_choice_under_their_own_path(models: Path) -> None:
    roll_back(models, NAME, 3)
    config = read_models_config(models / NAME / "models.config").model_config_list.config[0]
    assert config.base_path == f"/models/{NAME}"
    assert list(config.model_version_policy.specific.versions) == [3]
    assert versions(models / NAME) == [1, 2, 3, 4]


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_verbs_print_what_is_served(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rollback_verb(models, NAME, json=True)
    assert printed(capsys)["default"] == 3
    label_verb(models, NAME, "stable", 4, load=True)
    assert "loaded 3, 4; requests without a label get 4; stable = 4" in capsys.readouterr().out
    rollback_verb(models, NAME, to="2")
    out = capsys.readouterr().out
    assert "half done" in out and f"genre rollback {models} {NAME} --to 2" in out
    rollback_verb(models, NAME, to="2", json=True)
    assert printed(capsys)["labels"] == {"stable": 2}
    label_verb(models, NAME, "stable", remove=True)
    rollback_verb(models, NAME, to="latest")
    assert "newer exports: served as they appear" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["-1", "newest", "3 "])
def test_a_version_is_a_number(models: Path, to: str) -> None:
    with pytest.raises(InputError, match="a version number or `latest`"):
        rollback_verb(models, NAME, to=to)


def test_a_label_is_given_a_version_or_removed(models: Path) -> None:
    with pytest.raises(InputError, match="give a VERSION"):
        label_verb(models, NAME, "stable")
    with pytest.raises(InputError, match="give a VERSION"):
        label_verb(models, NAME, "stable", 3, remove=True)


def test_a_server_that_does_not_follow_is_a_failure(models: Path) -> None:
    with pytest.raises(FailureError, match=r"has not loaded version 3 .*it has: none"):
        rollback_verb(models, NAME, server=["127.0.0.1:9"], wait_s=0.1)


def test_two_steps_are_one_command_where_a_server_can_be_asked(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_label(models, NAME, "stable", 4)
    server = RunningServer(models)
    asked, answered = [], []

    def wait(
        address: str, name: str, longest_s: float, *, version: Any, answers: Any, credentials: Any
    ) -> None:
        server.poll()
        assert version in server.loaded
        asked.append((address, name, version))
        if answers is not None:
            assert {label: server.answer(label or None) for label in answers} == answers
            answered.append((address, answers))

    monkeypatch.setattr("genre_tf.serving.operations.model_server.wait_until_served", wait)
    rollback_verb(models, NAME, server=["one:8500", "two:8500"])
    assert asked == [("one:8500", NAME, 3), ("two:8500", NAME, 3)] * 2  # each step
    assert answered == [("one:8500", {"": 3, "stable": 3}), ("two:8500", {"": 3, "stable": 3})]
    assert (server.answer(), server.answer("stable")) == (3, 3)


def test_the_verbs_return_once_a_server_answers_as_chosen(toy_models: Path, tmp_path: Path) -> None:
    import grpc

    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions
    from genre_tf.serving.operations.model_server import answering_version

    shutil.copytree(toy_models, tmp_path / "models")
    models, options = tmp_path / "models", ServerOptions(grpc_port=0, rest_port=0, poll_s=0.3)
    with EmbeddedServer(models, options) as server, grpc.insecure_channel(server.grpc_address) as channel:
        told: Any = {"server": [server.grpc_address], "wait_s": 30}
        label_verb(models, "toy", "stable", 2, **told)
        assert answering_version(channel, "toy", "stable") == 2
        label_verb(models, "toy", "canary", remove=True, **told)
        assert answering_version(channel, "toy", "canary") is None
        assert answering_version(channel, "toy") == 2
        rollback_verb(models, "toy", to="1", **told)
        assert (answering_version(channel, "toy"), answering_version(channel, "toy", "stable")) == (1, 1)


def test_a_server_of_another_folder_is_a_failure(toy_server: Any, toy_models: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_models, tmp_path / "models")
    told: Any = {"server": [toy_server.grpc_address], "wait_s": 0.1}
    with pytest.raises(FailureError, match=r"label canary: 2, not 1\): check that it reads this file"):
        label_verb(tmp_path / "models", "toy", "canary", 1, **told)
    with pytest.raises(FailureError, match=r"label stable: 1, not removed"):
        label_verb(tmp_path / "models", "toy", "stable", remove=True, **told)
