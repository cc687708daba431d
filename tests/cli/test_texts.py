"""Titles and articles on the command line: a text, or a file; a mistyped file is no text."""

import pytest

from genre_tf.cli.clients import read_text, read_titles
from genre_tf.errors import InputError


def test_a_file_is_read_and_anything_else_is_a_text(tmp_path):
    (tmp_path / "article.txt").write_text("Storm\n\n closes schools \n", "utf-8")
    assert read_titles(str(tmp_path / "article.txt")) == ["Storm", "closes schools"]
    assert read_titles(r"Storm\nRain") == ["Storm", "Rain"]
    assert read_text("") == ""


def test_a_file_of_a_windows_editor_has_a_title_on_each_line_and_no_more(tmp_path):
    (tmp_path / "titles.txt").write_bytes("\ufeffStorm\u2028closes schools\r\nRain\r\n".encode())
    assert read_titles(str(tmp_path / "titles.txt")) == ["Storm\u2028closes schools", "Rain"]


@pytest.mark.parametrize(
    "text",
    ["Storm closes schools", "AC/DC", "24/7", "Read it in notes.txt", "北京今日大雪", "U.S.", "/", "Mr."],
)
def test_what_only_resembles_a_file_name_is_a_text(text):
    assert read_text(text) == text


@pytest.mark.parametrize(
    "name", ["artcle.txt", "notes.MD", "today/news.tsv", "./article", "../a/b", "~/article", "/tmp/none/a"]
)
def test_the_name_of_a_file_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="there is no file"):
        read_text(name)
