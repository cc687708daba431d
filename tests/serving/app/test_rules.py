"""What the operator decides."""

from datetime import UTC, datetime, timedelta

import pytest

from genre_tf.errors import InputError
from genre_tf.serving.app.rules import Pin, Rollout, Rules, RulesFile, parse_shares

NOW = datetime(2026, 1, 5, tzinfo=UTC)
RANKED = ["s1", "s2", "f1", "s3", "f2", "x"]


def category(news_id):
    return {"s": "sports", "f": "finance"}.get(news_id[0], "")


def arranged(rules, k=4, never=(), ranked=RANKED):
    return rules.arranged(ranked, k, never, category, NOW)[0]


def test_without_rules_the_order_stays_and_nothing_comes_twice():
    assert arranged(Rules(), ranked=["s1", "s1", "f1"]) == ["s1", "f1"]
    assert arranged(Rules(), k=2, never={"s1"}) == ["s2", "f1"]


def test_categories_are_capped_and_unknown_ones_are_not():
    assert arranged(Rules(max_per_category=1), ranked=[*RANKED, "y"]) == ["s1", "f1", "x", "y"]
    assert arranged(Rules(caps={"sports": 0})) == ["f1", "f2", "x"]


def test_pins_have_their_place_until_their_time_and_until_they_are_read():
    pins = Rules(
        pins=(Pin(article="p", place=2), Pin(article="late", place=1, until=NOW - timedelta(hours=1)))
    )
    order, pinned = pins.arranged(RANKED, 3, (), category, NOW)
    assert order == ["s1", "p", "s2"] and pinned == {"p"}
    assert arranged(pins, 3, never={"p"}) == ["s1", "s2", "f1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("blocked = 'N1'", "must be a list"),
        ("block = []", "unknown key 'block'"),
        ("max_per_category = 0", "at least 1"),
        ("[[pins]]\nplace = 1", "article is missing"),
        ("[[pins]]\narticle = 'N1'\nplace = 0", "at least 1"),
        ("[[pins]]\narticle = 'N1'\nuntil = 'soon'", "datetime"),
        ("caps = {sports = 'few'}", "type int"),
        ("blocked = [", "TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, content, said):
    file = tmp_path / "rules.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=said):
        RulesFile(file)


def test_a_file_is_read_again_when_it_changes_and_a_fault_changes_nothing(tmp_path):
    file, said = tmp_path / "rules.toml", []
    file.write_text("blocked = ['N1']")
    found = RulesFile(file, said.append)
    file.write_text("blocked = ['N1', 'N2']")
    found.look()
    assert found.rules.blocked == ("N1", "N2")
    file.write_text("blocked = 7")
    found.look()
    found.look()
    assert found.rules.blocked == ("N1", "N2") and len(said) == 1
    file.unlink()
    found.look()
    assert found.rules.blocked == ("N1", "N2")


def test_shares_of_readers_are_kept_within_a_point_and_sticky():
    rollout = Rollout({"canary": 0.05, "next": 0.2}, "salt")
    labels = [rollout.label(f"reader-{number}") for number in range(10_000)]
    assert labels.count("canary") / 10_000 == pytest.approx(0.05, abs=0.01)
    assert labels.count("next") / 10_000 == pytest.approx(0.2, abs=0.01)
    assert labels == [rollout.label(f"reader-{number}") for number in range(10_000)]
    assert set(labels) == {"canary", "next", "stable"}
    grown = Rollout({"canary": 0.1}, "salt")
    assert all(grown.label(f"reader-{n}") == "canary" for n in range(10_000) if labels[n] == "canary")


def test_shares_are_parsed_or_refused():
    assert parse_shares(["canary=5%", "next=0.25"]) == {"canary": 0.05, "next": 0.25}
    for wrong in (["canary"], ["=5%"], ["a=x"], ["a=-1%"], ["a=101%"], ["a=nan"], ["a=60%", "b=50%"]):
        with pytest.raises(InputError, match="--canary"):
            parse_shares(wrong)
