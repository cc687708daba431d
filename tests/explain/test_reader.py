"""What a reader likes, in a sentence that his clicks bear out."""

import json
import re
from dataclasses import asdict

import pytest

from genre_tf.explain.reader import Click, Profile, TitleWords, profile
from genre_tf.generation.safety import SafetyList

CORPUS = TitleWords(
    [
        "The game was close",
        "A game of chess",
        "Astros win the game",
        "Rain today",
        "Rain and more rain",
        "Bread",
    ]
)


def reader(*clicks: tuple[str, str, str]) -> list[Click]:
    """Clicks of equal share: title, category, subcategory."""
    return [Click(f"N{at}", *click, 1 / len(clicks)) for at, click in enumerate(clicks, 1)]


FAN = reader(
    ("Astros' Verlander wins the Stanley Cup game", "sports", "icehockey_nhl"),
    ("What the Stanley Cup means for Houston", "sports", "icehockey_nhl"),
    ("The Astros game that nobody saw", "sports", "icehockey_nhl"),
    ("Chiefs lose the game", "sports", "football_nfl"),
    ("Senate votes on a budget", "news", "newspolitics"),
    ("Senate's budget is late", "news", "newspolitics"),
)


def test_a_reader_is_told_by_his_categories_and_the_words_that_come_again() -> None:
    found = profile(FAN, CORPUS)
    assert found.sentence == (
        "Likes sports (4 of 6 clicks, mostly icehockey nhl) and news (2, mostly newspolitics); "
        "several of the titles name Stanley Cup, Astros, budget and Senate."
    )
    assert [(one.name, one.clicks, one.mostly) for one in found.categories] == [
        ("sports", 4, "icehockey_nhl"),
        ("news", 2, "newspolitics"),
    ]
    assert found.categories[0].share == pytest.approx(4 / 6)


def test_every_word_stands_in_the_titles_of_the_clicks_it_is_shown_by() -> None:
    titles = {click.news_id: click.title.lower() for click in FAN}
    for word in profile(FAN, CORPUS).words:
        assert len(word.news_ids) >= 2
        assert all(word.text.lower() in titles[news_id] for news_id in word.news_ids)


def test_rare_words_say_more_than_usual_ones_in_as_many_titles() -> None:
    clicks = reader(*((f"Astros game {letter}", "", "") for letter in "abcdef"))
    usual = TitleWords(["game on", "game off", "Rain", "Bread", "Wind", "Snow"])
    assert profile(clicks, usual).words[0].text == "Astros game"
    apart = reader(
        ("Astros in a game", "", ""), ("game for the Astros", "", ""), ("x", "", ""), ("y", "", "")
    )
    assert [word.text for word in profile(apart, usual).words] == ["Astros", "game"]


def test_a_word_of_half_of_all_titles_is_not_named() -> None:
    words = TitleWords([f"News: {word}" for word in ("Rain", "Wind", "Bread", "Snow", "Ice")])
    clicks = reader(*((f"News: {word}", "", "") for word in ("Rain of May", "Rain", "Wind", "Bread")))
    assert [word.text for word in profile(clicks, words).words] == ["Rain"]


def test_names_say_more_than_other_words_as_rare() -> None:
    clicks = reader(*((f"Texas: she dies {letter}", "", "") for letter in "abcdef"))
    abstracts = ["A man dies in Texas.", "The plant dies. Texas is dry."]
    titles = ["Texas", "dies"]
    assert [word.text for word in profile(clicks, TitleWords(titles, abstracts)).words] == ["Texas", "dies"]
    assert [word.text for word in profile(clicks, TitleWords(titles)).words] == [
        "dies",
        "Texas",
    ]  # by letters


def test_a_word_and_its_plural_are_named_once() -> None:
    clicks = reader(*((title, "", "") for title in ("Photo: a", "Photo: b", "Photos: c", "Photos: d")))
    assert [word.text for word in profile(clicks, CORPUS).words] == ["Photo"]
    told = profile(reader(("Won't and can't", "", ""), ("They're back", "", ""), ("You're", "", "")), CORPUS)
    assert told.words == ()  # contractions name nothing


