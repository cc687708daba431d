"""`genre board`: every tab of TensorBoard has the run's data, asked for by HTTP and seen in a browser."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genre_tf.cli.evaluate import logs_of
from genre_tf.errors import InputError

RANKING, DEV = "ranking/train", "evaluation/dev"


@pytest.fixture(scope="module")
def board(kept: tuple[Path, dict[str, Any]]) -> Iterator[str]:
    """The address of `genre board RUN`; it must end cleanly on Ctrl-C."""
    command = [sys.executable, "-m", "genre_tf.cli.main", "board", str(kept[0]), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("TensorBoard: http://127.0.0.1:"):
        process.kill()
        pytest.fail(f"{line}{process.communicate()[1]}")
    address = line.split()[1].rstrip("/")
    _wait(lambda: {RANKING, DEV} <= set(_json(f"{address}/data/runs")))
    yield address
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (0, "TensorBoard ended")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def _json(url: str) -> Any:
    return json.loads(_get(url))


def _wait(ready: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "TensorBoard read nothing"
        time.sleep(0.2)


def _plugin(board: str, path: str, **query: str) -> Any:
    found = _get(f"{board}/data/plugin/{path}?{urllib.parse.urlencode(query)}")
    return json.loads(found) if found[:1] in b"{[" else found


def test_scalars_of_training_and_validation_are_grouped_by_stage(board: str):
    tags = _plugin(board, "scalars/tags")
    assert {"ranking/loss", "ranking/gradient_norm"} <= set(tags[RANKING])
    assert "ranking/auc" in tags["ranking/validation"]
    points = _plugin(board, "scalars/scalars", run="ranking/validation", tag="ranking/auc")
    assert [point[1] for point in points] == [0, 10, 20]


def test_the_layout_has_training_and_evaluation(board: str):
    layout = _plugin(board, "custom_scalars/layout")
    assert {category["title"] for category in layout["category"]} == {
        "Training: ranking",
        "Evaluation on dev",
    }
    for category in layout["category"]:
        run = RANKING if "Training" in category["title"] else DEV
        for pattern in category["chart"][0]["multiline"]["tag"]:
            assert _plugin(board, "custom_scalars/scalars", run=run, tag=pattern)["tag_to_events"]


def test_the_click_model_has_curves_and_histograms_that_agree_with_the_report(board: str, kept):
    found = kept[1]["click_model"]["ranker"]
    tag = "dev/ranker/precision and recall/pr_curves"
    (curve,) = _plugin(board, "pr_curves/pr_curves", run=DEV, tag=tag)[DEV]
    assert curve["recall"][0] == 1.0
    assert curve["precision"][0] == pytest.approx(found["click_rate"])
    for kind in ("shown", "clicked"):
        tag = f"dev/ranker/probability of {kind} articles"
        (histogram,) = _plugin(board, "histograms/histograms", run=DEV, tag=tag)
        assert sum(bucket[2] for bucket in histogram[2]) == found[kind]


def test_pictures_texts_and_the_graph_are_there(board: str, kept):
    pictures = _plugin(board, "images/tags")[DEV]
    assert {"dev/AUC by slice", "dev/Calibration of click probabilities"} <= set(pictures)
    assert {"dev/attention over a history/1", "dev/Exposure by category"} <= set(pictures)
    assert "serving/latency against load" in pictures
    (text,) = _plugin(board, "text/text", run=DEV, tag="dev/written/1")
    assert "Lerry" in text["text"] and "<script>" not in text["text"]
    (summary,) = _plugin(board, "text/text", run=DEV, tag="dev/summary")
    auc = kept[1]["models"]["ranker_counters"]["all"]["auc"]
    assert f"{100 * auc:.1f}" in summary["text"] and "<table" in summary["text"]
    assert b"click_model" in _get(f"{board}/data/plugin/graphs/graph?run={DEV}&conceptual=false")


def test_articles_and_readers_are_in_one_space(board: str, kept):
    _wait(lambda: DEV in _plugin(board, "projector/runs"))
    (space,) = _plugin(board, "projector/info", run=DEV)["embeddings"]
    labels = _get(f"{board}/data/plugin/projector/metadata?run={DEV}&name=two+towers").decode().splitlines()
    rows = [line.split("\t") for line in labels]
    assert rows[0] == ["label", "kind", "category", "clicks", "views"]
    assert {row[1] for row in rows[1:]} == {"article", "reader"}
    assert len(rows) - 1 == space["tensorShape"][0]
    vectors = _get(f"{board}/data/plugin/projector/tensor?run={DEV}&name=two+towers")
    assert len(vectors) == 4 * space["tensorShape"][0] * space["tensorShape"][1]
    assert (
        sum(int(row[3]) for row in rows[1:] if row[1] == "article")
        == kept[1]["click_model"]["ranker"]["clicked"]
    )


TABS = {
    "scalars": "ranking/loss",
    "custom_scalars": "Training: ranking",
    "images": "AUC by slice",
    "pr_curves": "precision and recall",
    "histograms": "probability of clicked articles",
    "text": "Lerry",
    "timeseries": "ranking/validation",
    "hparams": "learning_rate",
    "graphs": "click_model",
}


@pytest.fixture(scope="module")
def page(board: str) -> Iterator[Any]:
    browser_of = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with browser_of.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_shows_the_data_in_a_real_browser(board: str, page: Any, tab: str):
    page.goto("about:blank")
    page.goto(f"{board}/#{tab}")
    page.get_by_text(TABS[tab]).first.wait_for(state="attached")
    if tab == "images":
        page.locator("tf-image-loader img, img.image").first.wait_for(state="visible")


def test_the_projector_shows_every_article_and_reader_in_a_real_browser(board: str, page: Any):
    _wait(lambda: DEV in _plugin(board, "projector/runs"))
    page.goto("about:blank")
    page.goto(f"{board}/#projector")
    inside = page.frame_locator("iframe").frame_locator("iframe")
    points = inside.locator(".numDataPoints", has_text=re.compile(r"^[1-9]\d*$"))  # 0 before
    points.wait_for(state="attached")
    (space,) = _plugin(board, "projector/info", run=DEV)["embeddings"]
    assert int(points.inner_text()) == space["tensorShape"][0]


def test_the_report_asks_for_nothing_in_a_real_browser(page: Any, kept, tmp_path: Path):
    from genre_tf.reporting.html_report import write_html

    write_html(kept[0], "dev", tmp_path / "report.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    page.set_viewport_size({"width": 1280, "height": 800})
    bottom = page.evaluate("document.querySelector('header').getBoundingClientRect().bottom")
    assert bottom <= 800, "the first screen needs no scrolling"


def test_a_folder_of_runs_is_read_whole_and_one_without_logs_is_refused(kept, tmp_path: Path):
    assert logs_of(kept[0]) == kept[0] / "logs"
    assert logs_of(kept[0].parent) == kept[0].parent
    with pytest.raises(InputError, match="has no TensorBoard logs"):
        logs_of(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        logs_of(tmp_path / "none")


def test_a_port_that_is_taken_is_said_with_the_remedy(kept, board: str):
    port = board.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "genre_tf.cli.main", "board", str(kept[0]), "--port", port]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert port in found.stderr and "another --host or --port" in found.stderr
