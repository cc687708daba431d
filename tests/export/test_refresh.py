"""From a served index to the next one, without training and without the run."""

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from genre_tf.cli.export import refresh as refresh_verb
from genre_tf.contract import COUNTED, RECOMMENDER, SIGNATURES
from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.counters import Counters
from genre_tf.errors import FailureError, InputError
from genre_tf.export import refreshing
from genre_tf.export.contract_file import files_fingerprint, read_contract
from genre_tf.export.exporting import write_version
from genre_tf.export.pool import Pool, build_catalogue
from genre_tf.export.publishing import publish, staged
from genre_tf.export.refreshing import Changes, refresh
from genre_tf.export.requests import Exchange, as_bytes
from genre_tf.export.saved_model import attached_values
from genre_tf.export.servables import recommender_servable
from genre_tf.export.server_config import write_configuration
from genre_tf.export.verification import verify_version
from genre_tf.funnel.index import read_catalogue
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels
from genre_tf.serving.operations.version_choice import roll_back

from ..cli.conftest import genre  # noqa: F401  (fixture)
from .conftest import NoProcess
from .reference import RecommenderReference

SIZES = {"max_history": 5, "k": 5, "retrieve": 20}
START = datetime(2019, 11, 10)
RULES = Rules(max_age_hours=20, max_per_category=2)
TOPICS = ("rates", "match", "storm", "cure", "vote")


def article(number, edition=""):
    category = ("sports", "finance", "unheard of", "")[number % 4]
    topic = TOPICS[number % len(TOPICS)]
    abstract = f"what {topic} means for number {number % 9}" if number % 3 else ""
    return Article(f"N{number}", category, "", f"{topic} story {number}{edition}", abstract)


def impression(hour, shown, clicked=()):
    time = START + timedelta(hours=hour)
    ids = tuple(f"N{number}" for number in shown)
    return Impression(str(hour), "U1", time, (), ids, tuple(number in clicked for number in shown))


OLD = [article(number) for number in range(1, 41)]
NEW = [article(number) for number in range(41, 53)]
OLD_LOG = [impression(hour, range(hour + 1, hour + 9), (hour + 2,)) for hour in range(24)]
NEW_LOG = [impression(30 + hour, range(20 + hour, 44 + hour), (41, 42)) for hour in range(4)]


def news_file(folder, articles):
    file = folder / "news.tsv"
    rows = [(one.news_id, one.category, one.subcategory, one.title, one.abstract) for one in articles]
    file.write_text("".join("\t".join(row) + "\n" for row in rows))
    return file


def behaviors_file(folder, log):
    file = folder / "behaviors.tsv"
    with file.open("w") as rows:
        for one in log:
            shown = " ".join(f"{i}-{int(c)}" for i, c in zip(one.candidates, one.clicked, strict=True))
            rows.write(f"{one.impression_id}\tU1\t{one.time:%m/%d/%Y %I:%M:%S %p}\tN900 N1\t{shown}\n")
    return file


def catalogue_of(models, articles, log):
    """A full export's catalogue of articles and logs, and when it is of."""
    table = ArticleTable(articles)
    counters = Counters()
    for one in log:
        counters.observe(one)
    as_of = counters.newest + timedelta(seconds=1)
    return build_catalogue(ServedModels(*models), table, Pool.of(table, counters).counters), as_of


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """MODELS with a first version; never changed by a refresh."""
    folder = tmp_path_factory.mktemp("refresh")
    catalogue, as_of = catalogue_of(models, OLD, OLD_LOG)
    servable = recommender_servable(
        ServedModels(*models), catalogue, folder, **SIZES, rules=RULES, as_of=as_of
    )
    with staged(folder / "models" / servable.name) as version:
        write_version(servable, version, {"metrics": {"auc": 0.5}}, (1, 2))
        publish(version)
    return folder / "models"


@pytest.fixture(scope="module")
def first(served):
    return served / "genre_recommender" / "1"


