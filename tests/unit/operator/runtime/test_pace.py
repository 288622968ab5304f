from neuronmodel_operator.runtime.pace import Pace


def test_a_few_are_asked_as_often_as_they_wish() -> None:
    pace = Pace(25.0)
    assert [pace.pause(uid, 2.0) for uid in "abc"] == [2.0, 2.0, 2.0]
    assert pace.pause("d", 60.0) == 60.0
    assert pace.pause("a", None) is None


def test_thousands_share_the_questions_of_a_second() -> None:
    pace = Pace(25.0)
    for _ in range(2):  # a second wish replaces the first
        pauses = [pace.pause(f"rests-{number}", 60.0) for number in range(10_000)]
    assert pauses[-1] == 400.0


def test_those_that_rest_hold_nobody_up_who_starts() -> None:
    pace = Pace(25.0)
    for number in range(10_000):
        pace.pause(f"rests-{number}", 60.0)
    assert pace.pause("starts", 2.0) == 2.0


def test_who_is_forgotten_counts_no_more() -> None:
    pace = Pace(25.0)
    for number in range(3000):
        pace.pause(str(number), 60.0)
    for number in range(2999):
        pace.forget(str(number))
    assert pace.pause("another", 60.0) == 60.0
