"""Texts that editors approved: an optional file of a split, read as strictly as MIND's two files."""

import pytest

from genre_tf.data import approved_texts
from genre_tf.data.approved_texts import TEXTS, ApprovedText, read_texts, write_texts
from genre_tf.data.checking import check_data
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.preparing import prepare
from genre_tf.errors import InputError

KNOWN = {"N1", "N2"}


def test_texts_come_back_with_their_lines_and_backslashes(tmp_path):
    texts = [
        ApprovedText("title", "N2", "Zebras win"),
        ApprovedText("body", "N1", "A headline\nIts text, with C:\\new and \\\\."),
        ApprovedText("summary", "N1", "Short."),
    ]
    write_texts(tmp_path / TEXTS, texts)
    assert read_texts(tmp_path / TEXTS, KNOWN, FaultPolicy()) == texts
    assert (tmp_path / TEXTS).read_text("utf-8").count("\n") == 3


def test_only_a_body_has_lines_and_nothing_breaks_a_row(tmp_path):
    write_texts(
        tmp_path / TEXTS, [ApprovedText(kind, "N1", "a\tb\r\n\x1bc \0 d") for kind in ("title", "body")]
    )
    assert [one.text for one in read_texts(tmp_path / TEXTS, KNOWN, FaultPolicy())] == ["a b c d", "a b\nc d"]


def test_a_repeated_line_counts_once(tmp_path):
    (tmp_path / TEXTS).write_text("title\tN1\tOne\ntitle\tN1\tOne\ntitle\tN1\tTwo\n", "utf-8")
    assert [one.text for one in read_texts(tmp_path / TEXTS, KNOWN, FaultPolicy())] == ["One", "Two"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("title\tN1", "columns: 2 received, 3 expected: kind, article and text"),
        ("title\tN1\tOne\t", "columns: 4 received"),
        ("poem\tN1\tOne", "kind: 'poem' is not a kind; give one of title, summary, body"),
        ("title\tN7\tOne", "article: 'N7' is not in the news file; add the article there"),
        ("title\tN1\t ", "text: is empty"),
        ("title\tN1\t" + "x" * 20_001, "text: has 20,001 characters; at most 20,000 are read"),
        ("\x1b[2J\tN1\tOne", r"kind: '\x1b[2J' is not a kind"),
    ],
)
def test_genre_check_names_each_bad_line(write_split, row, said):
    data = write_split()
    (data / "train" / TEXTS).write_text(f"title\tN1\tGood\n{row}\n", "utf-8")
    report = check_data(data)
    (fault,) = report.faults
    assert str(fault).startswith(f"{data / 'train' / TEXTS}:2: {said}")
    assert not report.passed and report.splits[0].texts == 1


def test_too_many_texts_are_a_fault_of_the_file(write_split, monkeypatch):
    monkeypatch.setattr(approved_texts, "MOST_TEXTS", 2)
    data = write_split()
    (data / "train" / TEXTS).write_text("".join(f"title\tN1\tText {number}\n" for number in range(3)))
    report = check_data(data, max_bad_rows=9)
    assert not report.passed and "has over 2 texts; keep the newest" in str(report.faults[0])


def test_prepared_data_have_the_texts_and_are_out_of_date_when_they_change(write_split, tmp_path):
    data, out = write_split(), tmp_path / "prepared"
    file = data / "train" / TEXTS
    file.write_text("title\tN1\tOne\nbody\tN2\tTwo\\nlines\n", "utf-8")
    assert prepare(data, out, validation_share=0.25).written
    assert not prepare(data, out, validation_share=0.25).written
    assert read_texts(out / TEXTS, KNOWN, FaultPolicy()) == [
        ("title", "N1", "One"),
        ("body", "N2", "Two\nlines"),
    ]
    file.write_text("title\tN1\tAnother\n", "utf-8")
    with pytest.raises(InputError, match="other data or settings"):
        prepare(data, out, validation_share=0.25)
    file.write_text("title\tN9\tUnknown\n", "utf-8")
    with pytest.raises(InputError, match=r"texts\.tsv:1: article: 'N9'"):
        prepare(data, tmp_path / "other", validation_share=0.25)
    assert prepare(data, tmp_path / "other", validation_share=0.25, max_bad_rows=1).manifest["bad_rows"] == 1
    assert not (tmp_path / "other" / TEXTS).exists()