@pytest.fixture(scope="module")
def fingerprint(first):
    return files_fingerprint(first)


@pytest.fixture(scope="module")
def refreshed(served, fingerprint, tmp_path_factory):
    """The second version: articles 41 to 52, a newer log, and an age limit of 24 hours."""
    folder = tmp_path_factory.mktemp("today")
    news = news_file(folder, [*OLD[:3], article(33, ", corrected"), *NEW])
    behaviors = behaviors_file(folder, [*OLD_LOG[-2:], *NEW_LOG])
    said = []
    done = refresh(served, Changes(news=news, behaviors=behaviors, expire=24.0), said.append)
    assert any("left out 2 impressions" in line for line in said), said
    return done


@pytest.fixture(scope="module")
def full(models):
    """What a full export of the same articles and logs would know; a refresh calls what it adds new, too."""
    articles = [article(33, ", corrected") if one.news_id == "N33" else one for one in [*OLD, *NEW]]
    catalogue = catalogue_of(models, articles, [*OLD_LOG, *NEW_LOG])[0]
    never_shown = np.flatnonzero(catalogue.counters[:, 1] == 0)[1:]
    assert [catalogue.news_ids[row] for row in never_shown] == [f"N{number}" for number in range(47, 53)]
    catalogue.counters[never_shown, 2] = 1e-3
    return catalogue


@pytest.fixture(scope="module")
def live():
    """Ids that may be recommended: N1 to N16 are older than 24 hours, of which N12 to N16 are still read."""
    return [f"N{number}" for number in range(12, 53)]


@pytest.fixture(scope="module")
def stale():
    return [f"N{number}" for number in range(1, 12)]


@pytest.fixture(scope="module")
def ask_old(first, open_session):
    return open_session(first)


@pytest.fixture(scope="module")
def ask_new(refreshed, open_session):
    return open_session(refreshed.version)


def test_a_refresh_is_the_next_version_and_verified(refreshed, first):
    assert refreshed.version == first.parent / "2"
    assert (refreshed.added, refreshed.changed) == (12, 1)
    # Of the first version N2 to N31 could be recommended, clicked each; N1 and N32 to N40 could not.
    assert (refreshed.articles, refreshed.recommendable, refreshed.expired) == (52, 41, 10)
    assert refreshed.verification.passed and refreshed.verification.version == "2"
    assert sorted(entry.name for entry in first.parent.iterdir()) == ["1", "2"]


def test_the_live_version_is_not_touched(refreshed, first, fingerprint):
    assert files_fingerprint(first) == fingerprint


def test_the_index_equals_that_of_a_full_export(refreshed, full):
    index = read_catalogue(attached_values(refreshed.version, "index"))
    assert index.news_ids == full.news_ids and index.titles == full.titles
    for name in ("retrieval_vectors", "ranking_vectors", "counters"):
        np.testing.assert_allclose(getattr(index, name), getattr(full, name), rtol=1e-5, atol=1e-5)
    assert (np.abs(index.ranking_vectors[1:]).sum(1) > 0).all()


def test_answers_equal_those_of_the_models_over_a_full_export(ask_new, models, full):
    rules = replace(RULES, max_age_hours=24.0)
    reference = RecommenderReference(ServedModels(*models), full, **SIZES, rules=rules)
    rows = {"history": as_bytes(["N30 N45", "", "N9 N31 N44 N33"])}
    expected = reference.answer(Exchange("recommend", "full", rows)).outputs
    answer = ask_new("recommend", **{name: list(values) for name, values in rows.items()})
    np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-5, atol=1e-5)
    assert answer["news_id"].tolist() == expected["news_id"].tolist()