def test_clicks_count_as_they_are_weighed() -> None:
    clicks = [
        Click("N1", "Bread", "food", "", 0.9),
        *(Click(f"N{at}", "Rain", "weather", "", 0.02) for at in range(2, 7)),
    ]
    assert [one.name for one in profile(clicks[:3], CORPUS).categories] == ["food"]
    few = [Click("N1", "Bread", "food", "", 0.6), Click("N2", "Rain", "weather", "", 0.4)]
    assert [one.name for one in profile(few, CORPUS).categories] == ["food", "weather"]
    assert (
        profile(clicks, CORPUS).categories == ()
    )  # one click of many is no taste, and five weigh too little


@pytest.mark.parametrize(
    ("clicks", "sentence"),
    [
        ([], "Has clicked nothing yet."),
        (
            reader(("Bread and butter", "food", "")),
            "Likes food (1 of 1 click); the titles name Bread and butter.",
        ),
        (reader(("It is what it is", "food", "")), "Likes food (1 of 1 click)."),
        (
            reader(("Bread", "", ""), ("Rain", "", "")),
            "Of 2 clicked articles the titles name Bread and Rain.",
        ),
        (
            reader(*((title, "", "") for title in ("Bread", "Rain", "Wind", "Snow"))),
            "Has clicked 4 articles, which share neither a category nor a telling word.",
        ),
        (reader(("Bread", "", "")), "Has clicked 1 article, whose title names Bread."),
        (
            reader(("It is what it is", "", "")),
            "Has clicked 1 article, which shows neither a category nor a telling word.",
        ),
        (
            reader(("It is", "", ""), ("Is it", "", "")),
            "Has clicked 2 articles, which show neither a category nor a telling word.",
        ),
        (reader(("新闻 今天", "news", "")), "Likes news (1 of 1 click)."),
    ],
)
def test_whatever_is_known_is_said_and_nothing_else(clicks: list[Click], sentence: str) -> None:
    assert profile(clicks, CORPUS).sentence == sentence


@pytest.mark.parametrize(
    ("clicks", "unknown", "sentence"),
    [
        ([], 1, "Has clicked 1 article, of which nothing is known."),
        ([], 3, "Has clicked 3 articles, of which nothing is known."),
        (
            reader(("It is", "food", "")),
            2,
            "Likes food (1 of 1 click). Not counted: 2 clicks on unknown articles.",
        ),
    ],
)
def test_clicks_of_which_nothing_is_known_are_told(clicks: list[Click], unknown: int, sentence: str) -> None:
    found = profile(clicks, CORPUS, unknown=unknown)
    assert (found.sentence, found.clicks, found.unknown) == (sentence, len(clicks), unknown)


def test_without_abstracts_the_titles_tell_what_is_no_name() -> None:
    titles = ["A plant dies", "The dog dies", "Texas", "Texas again", "Texas is dry"]
    clicks = reader(*((f"Texas: she dies {letter}", "", "") for letter in "abcdef"))
    words = TitleWords([*titles, *"uvwxyz"])
    assert [word.text for word in profile(clicks, words).words] == ["Texas", "dies"]


def test_the_same_title_clicked_twice_is_one_title() -> None:
    clicks = reader(*[("Bread is back", "", "")] * 2, ("Rain", "", ""), ("Wind", "", ""))
    assert profile(clicks, CORPUS).words == ()


def test_words_that_a_safety_list_refuses_are_not_named() -> None:
    clicks = reader(("Bread war", "food", ""), ("Bread peace", "food", ""))
    named = [word.text for word in profile(clicks, CORPUS, SafetyList(words=("bread",))).words]
    assert named and not any("bread" in word.lower() for word in named)
    shouted = reader(("Shit happens", "", ""), ("shit again", "", ""))
    assert "shit" not in profile(shouted, CORPUS).sentence.lower()


def test_a_program_reads_the_same() -> None:
    found: Profile = profile(FAN, CORPUS)
    document = json.loads(json.dumps(asdict(found)))
    assert (document["sentence"], document["clicks"]) == (found.sentence, 6)
    assert document["words"][0] == {"text": "Stanley Cup", "news_ids": ["N1", "N2"]}
    assert set(document["categories"][0]) == {"name", "clicks", "share", "mostly"}
    assert not re.search(r"[<|]", found.sentence)
