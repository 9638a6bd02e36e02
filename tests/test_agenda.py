"""What a node compares with whom, and when: requests before checks, checks before what is due by itself."""

from itertools import pairwise
from random import Random

import pytest

from poolnet.ids import DeviceId
from poolnet.limits import RECONCILE_INTERVAL_S, RECONCILE_NEWS_S, RECONCILE_RETRY_S
from poolnet.protocol.agenda import Agenda, Job, Outcome
from poolnet.wire.claims import HIGHEST, Bound

ANN, BOB, CID = (DeviceId(bytes([number]) * 32) for number in (1, 2, 3))
EARLY: Bound = (5, b"")
LATE: Bound = (9, b"")


def agenda(*peers: DeviceId, is_due: bool = False) -> Agenda:
    result = Agenda(Random(1))
    for peer in peers:
        result.link_up(peer, 0.0, is_due=is_due)
    return result


def run(jobs: Agenda, outcome: Outcome, now: float = 0.0, *, is_vouched_for: bool = False) -> Job:
    """Do the next job, with this outcome."""
    job = jobs.next_job(now)
    assert job is not None
    jobs.ended(job, outcome, now, is_vouched_for=is_vouched_for)
    return job


class TestOlder:
    def test_the_neighbour_that_knows_most_is_asked_first_and_its_word_is_enough(self) -> None:
        jobs = agenda(ANN, BOB, CID)
        jobs.told(ANN, LATE)
        jobs.told(BOB, EARLY)
        jobs.fetch_older(7, LATE, 50)
        job = run(jobs, Outcome.COMPLETE, is_vouched_for=True)
        assert job == Job(BOB, upper=LATE, count=50, request=7)
        assert jobs.take_finished() == [(7, True)]
        assert jobs.take_finished() == []
        assert jobs.next_job(0.0) is None

    def test_without_anybody_who_vouches_all_are_asked_once(self) -> None:
        jobs = agenda(ANN, BOB)
        jobs.fetch_older(7, LATE, 50)
        asked = {run(jobs, Outcome.EQUAL).peer, run(jobs, Outcome.FAILED).peer}
        assert asked == {ANN, BOB}
        assert jobs.next_job(0.0) is None
        assert jobs.take_finished() == [(7, True)]

    def test_nobody_who_answers_fulfils_nothing(self) -> None:
        jobs = agenda(ANN)
        jobs.fetch_older(7, LATE, 50)
        run(jobs, Outcome.FAILED)
        assert jobs.next_job(0.0) is None
        assert jobs.take_finished() == [(7, False)]

    def test_a_neighbour_that_loses_something_is_asked_three_times(self) -> None:
        jobs = agenda(ANN)
        jobs.fetch_older(7, LATE, 50)
        for _ in range(3):
            assert run(jobs, Outcome.LOST).peer == ANN
        assert jobs.next_job(0.0) is None
        assert jobs.take_finished() == [(7, False)]

    def test_a_request_that_was_cancelled_is_forgotten(self) -> None:
        jobs = agenda(ANN)
        jobs.fetch_older(7, LATE, 50)
        job = jobs.next_job(0.0)
        assert job is not None
        jobs.cancel(7)
        jobs.cancel(8)
        jobs.ended(job, Outcome.COMPLETE, 0.0, is_vouched_for=True)
        assert jobs.take_finished() == []


