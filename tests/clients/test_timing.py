"""Waiting: back-off and clock."""

from spoolway.timing import Backoff, steady_clock


def test_waits_double_up_to_the_longest() -> None:
    """Each wait is twice the one before, until the longest."""
    backoff = Backoff(0.25, 15, random=lambda: 1.0)

    assert [backoff.next_s() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]


def test_waits_are_shortened_at_random() -> None:
    """Clients that were cut off together do not come back together."""
    assert Backoff(10, 10, random=lambda: 0.0).next_s() == 5
    assert 5 <= Backoff(10, 10).next_s() <= 10


def test_waits_begin_anew_after_success() -> None:
    """What went well is forgotten as trouble."""
    backoff = Backoff(1, 15, random=lambda: 1.0)
    for _ in range(1_000_000):
        backoff.next_s()
        if backoff._step > 3:
            break
    backoff.reset()

    assert backoff.next_s() == 1


def test_waits_stay_at_the_longest_however_long_it_lasts() -> None:
    """A server that is away for years does not overflow the back-off."""
    backoff = Backoff(1, 15, random=lambda: 1.0)

    assert {backoff.next_s() for _ in range(10_000)} == {1, 2, 4, 8, 15}


def test_the_clock_moves_forward() -> None:
    """The clock never goes back."""
    clock = steady_clock()

    assert clock() <= clock()