def test_the_new_articles_are_known_and_recommended(ask_new, ask_old, live):
    new = [one.news_id for one in NEW]
    assert ask_new("score", history=["N30"], candidates=[" ".join(new)])["known"].all()
    assert not ask_old("score", history=["N30"], candidates=[" ".join(new)])["known"].any()
    read = " ".join(news_id for news_id in live if news_id not in new)
    answer = ask_new("recommend", history=[read])
    assert {one.decode() for one in answer["news_id"][0]} <= set(new) and (answer["score"] > 0).all()
    titles = {one.news_id.encode(): one.title.encode() for one in NEW}
    assert [titles[news_id] for news_id in answer["news_id"][0]] == answer["title"][0].tolist()


def test_old_articles_answer_as_before_the_expired_ones_too(ask_new, ask_old):
    rows = {"history": ["N35 N36 N38", "N30 N2 N5", "N3"], "candidates": ["N31 N32 N34", "N37", "N1 N7"]}
    for signature, names in (("score", rows), ("explain", rows), ("embed_user", ("history",))):
        before, after = (ask(signature, **{n: rows[n] for n in names}) for ask in (ask_old, ask_new))
        for name in before:
            assert before[name].tolist() == after[name].tolist(), (signature, name)


def test_expired_articles_are_known_and_never_recommended(ask_new, stale):
    assert ask_new("score", history=[""], candidates=[" ".join(stale)])["known"].all()
    shown = ask_new("recommend", history=["", " ".join(stale), "N30 N45", " ".join(stale[:4])])["news_id"]
    assert not {one.decode() for one in shown.ravel()} & set(stale)


def test_where_all_live_ones_were_read_nothing_is_recommended(ask_new, live):
    assert set(ask_new("recommend", history=[" ".join(live)])["news_id"][0]) == {b""}
    found = set(ask_new("recommend", history=[" ".join(live[5:])])["news_id"][0]) - {b""}
    assert len(found) >= 3 and found <= {b"N12", b"N13", b"N14", b"N15", b"N16"}  # old, and still read


def test_the_contract_tells_what_was_refreshed(refreshed, first):
    before, after = read_contract(first), read_contract(refreshed.version)
    assert after["signatures"] == before["signatures"] and after["batch_sizes"] == [1, 2]
    assert before["sizes"]["max_age_hours"] == 20
    assert after["sizes"] == {**before["sizes"], "articles": 52, "max_age_hours": 24}
    assert after["sources"]["metrics"] == {"auc": 0.5}
    assert before["sources"]["counters_as_of"] == "2019-11-10T23:00:01"
    assert after["sources"]["counters_as_of"] == "2019-11-11T09:00:01"
    assert after["sources"]["refreshed"]["from_version"] == "1"
    assert after["fingerprints"]["weights"] != before["fingerprints"]["weights"]