class TestChecks:
    def test_everyone_is_compared_with_until_it_is_equal(self) -> None:
        jobs = agenda(ANN, BOB)
        jobs.check(7, LATE, 0.0)
        assert {run(jobs, Outcome.EQUAL), run(jobs, Outcome.EQUAL)} == {
            Job(ANN, upper=LATE, request=7),
            Job(BOB, upper=LATE, request=7),
        }
        assert jobs.take_finished() == [(7, True)]

    @pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.LOST])
    def test_who_differs_is_looked_at_again_after_pauses_that_double_up_to_a_limit(self, outcome: Outcome) -> None:
        jobs = agenda(ANN)
        jobs.check(7, LATE, 0.0)
        now = 0.0
        for pause_s in (0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            run(jobs, outcome, now)
            assert jobs.next_deadline(is_busy=False) == pytest.approx(now + pause_s)
            assert jobs.next_job(now + pause_s - 0.01) is None
            now += pause_s + 0.0001
        assert jobs.take_finished() == []

    def test_who_fails_is_tried_again_later_and_who_was_interrupted_at_once(self) -> None:
        jobs = agenda(ANN)
        jobs.check(7, LATE, 0.0)
        run(jobs, Outcome.INTERRUPTED)
        run(jobs, Outcome.FAILED)
        assert jobs.next_job(0.74 * RECONCILE_RETRY_S) is None
        assert jobs.next_job(1.26 * RECONCILE_RETRY_S) is not None

    def test_neighbours_that_come_are_compared_with_as_well_and_those_that_go_are_not(self) -> None:
        jobs = agenda(ANN, BOB)
        jobs.check(7, LATE, 0.0)
        jobs.link_up(CID, 1.0, is_due=False)
        jobs.link_down(ANN)
        assert {run(jobs, Outcome.EQUAL, 1.0).peer, run(jobs, Outcome.EQUAL, 1.0).peer} == {BOB, CID}
        assert jobs.take_finished() == [(7, True)]
        jobs.check(8, LATE, 2.0)
        jobs.link_down(BOB)
        jobs.link_down(CID)
        assert jobs.take_finished() == [(8, False)], "nobody is left to compare with"


class TestByItself:
    def test_a_new_link_is_compared_with_at_once_by_one_of_the_two(self) -> None:
        assert agenda(ANN).next_job(0.0) is None
        assert run(agenda(ANN, is_due=True), Outcome.EQUAL) == Job(ANN, upper=HIGHEST)

    def test_requests_come_before_checks_and_these_before_what_is_due(self) -> None:
        jobs = agenda(ANN, is_due=True)
        jobs.check(7, EARLY, 0.0)
        jobs.fetch_older(8, LATE, 5)
        done = [run(jobs, Outcome.EQUAL, is_vouched_for=True).request for _ in range(3)]
        assert done == [8, 7, None]

    def test_regular_comparisons_go_on_while_there_is_a_neighbour(self) -> None:
        jobs = agenda(ANN, BOB)
        found = []
        while len(found) < 50:
            at = jobs.next_deadline(is_busy=True)
            assert at is not None
            jobs.tick(at - 0.001)
            assert jobs.next_job(at) is None
            jobs.tick(at)
            job = run(jobs, Outcome.EQUAL, at)
            found.append((at, job))
        assert {job for _, job in found} == {Job(ANN, is_regular=True), Job(BOB, is_regular=True)}
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(found)]
        assert min(gaps) >= 0.75 * RECONCILE_INTERVAL_S
        assert max(gaps) <= 1.25 * RECONCILE_INTERVAL_S
        assert max(gaps) - min(gaps) > 0.2 * RECONCILE_INTERVAL_S
        jobs.link_down(ANN)
        jobs.link_down(BOB)
        assert jobs.next_deadline(is_busy=False) is None

    def test_news_is_told_to_all_but_the_only_one_who_brought_it(self) -> None:
        jobs = agenda(ANN, BOB, CID)
        jobs.news([ANN], LATE, 1.0)
        jobs.news([ANN], EARLY, 1.05)
        at = jobs.next_deadline(is_busy=True)
        assert at == 1.0 + RECONCILE_NEWS_S
        jobs.tick(at)
        assert {run(jobs, Outcome.EQUAL, at), run(jobs, Outcome.EQUAL, at)} == {
            Job(BOB, upper=LATE),
            Job(CID, upper=LATE),
        }
        assert jobs.next_job(at) is None
        jobs.news([ANN, BOB], EARLY, 2.0)
        jobs.tick(3.0)
        assert {run(jobs, Outcome.EQUAL, 3.0) for _ in range(3)} == {Job(peer, upper=EARLY) for peer in (ANN, BOB, CID)}

    def test_what_was_lost_is_tried_again_after_longer_and_longer(self) -> None:
        jobs = agenda(ANN, is_due=True)
        now = 0.0
        for pause_s in (0.4, 1.6, 6.4, RECONCILE_RETRY_S, RECONCILE_RETRY_S):
            assert run(jobs, Outcome.LOST, now) == Job(ANN)
            assert jobs.next_job(now + pause_s - 0.01) is None
            now += pause_s + 0.001
        run(jobs, Outcome.EQUAL, now)
        jobs.news([BOB], LATE, now)
        jobs.tick(now + 1)
        assert run(jobs, Outcome.LOST, now + 1) == Job(ANN, upper=LATE)
        assert jobs.next_job(now + 1.41) == Job(ANN, upper=LATE), "the losses of before are forgotten"

    def test_what_failed_or_was_interrupted_is_still_to_be_done(self) -> None:
        jobs = agenda(ANN, is_due=True)
        assert run(jobs, Outcome.INTERRUPTED, 1.0) == Job(ANN)
        assert run(jobs, Outcome.FAILED, 1.0) == Job(ANN)
        assert jobs.next_job(1.0 + 0.74 * RECONCILE_RETRY_S) is None
        assert jobs.next_job(1.0 + 1.26 * RECONCILE_RETRY_S) == Job(ANN)

    def test_of_two_things_that_are_due_the_earlier_time_and_the_higher_end_count(self) -> None:
        jobs = agenda(ANN, is_due=True)
        job = jobs.next_job(0.0)
        assert job == Job(ANN)
        jobs.news([BOB], LATE, 0.0)
        jobs.tick(0.2)
        jobs.ended(regular_until(job, EARLY), Outcome.FAILED, 0.2)
        assert jobs.next_job(0.2) == Job(ANN, upper=LATE)

    @pytest.mark.parametrize("uppers", [(EARLY, LATE), (LATE, EARLY)])
    def test_of_news_on_news_before_there_was_time_for_them_the_higher_end_counts(
        self, uppers: tuple[Bound, Bound]
    ) -> None:
        jobs = agenda(ANN)
        for number, upper in enumerate(uppers):
            jobs.news([BOB], upper, float(number))
            jobs.tick(number + RECONCILE_NEWS_S)
        assert run(jobs, Outcome.EQUAL, 2.0) == Job(ANN, upper=LATE)
        assert jobs.next_job(2.0) is None


def regular_until(job: Job, upper: Bound) -> Job:
    """Return the job as one that leaves out the latest and ends there."""
    return Job(job.peer, upper=upper, is_regular=True)
