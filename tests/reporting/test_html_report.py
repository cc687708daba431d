"""`genre report`: one file that needs nothing else, tells what was measured, and runs no script."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genre_tf.cli.evaluate import report as report_verb
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation import EvaluationOptions
from genre_tf.evaluation.evaluate import evaluate_run
from genre_tf.generation.safety import SafetyClassifier, save_classifier
from genre_tf.models.checkpoint import WEIGHTS_FILE
from genre_tf.reporting.board import keep_evaluation, keep_written, latency_picture, log_evaluation
from genre_tf.reporting.findings import findings
from genre_tf.reporting.html_report import data_card, write_html

from .conftest import EVIL, WRITTEN


class Page(HTMLParser):
    """The tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.marks: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags[-1:] == ["mark"]:
            self.marks.append(data)
            self.tags.append("")


@pytest.fixture(scope="module")
def page(kept: tuple[Path, dict]) -> Page:
    run, _ = kept
    report_verb(run)
    return Page((run / "reports" / "report-dev.html").read_text("utf-8"))


def test_the_file_needs_nothing_else(page: Page):
    assert page.addresses and all(each.startswith(("data:image/png;base64,", "#")) for each in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    # Lengths, slices, before and after, calibration, that of the whole pool, scores, exposure, latency.
    assert page.tags.count("img") == 8


def test_text_of_the_data_is_text(page: Page):
    assert "<script>alert('x')</script> & “Larry”" in page.text
    assert "Earlier <b>title</b>" in page.text and "<i>wins</i>" in page.text
    assert "i" not in page.tags


def test_unsupported_claims_are_marked(page: Page):
    assert {"Lerry", "1,200"} <= set(page.marks)
    assert "Larry" not in "".join(page.marks)


def test_what_was_measured_stands_there_with_intervals_before_and_fairness(page: Page, kept):
    _, report = kept
    words = " ".join(page.text.split())
    parts = report["models"]["ranker"]["all"]
    low, high = report["intervals"]["ranker"]["all"]
    assert (
        f"ranker {100 * parts['auc']:.1f} {100 * low:.1f} to {100 * high:.1f} {100 * parts['mrr']:.1f}"
        in words
    )
    sports = next(row for row in report["categories"] if row["category"] == "sports")
    assert f"sports {100 * sports['shown_share']:.1f} {100 * sports['click_share']:.1f}" in words
    assert "over 50 0" in words and "no history" in words and "clicked_titles" not in words
    sample = report["recommended"][0]
    assert f"Reader {sample['reader']}, {len(sample['history'])} clicks" in words


def test_the_first_screen_answers_whether_it_is_good_and_what_three_readers_get(page: Page, kept):
    run, report = kept
    screen = _screen(run / "reports" / "report-dev.html")
    gain = report["significance"]["ranker_counters over untrained_embeddings"]
    assert f"the difference of {gain['difference']:+.3f} (95% interval {gain['low']:+.3f}" in screen
    assert f"contain {report['pool']['recommend']['all']['recall@10']:.1%} of the clicked" in screen
    assert "Three readers" in screen and screen.count("Recommended from the whole pool") == 3
    for sample in report["recommended"][:3]:
        first = sample["from_pool"][0]
        lately = " ".join(sample["history"][::-1][:3])
        assert f"Reader {sample['reader']} Lately read {lately} Recommended from the whole pool" in screen
        mark = "✓ " if first["clicked"] else ""
        assert f"{100 * first['score']:.1f}% {mark}{first['title']}" in screen
    assert screen.count("Written for them") == 1 and "Written for them Lerry <i>wins</i> 1,200" in screen


def test_the_first_screen_has_at_most_five_worries_and_the_model_card_all(page: Page, kept):
    lines = findings(json.loads((kept[0] / "reports" / "evaluation-dev.json").read_text()))
    assert len(lines) > 5
    screen, text = _screen(kept[0] / "reports" / "report-dev.html"), " ".join(page.text.split())
    assert [line in screen for line in lines] == [True] * 5 + [False] * (len(lines) - 5)
    assert f"{len(lines) - 5} more" in screen and all(line in text for line in lines)


def test_what_was_left_out_is_a_note_in_the_data_card_and_no_warning(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    (run / "generation").mkdir()
    (run / "generation" / WEIGHTS_FILE).touch()  # a writer that was not measured, as in a demo
    file, missing = write_html(run, "dev")
    assert missing == []
    assert "not measured" not in _screen(file).lower()
    data = _words(file.read_text("utf-8").split("Data card")[1].split("Model card")[0])
    assert f"Not measured: the quality of written text. To measure everything: genre evaluate {run}" in data


def test_a_run_without_the_whole_pool_says_what_measures_it(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    file = run / "reports" / "evaluation-dev.json"
    numbers = json.loads(file.read_text())
    for part in ("intervals", "click_model", "categories", "activity"):
        del numbers[part]
    file.write_text(json.dumps({**numbers, "pool": {}, "before": {"models": {}}}))
    assert f"The whole pool was not measured. Measure it: genre evaluate {run}" in _screen(
        write_html(run, "dev")[0]
    )
    shutil.rmtree(run / "ranking")
    assert f"Train what is missing: genre train ranking --data DATA --run {run}" in _screen(
        write_html(run, "dev")[0]
    )


def test_reasons_are_weights_that_sum_to_one_and_the_best_comes_first(kept):
    _, report = kept
    assert report["recommended"]
    for sample in report["recommended"]:
        probabilities = [article["probability"] for article in sample["recommended"]]
        assert probabilities == sorted(probabilities, reverse=True)
        for article in sample["recommended"]:
            assert len(article["weights"]) == len(sample["history"]) > 2
            assert sum(article["weights"]) == pytest.approx(1, abs=0.01)


def test_the_data_card_counts_the_log(tiny_run: Path, tiny_data: Path):
    card = data_card(tiny_run / "prepared")
    log = [line.split("\t") for line in (tiny_data / "train" / "behaviors.tsv").read_text().splitlines()]
    parts = card["splits"]
    assert sum(part["impressions"] for part in parts.values()) == len(log)
    assert sum(part["clicks"] for part in parts.values()) == len(log)  # one each
    assert card["readers"] == len({row[1] for row in log})
    assert card["articles"] == 29 and card["with_abstract"] == 1
    assert sum(card["lengths"]["articles shown at once"]) == len(log)
    assert card["lengths"]["articles shown at once"][6] == len(log)
    empty = sum(part["no_history"] * part["impressions"] for part in parts.values())
    assert empty == pytest.approx(sum(not row[3] for row in log))
    assert parts["train"]["first"].startswith("2019-11-10")


def test_a_run_without_an_evaluation_is_told_what_to_run(tiny_run: Path, tmp_path: Path):
    out = tmp_path / "report.html"
    file, (missing,) = write_html(tiny_run, "nowhere", out)
    assert file == out and "genre evaluate" in missing and "--split nowhere" in missing
    screen = _screen(out)
    assert missing in screen and "The run has no writer. Train it: genre train generation" in screen
    shutil.copytree(tiny_run, tmp_path / "untrained", ignore=shutil.ignore_patterns("*.weights.h5"))
    _, (missing,) = write_html(tmp_path / "untrained", "dev", out)
    assert (
        missing == f"Nothing is trained yet. Train it: genre train all --data DATA --run {tmp_path}/untrained"
    )


def test_an_evaluation_of_an_earlier_version_is_told_of_what_it_lacks(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    file = run / "reports" / "evaluation-dev.json"
    old = json.loads(file.read_text())
    for key in ("intervals", "click_model", "categories", "activity"):
        del old[key]
    file.write_text(json.dumps(old))
    (run / "reports" / "samples-dev.json").unlink()
    text = _text(run)
    assert "Not measured: intervals, calibration and fairness" in text
    assert "The evaluation has no example readers" in text


@pytest.mark.parametrize("damage", ["{", "[1]", ""])
def test_a_damaged_report_is_named(kept, tmp_path: Path, damage: str):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    (run / "reports" / "evaluation-dev.json").write_text(damage)
    with pytest.raises(InputError, match=r"evaluation-dev\.json .*genre evaluate"):
        write_html(run, "dev", tmp_path / "report.html")


def test_a_place_that_takes_no_file_and_a_folder_that_is_no_run_are_refused(kept, tmp_path: Path):
    with pytest.raises(InputError, match="an existing folder"):
        write_html(kept[0], "dev", tmp_path / "none" / "report.html")
    for split in ("../dev", ""):
        with pytest.raises(InputError, match="split name"):
            write_html(kept[0], split)
    with pytest.raises(InputError, match="is not a folder"):
        report_verb(tmp_path / "none")
    with pytest.raises(InputError, match="no configuration"):
        report_verb(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is made for what is refused"


def test_a_run_that_may_only_be_read_is_a_failure_that_names_the_file(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(FailureError, match=r"report-nowhere\.html could not be written: .*Permission denied"):
        write_html(tiny_run, "nowhere")


def test_the_model_card_tells_of_a_trained_classifier(kept, tmp_path: Path):
    run, words = tmp_path / "run", "a list of words and patterns and by a trained classifier"
    shutil.copytree(kept[0], run)
    assert words not in _text(run)
    save_classifier(SafetyClassifier(weights=(0.1,), bias=0.0, threshold=1.0, ranker=""), run)
    assert words in _text(run)


def test_a_picture_of_latency_that_is_none_is_left_out(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    file = run / "reports" / "latency.png"
    file.write_bytes(file.read_bytes()[:60])
    log_evaluation(kept[1], run, latency=latency_picture(run))  # TensorBoard decodes it
    file.write_text("no picture")
    assert latency_picture(run) is None
    assert "Latency against load" not in _text(run)


def test_the_first_fifty_of_many_categories_are_shown(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    file = run / "reports" / "evaluation-dev.json"
    numbers = json.loads(file.read_text())
    row = numbers["categories"][0]
    numbers["categories"] = [{**row, "category": f"topic-{at}."} for at in range(53)]
    file.write_text(json.dumps(numbers))
    text = _text(run)
    assert "topic-49." in text and "topic-50." not in text and "; 3 more are in" in text


def test_texts_that_a_server_wrote_are_added_to_an_evaluation(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    served = {name: WRITTEN[name] for name in ("titles", "source", "written")}
    served |= {"reader": "a guest", "recommended": [{"title": "北京今天下雪", "score": 0.125}]}
    keep_written([{**served, "title": "Of a server"}], run, "dev")
    text = _text(run)
    assert (
        "Reader a guest Lately read Earlier <b>title</b> Recommended by the server 12.5% 北京今天下雪 "
        "Written for them Lerry <i>wins</i> 1,200 Real title: Of a server"
    ) in text
    assert "Of a server" in text and EVIL not in text
    assert f"Reader {kept[1]['recommended'][0]['reader']}" in text, "recommendations stay"
    written = (run / "reports" / "samples-dev.md").read_text("utf-8")
    assert "The real title.\n" in written and "other reader" not in written
    with pytest.raises(FailureError, match="evaluate the run again"):
        keep_written([], run, "nowhere")


@pytest.mark.proof
def test_what_was_measured_of_texts_stands_there(writing_run: Path, tiny_data: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(writing_run, run)
    report = evaluate_run(run, tiny_data, "dev", EvaluationOptions(readers=3), lambda line: None)
    keep_evaluation(report, run)
    text = _text(run)
    assert f"Generator: {report['generation']['headlines']} headlines written from abstracts" in text
    assert f"Unsafe headlines measured here: {100 * report['generation']['unsafe_rate']:.1f} %." in text
    for row in ("trained", "before training", "first 10 words"):
        assert re.search(rf"{row} (–|\d+\.\d+) (–|\d\.\d+)", text), row
    assert "Unsafe samples for readers" in text and "The evaluation stored no texts" not in text
    del report["generation"]["personal"], report["samples"]  # as an evaluation of no reader leaves it
    keep_evaluation(report, run)
    text = _text(run)
    assert "Unsafe samples for readers" not in text and "The evaluation stored no texts" in text


def _screen(file: Path) -> str:
    """The words of the first screen."""
    return _words(file.read_text("utf-8").split("</header>")[0])


def _text(run: Path) -> str:
    file, _ = write_html(run, "dev")
    return _words(file.read_text("utf-8"))


def _words(html: str) -> str:
    return " ".join(Page(html).text.split())
