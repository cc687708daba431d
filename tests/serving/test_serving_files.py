"""`genre serving-files`: every file is what its reader takes, and says what the models say."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from google.protobuf import text_format
from typer.testing import CliRunner

from genre_tf.cli.main import _register, app
from genre_tf.cli.serve import serving_files
from genre_tf.errors import InputError
from genre_tf.export.models_config import edited, read_models_config
from genre_tf.export.server_config import BatchingParameters, write_configuration
from genre_tf.serving.operations.model_server import command
from genre_tf.serving.operations.serving_files import (
    DeploymentOptions,
    grpc_threads,
    memory_gib,
    write_serving_files,
)

NAMES = ["genre_recommender", "genre_generator"]
KUBERNETES_VERSION = "1.33"
SCHEMAS = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
METRIC = re.compile(r":tensorflow:[A-Za-z0-9_:]+")


def write_models(folder: Path, names: list[str] = NAMES, batch_sizes: object = (1, 2, 4, 8)) -> Path:
    """Version 3 of each servable, as far as server files look at it."""
    for name in names:
        extra = folder / name / "3" / "assets.extra"
        extra.mkdir(parents=True)
        (extra / "contract.json").write_text(json.dumps({"servable": name, "batch_sizes": batch_sizes}))
    write_configuration(folder, names)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("deploy") / 'it\'s a $HOME: #1 "folder"')


VARIANTS = {
    "cpu": DeploymentOptions(),
    "gpu": DeploymentOptions(gpu=True, image="registry.example:5000/news/genre-serving"),
    "tls": DeploymentOptions(tls=True, cpus=8, memory_gib=16, namespace="news-1"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def written(request: Any, models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param)
    write_serving_files(models, out, VARIANTS[request.param])
    return request.param, out


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text("utf-8")))


def kubernetes(out: Path) -> list[Any]:
    return [document for file in sorted((out / "kubernetes").iterdir()) for document in documents(file)]


def test_manifests_hold_to_the_schemas_of_kubernetes(written: tuple[str, Path]) -> None:
    found = kubernetes(written[1])
    for manifest in found:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    kinds = [manifest["kind"] for manifest in found]
    assert kinds[:3] == ["Namespace", "PersistentVolumeClaim", "ConfigMap"]
    one = ["Deployment", "Service", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"]
    of_app = ["Deployment", "Service", "PersistentVolumeClaim", "CronJob"]
    assert kinds[3:] == of_app + one * 2


def test_the_validator_of_manifests_would_find_a_fault(written: tuple[str, Path]) -> None:
    deployment = next(manifest for manifest in kubernetes(written[1]) if manifest["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["memory"] = "1Gi"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES_VERSION, strict=True)


def test_compose_files_hold_to_the_compose_specification(written: tuple[str, Path]) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text("utf-8"))
    for name in ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.app.yml"):
        jsonschema.validate(documents(written[1] / name)[0], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"a": {"image": "x", "memory": "1g"}}}, schema)


def test_the_app_and_the_loop_are_called_with_options_that_they_have(written: tuple[str, Path]) -> None:
    kind, out = written
    compose = documents(out / "docker-compose.app.yml")[0]["services"]
    found = {(one["kind"], one["metadata"]["name"]): one.get("spec") for one in kubernetes(out)}
    cron = found["CronJob", "genre-loop"]
    job = cron["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    pod = found["Deployment", "genre-app"]["template"]["spec"]["containers"][0]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert not next(one for one in job["volumeMounts"] if one["name"] == "models").get("readOnly", False)
    assert next(one for one in pod["volumeMounts"] if one["name"] == "models")["readOnly"]
    assert set(compose) == {"postgres", "app", "loop"} and compose["loop"]["profiles"] == ["loop"]
    for verb, arguments in (
        ("loop", job["args"]),
        ("loop", compose["loop"]["command"]),
        ("app", pod["args"]),
        ("app", compose["app"]["command"]),
    ):
        assert arguments[0] == verb
        _register(verb)
        shown = CliRunner().invoke(app, [*arguments, "--help"])
        assert shown.exit_code == 0, shown.output
        assert "postgresql://genre@postgres/genre" in arguments
    for arguments in (pod["args"], compose["app"]["command"]):
        assert arguments[arguments.index("--server") + 1] == "genre-recommender:8500"
        assert arguments[arguments.index("--generator-server") + 1] == "genre-generator:8500"
    note = "speaks gRPC without TLS" in (out / "kubernetes" / "app.yaml").read_text("utf-8")
    assert note == (kind == "tls")


def test_containers_find_what_their_flags_name(written: tuple[str, Path], models: Path) -> None:
    kind, out = written
    compose = documents(out / "docker-compose.yml")[0]
    configuration = next(manifest for manifest in kubernetes(out) if manifest["kind"] == "ConfigMap")["data"]
    service = compose["services"]["genre-recommender"]
    assert service["volumes"][0]["source"] == str(models).replace("$", "$$")
    pods = {one["metadata"]["name"]: one for one in kubernetes(out) if one["kind"] == "Deployment"}
    args = pods["genre-recommender"]["spec"]["template"]["spec"]["containers"][0]["args"]
    gpu = documents(out / "docker-compose.gpu.yml")[0]["services"]["genre-recommender"]["command"]
    for flags in (service["command"], gpu, args):
        given = dict(flag[2:].split("=", 1) for flag in flags)
        for file in ("batching_parameters_file", "monitoring_config_file"):
            folder, name = given[file].rsplit("/", 1)
            assert folder == "/config" and name in configuration and (out / "config" / name).is_file()
        inside = given["model_config_file"].removeprefix("/models/")
        entries = read_models_config(models / inside).model_config_list.config
        assert [(entry.name, entry.base_path) for entry in entries] == [
            ("genre_recommender", "/models/genre_recommender")
        ]
        assert ("ssl_config_file" in given) == (kind == "tls")
        assert (given["num_load_threads"], given["max_num_load_retries"]) == ("1", "1")
        assert given["grpc_max_threads"] == "256"  # 8 rows in 4 running and 4 waiting batches are fewer
    assert any("batching-gpu.config" in flag for flag in args) == (kind == "gpu")


def test_servers_write_nothing_and_are_nobody(written: tuple[str, Path]) -> None:
    kind, out = written
    for service in list(documents(out / "docker-compose.yml")[0]["services"].values())[:2]:
        assert service["read_only"] and all(volume["read_only"] for volume in service["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"] and service["mem_limit"] == service["memswap_limit"]
    for manifest in kubernetes(out):
        if manifest["kind"] == "Deployment" and manifest["metadata"]["name"] != "genre-app":
            pod = manifest["spec"]["template"]["spec"]
            container = pod["containers"][0]
            assert (
                pod["securityContext"]["runAsNonRoot"]
                and container["securityContext"]["readOnlyRootFilesystem"]
            )
            mounts = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            assert mounts["models"] and mounts["configuration"]
            assert mounts.get("tls", kind == "tls") == (kind == "tls")
            probe = "httpGet" if kind == "tls" else "grpc"  # the kubelet speaks no gRPC over TLS
            assert all(probe in container[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (kind == "gpu")
    dockerfile = (out / "Dockerfile").read_text()
    assert "libjemalloc2" in dockerfile and "LD_PRELOAD=libjemalloc.so.2" in dockerfile
    assert "ARG SERVING_VERSION=2.20.0" in dockerfile


def test_batching_follows_the_contract_and_the_cores(
    written: tuple[str, Path], serving_messages: dict[str, Any]
) -> None:
    cpus = VARIANTS[written[0]].cpus
    for name, timeout in (("batching.config", 0), ("batching-gpu.config", 2000)):
        text = (written[1] / "config" / f"genre-generator-{name}").read_text("utf-8")
        parsed = text_format.Parse(text, serving_messages["BatchingParameters"]())
        assert list(parsed.allowed_batch_sizes) == ([1, 2, 4, 8] if "gpu" in name else [])
        assert parsed.max_batch_size.value == 8
        assert parsed.batch_timeout_micros.value == timeout
        assert parsed.num_batch_threads.value == parsed.max_enqueued_batches.value == cpus
        assert not parsed.pad_variable_length_inputs
        assert ("GPU: …" in text) == ("gpu" in name)
    text = (written[1] / "config" / "monitoring.config").read_text()
    assert text_format.Parse(text, serving_messages["MonitoringConfig"]()).prometheus_config.enable
    config = read_models_config(written[1] / "config" / "models.config")
    entries = {entry.name: entry.base_path for entry in config.model_config_list.config}
    assert entries == {name: f"/models/{name}" for name in NAMES}


def test_each_change_of_configuration_makes_other_pods(models: Path, tmp_path: Path) -> None:
    digests = set()
    for cpus in (2, 4, 4):
        write_serving_files(models, tmp_path, DeploymentOptions(cpus=cpus))
        pod = next(
            one["spec"]["template"]
            for one in kubernetes(tmp_path)
            if one["kind"] == "Deployment" and one["metadata"]["name"] == "genre-recommender"
        )
        digests.add(pod["metadata"]["annotations"]["genre/configuration"])
    assert len(digests) == 2


def expressions(out: Path) -> list[str]:
    dashboard = json.loads((out / "monitoring/grafana/dashboards/genre.json").read_text("utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = documents(out / "monitoring" / "alerts.yml")[0]["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_expression_is_promql_over_metrics_that_were_seen(
    written: tuple[str, Path], transcripts: Path
) -> None:
    page = (transcripts / "prometheus_metrics.txt").read_text()
    known = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    found = expressions(written[1])
    for expression in found:
        promql_parser.parse(expression.replace("$__rate_interval", "1m"))
        assert set(METRIC.findall(expression)) <= known, expression
    named = {name for expression in found for name in METRIC.findall(expression)}
    assert len(named) >= 10  # of requests, errors, latency, queues and versions
    assert sum("up{" in expression for expression in found) == 1  # Prometheus' own
    of_server = [expression for expression in found if "genre_app_" not in expression]
    assert not any(":tensorflow:" not in expression and "up{" not in expression for expression in of_server)


def alerts(out: Path) -> dict[str, Any]:
    groups = documents(out / "monitoring" / "alerts.yml")[0]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_a_signature_that_a_client_made_up_is_no_error_of_the_server(written: tuple[str, Path]) -> None:
    found = alerts(written[1])
    assert "FAILED_PRECONDITION" not in found["GenreErrors"]["expr"]
    assert "FAILED_PRECONDITION" in found["GenreWrongRequests"]["expr"]
    errors = [expression for expression in expressions(written[1]) if "UNAVAILABLE|" in expression]
    assert len(errors) == 2  # the alert and the panel of the dashboard
    assert not any("FAILED_PRECONDITION" in expression for expression in errors)


def test_a_version_that_stays_loading_raises_an_alert(written: tuple[str, Path]) -> None:
    rule = alerts(written[1])["GenreVersionStaysLoading"]
    loaded, warm = rule["expr"].split("unless on (instance, model_path)")
    assert ':load_attempt_count{status="success"}' in loaded
    assert warm.strip() == ':tensorflow:serving:model_warmup_latency_count{status="OK"}'
    assert rule["for"] == "10m"


def test_the_dashboard_and_the_rest_load(written: tuple[str, Path]) -> None:
    dashboard = json.loads((written[1] / "monitoring/grafana/dashboards/genre.json").read_text("utf-8"))
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert {"Requests", "Errors", "Latency", "Waiting for a batch", "Versions"} <= set(titles)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    prometheus = documents(written[1] / "monitoring" / "prometheus.yml")[0]
    (job,) = prometheus["scrape_configs"]
    assert [target["targets"] for target in job["static_configs"]] == [
        ["genre-recommender:8501"],
        ["genre-generator:8501"],
    ]
    for file in written[1].rglob("*.y*ml"):
        assert documents(file), file


def test_a_rollback_is_in_what_containers_read(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    with edited(models) as config:
        config.model_config_list.config[0].model_version_policy.specific.versions.append(3)
    (models / "genre_recommender" / "models.config").unlink()
    write_serving_files(models, tmp_path / "out", DeploymentOptions())
    config = read_models_config(models / "genre_recommender" / "models.config").model_config_list.config[0]
    assert list(config.model_version_policy.specific.versions) == [3]


@pytest.mark.parametrize(
    ("cpus", "batching", "threads"),
    [
        (2, None, 256),
        (100, None, 400),  # TensorFlow Serving's own default is kept where it is more
        (16, BatchingParameters(max_batch_size=32, max_enqueued_batches=16), 1024),
        (16, BatchingParameters(max_batch_size=64, max_enqueued_batches=6, num_batch_threads=2), 512),
    ],
)
def test_grpc_threads_hold_every_request_that_batching_holds(
    cpus: int, batching: BatchingParameters | None, threads: int
) -> None:
    assert grpc_threads(cpus, batching) == threads


def test_the_servers_of_genre_serve_and_of_containers_have_the_same_flags(
    models: Path, written: tuple[str, Path]
) -> None:
    flags = [flag.split("=")[0] for flag in command("server", models, models / "models.config", 1, 2)[1:]]
    container = documents(written[1] / "docker-compose.yml")[0]["services"]["genre-recommender"]["command"]
    assert [flag.split("=")[0] for flag in container][: len(flags)] == flags
    further = {flag.split("=")[0] for flag in container[len(flags) :]}
    assert further <= {
        "--tensorflow_intra_op_parallelism",  # a container has fewer cores than its machine
        "--tensorflow_inter_op_parallelism",
        "--rest_api_num_threads",
        "--mixed_precision",
        "--ssl_config_file",
    }


def test_memory_is_enough_for_a_reload() -> None:
    assert (memory_gib(0.01), memory_gib(0.5), memory_gib(10)) == (3, 4, 42)


@pytest.mark.parametrize(
    "options",
    [
        {"image": "a image"},
        {"image": 'x"\n  privileged: true'},
        {"image": "$(evil)"},
        {"app_image": "a image"},
        {"serving_version": "latest"},
        {"serving_version": "2.20.0\nRUN evil"},
        {"namespace": "Genre"},
        {"namespace": "a: b"},
        {"namespace": ""},
        {"cpus": 0},
        {"memory_gib": 0},
        {"min_replicas": 3, "max_replicas": 2},
    ],
)
def test_what_would_mean_something_else_in_a_file_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        DeploymentOptions(**options)


@pytest.mark.parametrize("name", ['a"\n- evil', "../other", "a b", "$(x)", "-", "9lives"])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    write_models(tmp_path)
    with edited(tmp_path) as config:
        config.model_config_list.config[0].name = name
        config.model_config_list.config[0].base_path = str(tmp_path / "genre_recommender")
    with pytest.raises(InputError, match="servable"):
        write_serving_files(tmp_path, tmp_path / "out", DeploymentOptions())
    assert not (tmp_path / "out").exists()


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .*models.config"):
        write_serving_files(tmp_path, tmp_path / "out", DeploymentOptions())
    twins = write_models(tmp_path / "twins", ["a_b", "a-b"])
    with pytest.raises(InputError, match="host name 'a-b'"):
        write_serving_files(twins, tmp_path / "out", DeploymentOptions())
    for number, sizes in enumerate(([], ["1"], [0], None)):
        models = write_models(tmp_path / str(number), batch_sizes=sizes)
        with pytest.raises(InputError, match="no valid batch sizes"):
            write_serving_files(models, tmp_path / "out", DeploymentOptions())
    models = write_models(tmp_path / "two\nlines")
    with pytest.raises(InputError, match="rename it"):
        write_serving_files(models, tmp_path / "out", DeploymentOptions())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="writable folder"):
        write_serving_files(write_models(tmp_path / "good"), tmp_path / "file", DeploymentOptions())


def pem(file: Path, kind: str) -> Path:
    file.write_text(f'-----BEGIN {kind}-----\n"a\\b"+/=\n-----END {kind}-----\n')
    return file


def test_tls_by_the_verb(
    models: Path, tmp_path: Path, serving_messages: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    key, certificate = pem(tmp_path / "key.pem", "PRIVATE KEY"), pem(tmp_path / "cert.pem", "CERTIFICATE")
    serving_files(models, tmp_path / "out", tls_cert=certificate, tls_key=key, tls_ca=certificate, json=True)
    files = json.loads(capsys.readouterr().out)["files"]
    config = tmp_path / "out" / "tls" / "ssl.config"
    assert files[-1] == str(config) and all(Path(file).is_file() for file in files)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    parsed = text_format.Parse(config.read_text(), serving_messages["SSLConfig"]())
    assert (parsed.server_key, parsed.server_cert) == (key.read_text(), certificate.read_text())
    assert parsed.client_verify and parsed.custom_ca == certificate.read_text()
    assert not any("PRIVATE KEY" in Path(file).read_text() for file in files[:-1])
    serving_files(models, tmp_path / "out", tls_cert=certificate, tls_key=key)
    parsed = text_format.Parse(config.read_text(), serving_messages["SSLConfig"]())
    assert not parsed.client_verify and not parsed.custom_ca
    with pytest.raises(InputError, match="together"):
        serving_files(models, tmp_path / "out", tls_key=key)
    with pytest.raises(InputError, match="not a PEM file with a private key"):
        serving_files(models, tmp_path / "out", tls_cert=certificate, tls_key=certificate)
