"""`genre report`: one file that needs nothing else, tells what was measured, and runs no script."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genre_tf.cli.report import report as report_verb
from genre_tf.errors import InputError
from genre_tf.reporting.data_card import data_card
from genre_tf.reporting.findings import findings
from genre_tf.reporting.html_report import write_html


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
    assert (
        page.tags.count("img") == 7
    )  # lengths, slices, before and after, calibration, scores, exposure, latency


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
    (missing,) = write_html(tiny_run, "nowhere", out)
    assert "genre evaluate" in missing and "--split nowhere" in missing
    assert missing in " ".join(Page(out.read_text("utf-8")).text.split())


def test_an_evaluation_of_an_earlier_version_is_told_of_what_it_lacks(kept, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    file = run / "reports" / "evaluation-dev.json"
    old = json.loads(file.read_text())
    for key in ("intervals", "click_model", "categories", "activity"):
        del old[key]
    file.write_text(json.dumps(old))
    (run / "reports" / "samples-dev.json").unlink()
    (missing,) = write_html(run, "dev", tmp_path / "report.html")
    assert "calibration and fairness" in missing and "examples of recommendations" in missing


@pytest.mark.parametrize("damage", ["{", "[1]", ""])
def test_a_damaged_report_is_named(kept, tmp_path: Path, damage: str):
    run = tmp_path / "run"
    shutil.copytree(kept[0], run)
    (run / "reports" / "evaluation-dev.json").write_text(damage)
    with pytest.raises(InputError, match=r"evaluation-dev\.json .*genre evaluate"):
        write_html(run, "dev", tmp_path / "report.html")


def test_a_place_that_takes_no_file_and_a_folder_that_is_no_run_are_refused(kept, tmp_path: Path):
    with pytest.raises(InputError, match="a folder that exists"):
        write_html(kept[0], "dev", tmp_path / "none" / "report.html")
    with pytest.raises(InputError, match="name of the split"):
        write_html(kept[0], "../dev", tmp_path / "report.html")
    with pytest.raises(InputError, match="is no folder"):
        report_verb(tmp_path / "none")
    with pytest.raises(InputError, match="no configuration"):
        report_verb(tmp_path, out=tmp_path / "report.html")


def test_findings_name_chance_few_impressions_and_texts_worse_than_copies():
    found = findings(
        {
            "significance": {"a over b": {"difference": 0.01, "low": -0.01, "high": 0.03}},
            "slices": {"all": 5000, "no_history": 30},
            "click_model": {"ranker": {"calibration_error": 0.05, "click_rate": 0.04}},
            "generation": {"rouge1": 0.1, "baselines": {"first_10_words": {"rouge1": 0.2}}, "grounding": 0.5},
        }
    )
    assert len(found) == 5
    for part in ("may be chance", "only 30 impressions", "off by 0.050", "ROUGE-1 0.100", "50% do not stand"):
        assert any(part in line for line in found), part
    assert not findings({"significance": {"a over b": {"difference": 0.02, "low": 0.01, "high": 0.03}}})
    assert not re.search(r"nan|None", " ".join(found))
