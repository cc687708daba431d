"""`explain`: the ranker's own attention, told by the ids that the reader clicked."""

import itertools

import numpy as np


def test_weights_sum_to_one_over_the_clicks_that_count(ask):
    history = " ".join(f"N{number}" for number in range(1, 61))
    answer = ask("explain", history=[history, "N7 nobody N7"], candidates=["N70 N71 N72", "N80"])
    assert answer["weight"].shape == (2, 3, 50)
    np.testing.assert_allclose(answer["weight"][0].sum(-1), 1, atol=1e-5)
    assert answer["history_id"][0].tolist() == [f"N{number}".encode() for number in range(11, 61)]
    assert answer["history_id"][1].tolist() == [b"N7", b"N7", *[b""] * 48]
    np.testing.assert_allclose(answer["weight"][1, 0, :2].sum(), 1, atol=1e-5)
    assert (answer["weight"][1, :, 2:] == 0).all() and (answer["weight"][1, 1:] == 0).all()


def test_where_there_is_nothing_to_weigh_all_weights_are_zero(ask):
    answer = ask("explain", history=["", "nobody", "N1 N2"], candidates=["N1 N2", "N3", "N4 nobody"])
    assert answer["history_id"].tolist() == [[b"", b""], [b"", b""], [b"N1", b"N2"]]
    assert answer["weight"].sum(-1).round(5).tolist() == [[0, 0], [0, 0], [1, 0]]
    alone = ask("explain", history=[""], candidates=[""])
    assert alone["history_id"].tolist() == [[b""]] and alone["weight"].shape == (1, 0, 1)


def test_the_weights_are_those_that_the_click_probability_was_made_with(ask, models, catalogue):
    """Attended similarities made from the answer give the ranker's own logit, so nothing else was told."""
    ranker = models[1]
    rows = [3, 9, 4, 40]
    told = ask("explain", history=["N3 N9 N4 N40"], candidates=["N20 N30"])["weight"]
    clicks, shown = catalogue.ranking_vectors[rows][None], catalogue.ranking_vectors[[20, 30]][None]
    mask = np.ones((1, 4), bool)
    found = ranker.similarities(clicks, mask, shown).numpy()  # [1, 2, 3, parts]
    starts = np.cumsum([0, *ranker.parts])
    for part, (start, end) in enumerate(itertools.pairwise(starts)):
        alike = shown[0, :, start:end] @ clicks[0, :, start:end].T  # [2, 4]
        np.testing.assert_allclose((told[0] * alike).sum(-1), found[0, :, 0, part], atol=1e-5)
    assert np.ptp(told[0], axis=-1).max() > 1e-3  # no candidate-aware weights could be all alike here
