"""The list of a version's articles, which needs no TensorFlow to be read."""

import json
import subprocess
import sys

import pytest

from genre_tf.errors import InputError
from genre_tf.export.articles_file import read_articles


def test_a_version_lists_its_articles_with_their_counters(exported, catalogue):
    articles = list(read_articles(exported))
    assert [one.news_id for one in articles] == catalogue.news_ids[1:]
    assert [one.text for one in articles] == catalogue.texts[1:]
    assert articles[4].title == "新闻 今天"
    assert list(articles[3].counters) == pytest.approx(catalogue.counters[4].tolist(), rel=1e-5)


def test_reading_it_imports_no_tensorflow(exported):
    code = (
        "import sys, pathlib\nfrom genre_tf.export.articles_file import read_articles\n"
        f"assert list(read_articles(pathlib.Path({str(exported)!r})))\nassert 'tensorflow' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("content", [None, "{", json.dumps({"news_id": "N1"}), "7"])
def test_a_missing_or_damaged_list_asks_for_another_export(tmp_path, content):
    if content is not None:
        (tmp_path / "assets.extra").mkdir()
        (tmp_path / "assets.extra" / "articles.jsonl").write_text(content)
    with pytest.raises(InputError, match="export again"):
        list(read_articles(tmp_path))
