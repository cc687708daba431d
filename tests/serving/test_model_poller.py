"""A MODELS folder that changes while it is served: what is loaded, unloaded, kept and said."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genre_tf.errors import InputError


class FakeServable:
    """Answers nothing; knows whether it was freed."""

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Served:
    """A folder, what follows it, and what was said and opened."""

    def __init__(self, models: Path) -> None:
        from genre_tf.serving.embedded.manager import ModelManager, VersionLoader

        self.models = models
        self.said: list[str] = []
        self.opened: list[tuple[str, int]] = []
        self.states_while_opening: list[str] = []
        self.during: Callable[[], None] = lambda: None
        self.manager = ModelManager()
        self.loader = VersionLoader(models, self.manager, self.open, self.said.append)

    def start(self, poll_s: float = 0.0) -> None:
        from genre_tf.export.models_config import find_models

        self.loader.start(find_models(self.models), poll_s)

    def open(self, name: str, version: int, folder: Path) -> Any:
        self.opened.append((name, version))
        if name == "news":
            self.states_while_opening.append(self.state(version))
        self.during()
        if (folder / "saved_model.pb").read_bytes() == b"broken":
            raise RuntimeError("no graph in it")
        return FakeServable(name, version)

    def state(self, version: int) -> str:
        from genre_tf.serving.embedded.manager import ModelSpec

        (found,) = self.manager.states(ModelSpec("news", version))
        return found.state

    def poll(self) -> list[int]:
        """Look once, wait for what is unloaded, and tell which versions answer."""
        self.loader.poll()
        until(lambda: "UNLOADING" not in self.all_states().values())
        return self.manager.versions.get("news", [])

    def all_states(self) -> dict[int, str]:
        from genre_tf.serving.embedded.manager import ModelSpec

        return {state.version: state.state for state in self.manager.states(ModelSpec("news"))}

    def publish(self, version: int, graph: bytes = b"graph", name: str = "news") -> Path:
        folder = self.models / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_bytes(graph)
        return folder

    def configure(self, body: str) -> None:
        text = f'model_config_list {{ config {{ name: "news" base_path: "/models/news" {body} }} }}'
        (self.models / "models.config").write_text(text)


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    found = Served(tmp_path)
    found.publish(1)
    return found


@pytest.fixture
def latest(served: Served) -> Served:
    """Version 1 served under the policy of `genre export`: the newest version only."""
    served.configure("")
    served.loader._configured = True
    served.start()
    return served


def test_a_new_version_is_loaded_beside_the_live_one_which_is_unloaded_then(latest: Served) -> None:
    latest.publish(2)
    live: list[list[int]] = []
    latest.during = lambda: live.append(latest.manager.versions["news"])
    assert latest.poll() == [2]
    assert live == [[1]]
    assert latest.states_while_opening == ["LOADING", "LOADING"]
    assert latest.all_states() == {1: "END", 2: "AVAILABLE"}
    assert latest.poll() == [2]
    assert latest.opened == [("news", 1), ("news", 2)]


def test_what_waits_to_be_loaded_is_in_state_start(served: Served) -> None:
    served.start()
    for version in (2, 3):
        served.publish(version)
    waiting: list[str] = []
    served.during = lambda: waiting.append(served.state(2))
    assert served.poll() == [3, 2, 1]
    assert waiting == ["START", "LOADING"]


def test_a_version_in_use_is_freed_when_its_last_request_ends(latest: Served) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    latest.publish(2)
    with latest.manager.use(ModelSpec("news")) as one, latest.manager.use(ModelSpec("news", 1)):
        latest.loader.poll()
        assert latest.manager.versions["news"] == [2]
        time.sleep(0.05)
        assert latest.state(1) == "UNLOADING"
        assert not one.closed
        with latest.manager.use(ModelSpec("news")) as two:
            assert two.version == 2
    until(lambda: latest.state(1) == "END")
    assert one.closed


def test_a_broken_version_is_said_once_and_the_live_one_goes_on(latest: Served) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    folder = latest.publish(2, b"broken")
    for _ in range(3):
        assert latest.poll() == [1]
    assert latest.said.count(f"left out {folder}: it does not load (no graph in it)") == 1
    assert latest.opened.count(("news", 2)) == 1
    (state,) = latest.manager.states(ModelSpec("news", 2))
    assert (state.state, state.error_message) == ("END", "no graph in it")
    latest.publish(2, b"mended graph")  # changed files are worth another load
    assert latest.poll() == [2]


def test_a_half_written_version_is_served_when_it_is_whole(latest: Served) -> None:
    folder = latest.models / "news" / "2"
    folder.mkdir()
    for _ in range(3):
        assert latest.poll() == [1]
    assert latest.said.count(f"left out {folder}: saved_model.pb is missing") == 1
    assert latest.state(2) == "END"
    latest.publish(2)
    assert latest.poll() == [2]


def test_what_vanishes_is_unloaded_unless_it_is_the_last(served: Served) -> None:
    served.publish(2)
    served.publish(3)
    served.start()
    shutil.rmtree(served.models / "news" / "3")
    assert served.poll() == [2, 1]
    for version in ("1", "2"):
        shutil.rmtree(served.models / "news" / version)
    (served.models / "news" / "7.tmp").mkdir()
    served.configure("model_version_policy { all {} }")
    assert served.poll() == [2]
    assert served.poll() == [2]
    served.publish(5)
    assert served.poll() == [5]


def test_a_live_version_whose_files_lack_goes_on(latest: Served) -> None:
    (latest.models / "news" / "1" / "saved_model.pb").unlink()
    assert latest.poll() == [1]


def test_policies_and_labels_follow_the_configuration(latest: Served) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    latest.publish(2)
    latest.publish(3)
    latest.configure(
        'model_version_policy { all {} } version_labels { key: "stable" value: 2 } '
        'version_labels { key: "canary" value: 3 }'
    )
    assert latest.poll() == [3, 2, 1]
    with latest.manager.use(ModelSpec("news", label="stable")) as stable:
        assert stable.version == 2
    latest.configure(
        "model_version_policy { specific { versions: 3 versions: 1 } } "
        'version_labels { key: "stable" value: 3 }'
    )
    assert latest.poll() == [3, 1]
    with latest.manager.use(ModelSpec("news", label="stable")) as stable:
        assert stable.version == 3
    assert latest.manager.labels("news") == {"stable": 3}
    latest.configure("model_version_policy { latest { num_versions: 2 } }")
    assert latest.poll() == [3, 2]


def test_a_label_never_points_to_nothing_while_its_version_loads(latest: Served) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    latest.configure('version_labels { key: "stable" value: 1 }')
    latest.poll()
    latest.publish(2)
    latest.publish(3)
    latest.configure(
        "model_version_policy { specific { versions: 2 versions: 3 } } "
        'version_labels { key: "stable" value: 2 }'
    )
    meant: list[int] = []

    def ask() -> None:
        with latest.manager.use(ModelSpec("news", label="stable")) as servable:
            meant.append(servable.version)

    latest.during = ask
    assert latest.poll() == [3, 2]
    ask()
    assert meant == [1, 1, 2]


def test_a_label_of_a_version_that_is_not_served_is_said_once(latest: Served) -> None:
    latest.configure('version_labels { key: "stable" value: 7 }')
    for _ in range(2):
        assert latest.poll() == [1]
    assert latest.said.count("label stable of model news: version 7 is not served") == 1
    assert latest.manager.labels("news") == {}


@pytest.mark.parametrize("fault", ["unreadable", "gone", "no such folder"])
def test_a_configuration_that_cannot_be_followed_changes_nothing(latest: Served, fault: str) -> None:
    latest.publish(2)
    config = latest.models / "models.config"
    if fault == "unreadable":
        config.write_text("model_config_list { config { name: ")
    elif fault == "gone":
        config.unlink()
    else:
        config.write_text('model_config_list { config { name: "cups" base_path: "/models/cups" } }')
    for _ in range(2):
        assert latest.poll() == [1]
    assert len([line for line in latest.said if line.startswith("cannot follow the models folder: ")]) == 1
    latest.configure("")
    assert latest.poll() == [2]


def test_a_model_that_leaves_the_configuration_is_unloaded(latest: Served) -> None:
    latest.publish(1, name="cups")
    both = latest.models / "models.config"
    text = both.read_text()
    both.write_text(text[:-1] + 'config { name: "cups" base_path: "/models/cups" } }')
    latest.poll()
    assert latest.manager.versions == {"news": [1], "cups": [1]}
    both.write_text(text)
    latest.poll()
    assert latest.manager.versions == {"news": [1]}


def test_without_a_configuration_new_models_are_found(served: Served) -> None:
    served.start()
    served.publish(4, name="cups")
    served.poll()
    assert served.manager.versions == {"news": [1], "cups": [4]}


def test_a_server_needs_a_version_to_start_from(served: Served) -> None:
    served.publish(1, b"broken")
    with pytest.raises(InputError, match=r"no version of model news loads \(no graph in it\)"):
        served.start()


def test_a_poller_looks_by_itself_and_outlives_errors(latest: Served) -> None:
    others = set(threading.enumerate())
    latest.start(poll_s=0.01)
    latest.publish(2)
    until(lambda: latest.manager.versions["news"] == [2])
    shutil.rmtree(latest.models)
    until(lambda: any("is gone" in line or "is not a folder" in line for line in latest.said))
    assert latest.manager.versions["news"] == [2]
    latest.loader.stop()
    assert "poll" not in {thread.name for thread in threading.enumerate() if thread not in others}