def test_where_nothing_changes_no_version_appears(served, refreshed, tmp_path, capsys):
    refresh_verb(served, news=news_file(tmp_path, NEW), expire="24", withdraw=["nobody"], json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(refreshed.version) and told["verification"] is None
    assert (told["added"], told["changed"], told["expired"], told["articles"]) == (
        0,
        0,
        0,
        refreshed.articles,
    )
    assert len(list(refreshed.version.parent.iterdir())) == 2


def test_after_a_rollback_the_served_version_is_refreshed(served, refreshed, first, tmp_path, monkeypatch):
    changes = Changes(news=news_file(tmp_path, OLD))
    assert refresh(served, changes, print, base=1, fresh=NoProcess(())).version == first
    with pytest.raises(InputError, match=r"no version 9 in .*published: 1, 2"):
        refresh(served, Changes(expire=1.0), print, base=9)
    models, asked = tmp_path / "models", []
    shutil.copytree(served, models)

    def note(models, changes, report, *chosen_and_process, evidence_base):
        assert evidence_base is None, "there is no generator"
        asked.append(chosen_and_process[:-1])
        return refreshed

    monkeypatch.setattr(refreshing, "refresh", note)
    refresh_verb(models, expire="1")
    write_configuration(models, [RECOMMENDER], 4)
    refresh_verb(models, expire="1")
    roll_back(models, RECOMMENDER, 1)
    refresh_verb(models / RECOMMENDER, expire="1")
    refresh_verb(models, expire="1", from_version=2)
    assert asked == [(None, None), (2, (1, 2, 4)), (1, (1, 2, 4)), (2, (1, 2, 4))]


def test_a_broken_news_file_ends_with_status_2_and_leaves_nothing(served, refreshed, tmp_path, genre):  # noqa: F811
    broken = tmp_path / "news.tsv"
    broken.write_text("N90\tsports\tonly three columns\n")
    found = genre("refresh", served, "--news", broken)
    assert found.returncode == 2 and "news.tsv:1" in found.stderr and "Traceback" not in found.stderr
    assert sorted(entry.name for entry in refreshed.version.parent.iterdir()) == ["1", "2"]


def test_what_does_not_verify_is_not_published(served, refreshed, tmp_path, monkeypatch):
    class Failed:
        passed, servable = False, "genre_recommender"

        def all_faults(self):
            return ["recommend: wrong"]

    monkeypatch.setattr(refreshing, "verify_version", lambda *_: Failed())
    news = news_file(tmp_path, [article(99)])
    with pytest.raises(FailureError, match="not published: recommend: wrong"):
        refresh(served, Changes(news=news), print, fresh=NoProcess(()))
    assert sorted(entry.name for entry in refreshed.version.parent.iterdir()) == ["1", "2"]


def test_wrong_input_is_told(served, refreshed, tmp_path):
    def refreshed_by(models, changes):
        refresh(models, changes, print, fresh=NoProcess())

    with pytest.raises(InputError, match="nothing to refresh"):
        Changes()
    with pytest.raises(InputError, match="no version of genre_recommender"):
        refreshed_by(tmp_path, Changes(expire=1.0))
    with pytest.raises(InputError, match="none of the 52 articles may be recommended"):
        log = behaviors_file(tmp_path, [impression(500, (30, 999), (999,))])
        refreshed_by(served, Changes(expire=datetime(2100, 1, 1), behaviors=log))
    with pytest.raises(InputError, match="already counted up to then"):
        refreshed_by(served, Changes(behaviors=behaviors_file(tmp_path, [impression(0, (30, 31), (30,))])))
    with pytest.raises(InputError, match="shows none of"):
        refreshed_by(served, Changes(behaviors=behaviors_file(tmp_path, [impression(99, (999,), (999,))])))
    with pytest.raises(InputError, match="has no labels"):
        unlabelled = tmp_path / "unlabelled.tsv"
        unlabelled.write_text("1\tU1\t11/20/2019 9:00:00 AM\tN1\tN30 N31\n")
        refreshed_by(served, Changes(behaviors=unlabelled))


def test_counters_alone_are_verified_where_they_count_and_all_answers_stay_true(
    refreshed, ask_new, open_session, tmp_path
):
    shutil.copytree(refreshed.version, tmp_path / RECOMMENDER / "2")
    log = behaviors_file(tmp_path, [impression(40, range(20, 44), (21, 30, 43))])
    done = refresh(tmp_path, Changes(behaviors=log), print)
    assert sorted(done.verification.signatures) == sorted(COUNTED) and done.verification.passed
    whole = verify_version(done.version)
    assert whole.passed and set(whole.signatures) == set(SIGNATURES[RECOMMENDER])
    ask = open_session(done.version)
    for signature, promised in SIGNATURES[RECOMMENDER].items():
        if signature in COUNTED or signature == "regress":
            continue
        rows = {name: ["N35 N36 N38", "N30 N2 N5"] for name in promised.input_names}
        before, after = ask_new(signature, **rows), ask(signature, **rows)
        for name in before:
            np.testing.assert_array_equal(before[name], after[name], err_msg=f"{signature}: {name}")
    changed = [ask_one("recommend", history=["N35 N36"])["score"] for ask_one in (ask_new, ask)]
    assert not np.array_equal(*changed)
