"""batching.config and monitoring.config are read as TensorFlow Serving reads them."""

from pathlib import Path

import pytest

from genre_tf.errors import InputError
from genre_tf.export.server_config import (
    BatchingParameters,
    read_batching,
    read_prometheus_path,
    write_configuration,
)


def test_the_files_that_an_export_writes_are_understood(tmp_path: Path) -> None:
    write_configuration(tmp_path, ["genre_recommender"])
    found = read_batching(tmp_path / "batching.config")
    assert found.max_batch_size == 32 and found.allowed_batch_sizes == ()
    assert found.threads >= 1
    assert read_prometheus_path(tmp_path / "monitoring.config") == "/monitoring/prometheus/metrics"


def test_every_field_may_be_there(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } max_enqueued_batches { value: 3 } "
        "num_batch_threads { value: 2 } allowed_batch_sizes: 4 allowed_batch_sizes: 8 "
        'thread_pool_name { value: "batches" } pad_variable_length_inputs: true '
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"
    )
    assert read_batching(file) == BatchingParameters(
        max_batch_size=8,
        batch_timeout_us=1500,
        max_enqueued_batches=3,
        num_batch_threads=2,
        allowed_batch_sizes=(4, 8),
    )


def test_what_is_left_out_is_tensorflow_servings_default(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("")
    assert read_batching(file) == BatchingParameters()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: 8", "cannot be parsed as BatchingParameters"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "must match max_batch_size; last entry was 4"),
        ("max_batch_size { value: 2 } allowed_batch_sizes: 3 allowed_batch_sizes: 2", "increasing"),
        ("max_batch_size { value: 0 }", "must be at least 1; got 0 and 10"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1; got 0"),
        ("batch_timeout_micros { value: -1 }", "must not be negative; got -1"),
        ("\x00", "cannot be parsed as BatchingParameters"),
    ],
)
def test_a_file_that_cannot_be_followed_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_batching(file)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", None),
        ("prometheus_config { enable: false }", None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "/metrics" }', "/metrics"),
    ],
)
def test_the_metrics_page_is_where_the_file_says(tmp_path: Path, text: str, path: str | None) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert read_prometheus_path(file) == path


def test_a_page_without_a_slash_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "metrics" }')
    with pytest.raises(InputError, match="must begin with a slash"):
        read_prometheus_path(file)
