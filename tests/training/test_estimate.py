"""What a training will take is known from a few steps, of which the first does not count."""

import pytest

from genre_tf.training.estimate import Estimate, Stopwatch, duration, seconds_of, validations_left
from genre_tf.training.learner import Pace


def test_the_first_call_is_traced_and_does_not_count():
    stopwatch = Stopwatch()
    stopwatch.note(Pace(steps=1, seconds=30.0))
    assert stopwatch.step_seconds is None
    for _ in range(4):
        stopwatch.note(Pace(steps=1, seconds=0.6))
    assert stopwatch.step_seconds is None  # long enough, but only four steps
    stopwatch.note(Pace(steps=2, seconds=1.2))
    assert stopwatch.step_seconds == pytest.approx(0.6)


def test_of_very_slow_steps_one_is_enough():
    stopwatch = Stopwatch()
    for _ in range(2):
        stopwatch.note(Pace(steps=1, seconds=12.0))
    assert stopwatch.step_seconds == pytest.approx(12.0)


def test_an_estimate_counts_steps_validations_and_what_comes_before():
    estimate = Estimate(
        steps=400, step_seconds=0.08, validations=4, validation_seconds=1.5, other_seconds=10.0
    )
    assert estimate.seconds == pytest.approx(48.0)
    assert (
        str(estimate) == "400 steps, 12 per second, 4 validations of 1.5 s, 10 s before and after: about 48 s"
    )


def test_a_time_has_the_unit_that_people_use():
    assert [duration(each) for each in (33.4, 99.0, 420.0, 12_600.0)] == ["33 s", "99 s", "7 min", "3.5 h"]


@pytest.mark.parametrize(("done", "left"), [(0, 4), (3, 4), (4, 3), (11, 2), (12, 1), (13, 0)])
def test_a_validation_comes_every_few_steps_and_at_the_end(done, left):
    assert validations_left(13, done, 4) == left


def test_a_short_call_is_timed_the_second_time():
    calls = []
    seconds_of(lambda: calls.append(1))
    assert len(calls) == 2
