"""The configuration files parse as what TensorFlow Serving reads, and keep what people wrote."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from genre_tf.errors import InputError
from genre_tf.export.models_config import edited
from genre_tf.export.server_config import (
    USUAL_SIZES,
    BatchingParameters,
    render_batching,
    warmup_sizes,
    write_configuration,
)


def read_models(path: Path) -> Any:
    from tensorflow_serving.config import model_server_config_pb2

    return text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())


def test_models_config_lists_each_model_with_its_absolute_folder(tmp_path: Path) -> None:
    write_configuration(tmp_path, ["genre_recommender", "genre_generator"])
    entries = read_models(tmp_path / "models.config").model_config_list.config
    assert [entry.name for entry in entries] == ["genre_recommender", "genre_generator"]
    assert entries[0].base_path == f"{tmp_path}/genre_recommender"
    assert entries[0].model_platform == "tensorflow"
    assert entries[0].model_version_policy.latest.num_versions == 1


def test_each_servable_has_a_file_of_its_own_for_containers(tmp_path: Path) -> None:
    (tmp_path / "genre_recommender").mkdir()
    write_configuration(tmp_path, ["genre_recommender", "genre_generator"])
    (entry,) = read_models(tmp_path / "genre_recommender" / "models.config").model_config_list.config
    assert (entry.name, entry.base_path) == ("genre_recommender", "/models/genre_recommender")
    assert not (tmp_path / "genre_generator").exists()


def test_writing_again_keeps_labels_policies_and_other_models(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(
        """model_config_list {
          config { name: "other" base_path: "/other" model_platform: "tensorflow" }
          config {
            name: "genre_recommender" base_path: "/old" model_platform: "tensorflow"
            model_version_policy { specific { versions: 3 } }
            version_labels { key: "stable" value: 3 }
          }
        }"""
    )
    write_configuration(tmp_path, ["genre_recommender", "genre_generator"])
    other, recommender, generator = read_models(tmp_path / "models.config").model_config_list.config
    assert other.base_path == "/other"
    assert recommender.base_path == f"{tmp_path}/genre_recommender"
    assert (
        list(recommender.model_version_policy.specific.versions),
        recommender.version_labels["stable"],
    ) == ([3], 3)
    assert generator.name == "genre_generator"


def test_a_configuration_that_cannot_be_read_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("nonsense: 1")
    with pytest.raises(InputError, match="is not a valid ModelServerConfig"):
        write_configuration(tmp_path, ["genre_recommender"])
    assert (tmp_path / "models.config").read_text() == "nonsense: 1"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "models.config"]


def test_a_folder_that_cannot_be_locked_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("genre_tf.files.fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"cannot lock .*No locks available"):
        write_configuration(tmp_path, ["genre_recommender"])


def test_editors_take_turns(tmp_path: Path) -> None:
    (tmp_path / "genre_recommender").mkdir()
    write_configuration(tmp_path, ["genre_recommender"])
    with ThreadPoolExecutor(1) as other:
        with edited(tmp_path) as config:
            waiting = other.submit(write_configuration, tmp_path, ["second"])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            config.model_config_list.config.add(name="first", base_path="/first")
        waiting.result(timeout=10)
    names = [entry.name for entry in read_models(tmp_path / "models.config").model_config_list.config]
    assert names == ["genre_recommender", "first", "second"]


def test_batching_config_is_consistent(tmp_path: Path, serving_messages: dict[str, Any]) -> None:
    write_configuration(tmp_path, ["genre_recommender"], 16)
    text = (tmp_path / "batching.config").read_text()
    parsed = text_format.Parse(text, serving_messages["BatchingParameters"]())
    assert list(parsed.allowed_batch_sizes) == []
    on_gpu = render_batching(BatchingParameters(max_batch_size=16, allowed_batch_sizes=(1, 4, 16)))
    allowed = text_format.Parse(on_gpu, serving_messages["BatchingParameters"]()).allowed_batch_sizes
    assert list(allowed) == [1, 4, 16]
    assert parsed.max_batch_size.value == 16  # must equal the last allowed size, or no version loads
    assert parsed.pad_variable_length_inputs is False
    assert not parsed.HasField("num_batch_threads")
    assert parsed.batch_timeout_micros.value == 0


def test_what_people_tuned_stays_and_warmup_follows(tmp_path: Path) -> None:
    assert warmup_sizes(tmp_path) is None
    write_configuration(tmp_path, ["genre_recommender"])
    file = tmp_path / "batching.config"
    assert warmup_sizes(tmp_path) == USUAL_SIZES
    assert (
        "Written once" in file.read_text() and "Written once" in (tmp_path / "monitoring.config").read_text()
    )
    mine = file.read_text().replace("{ value: 32 }", "{ value: 64 }") + "allowed_batch_sizes: [8, 64]\n"
    file.write_text(mine)
    (tmp_path / "monitoring.config").write_text("")
    write_configuration(tmp_path, ["genre_recommender"])
    assert file.read_text() == mine and (tmp_path / "monitoring.config").read_text() == ""
    assert warmup_sizes(tmp_path) == (8, 64)
    for largest, sizes in ((100, (1, 2, 4, 8, 16, 32)), (6, (1, 2, 4, 6)), (1, (1,))):
        file.write_text(f"max_batch_size {{ value: {largest} }}")
        assert warmup_sizes(tmp_path) == sizes
    file.write_text("max_batch_size: 100")
    with pytest.raises(InputError, match="cannot be parsed as BatchingParameters"):
        warmup_sizes(tmp_path)


def test_batch_threads_can_be_set(serving_messages: dict[str, Any]) -> None:
    text = render_batching(
        BatchingParameters(num_batch_threads=4, batch_timeout_us=2000, max_enqueued_batches=4)
    )
    parsed = text_format.Parse(text, serving_messages["BatchingParameters"]())
    assert (parsed.num_batch_threads.value, parsed.max_enqueued_batches.value) == (4, 4)
    assert parsed.batch_timeout_micros.value == 2000


def test_monitoring_config_turns_prometheus_on(tmp_path: Path, serving_messages: dict[str, Any]) -> None:
    write_configuration(tmp_path, ["genre_recommender"])
    text = (tmp_path / "monitoring.config").read_text()
    parsed = text_format.Parse(text, serving_messages["MonitoringConfig"]())
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"
