"""Which part of its history a node keeps in agreement, and where two of them meet."""

from poolnet.clock import make_hlc
from poolnet.ids import MsgId
from poolnet.limits import AUTOMATIC_WINDOW_S, RECENT_MESSAGES, RECONCILE_LAG_S
from poolnet.protocol.key_set import MemoryKeys
from poolnet.protocol.windows import Window, answer_opening, open_older, open_window
from poolnet.wire.claims import HIGHEST, LOWEST, Bound, Equal, Fingerprint, Listing, More
from poolnet.wire.message import MessageKey
from poolnet.wire.pool_frames import OpenComparison

HOUR_MS = 3600 * 1000
WEEK_MS = AUTOMATIC_WINDOW_S * 1000
NOW_MS = 1001 * HOUR_MS + 17


def key(unix_ms: int, number: int = 0) -> MessageKey:
    return (make_hlc(unix_ms), MsgId(number.to_bytes(32, "big")))


def bound(unix_ms: int) -> Bound:
    return (make_hlc(unix_ms), b"")


def window(known_from: Bound | None = LOWEST, *, floor: Bound = LOWEST, is_whole: bool = False) -> Window:
    return Window(known_from=known_from, floor=floor, unix_ms=NOW_MS, is_whole=is_whole)


#: More than the recent ones, a minute apart and all within the week.
MANY = MemoryKeys(key(NOW_MS - 60_000 * (number + 1)) for number in range(RECENT_MESSAGES + 50))
#: As many, but a year old.
OLD = MemoryKeys(key(HOUR_MS + 60_000 * number) for number in range(RECENT_MESSAGES + 50))


class TestWhereItBegins:
    def test_a_week_ago_to_the_hour_if_enough_was_said_since(self) -> None:
        assert window().start(MANY) == bound((NOW_MS - WEEK_MS) // HOUR_MS * HOUR_MS)

    def test_with_the_recent_messages_if_they_are_older(self) -> None:
        oldest = HOUR_MS + 60_000 * 50
        assert window().start(OLD) == bound(oldest)
        assert OLD.summary(bound(oldest), HIGHEST).count == RECENT_MESSAGES

    def test_at_the_very_beginning_if_there_are_fewer(self) -> None:
        assert window().start(MemoryKeys([key(5)])) == LOWEST

    def test_never_before_what_is_known_or_was_let_go(self) -> None:
        assert window(bound(NOW_MS - 5)).start(OLD) == bound(NOW_MS - 5)
        assert window(floor=bound(NOW_MS - 5)).start(OLD) == bound(NOW_MS - 5)
        assert window(None, floor=bound(7)).start(OLD) == bound(7)

    def test_as_far_back_as_there_is_anything_if_age_does_not_matter(self) -> None:
        assert window(bound(3), floor=bound(2), is_whole=True).start(MANY) == bound(3)

    def test_a_newcomer_is_suggested_the_last_session_but_no_more_than_the_week_and_has_nothing_to_suggest(
        self,
    ) -> None:
        assert window(None).suggested(MANY) is None
        first = NOW_MS - 60_000 * (RECENT_MESSAGES + 50)
        assert window().suggested(MANY) == bound(first)
        keys = MemoryKeys([*MANY.keys(LOWEST, HIGHEST, 1000), key(NOW_MS - 48 * HOUR_MS)])
        assert window().suggested(keys) == bound(first)
        assert window(is_whole=True).suggested(keys) == LOWEST
        talk = MemoryKeys(key(first + 1000 * number) for number in range(3 * RECENT_MESSAGES))
        assert window().suggested(talk) == bound(first)


class TestWhatIsSaid:
    def test_what_may_still_be_on_its_way_is_left_out(self) -> None:
        upper = bound(NOW_MS - round(RECONCILE_LAG_S * 1000))
        assert open_window(MANY, window(), upper=HIGHEST, leave_out_latest=True).upper == upper
        assert open_window(MANY, window(), upper=bound(9), leave_out_latest=True).upper == window().start(MANY)
        assert open_window(MANY, window(), upper=HIGHEST, leave_out_latest=False).upper == HIGHEST

    def test_the_newest_message_is_the_latest_if_it_is_ahead_of_the_time(self) -> None:
        keys = MemoryKeys([key(5), key(NOW_MS + 7000)])
        opening = open_window(keys, window(), upper=HIGHEST, leave_out_latest=True)
        assert opening.upper == bound(NOW_MS + 7000 - round(RECONCILE_LAG_S * 1000))
        early = Window(known_from=LOWEST, floor=LOWEST, unix_ms=1, is_whole=False)
        assert open_window(MemoryKeys(), early, upper=HIGHEST, leave_out_latest=True).upper == bound(0)

    def test_the_fingerprint_is_of_what_lies_between(self) -> None:
        opening = open_window(MANY, window(), upper=key(NOW_MS - 30 * 60_000), leave_out_latest=False)
        assert opening.fingerprint == MANY.summary(opening.lower, opening.upper).fingerprint()
        assert opening.suggested == window().suggested(MANY)

    def test_older_messages_are_as_many_as_asked_for_and_nothing_that_was_let_go(self) -> None:
        upper = key(NOW_MS - 100 * 60_000)
        opening = open_older(MANY, window(), upper=upper, count=3)
        assert MANY.summary(opening.lower, upper).count == 3
        assert opening.fingerprint == MANY.summary(opening.lower, upper).fingerprint()
        assert open_older(MANY, window(), upper=upper, count=1000).lower == LOWEST
        floor = bound(NOW_MS - 101 * 60_000 - 1)
        assert open_older(MANY, window(floor=floor), upper=upper, count=3).lower == floor
        assert open_older(MANY, window(floor=HIGHEST), upper=upper, count=3).lower == upper


class TestWhatIsAnswered:
    def test_who_has_the_same_says_so(self) -> None:
        frame = opened(MANY, lower=window().start(MANY))
        found = answer_opening(MANY, window(), frame)
        assert (found.lower, found.takes_from) == (frame.lower, frame.lower)
        assert [type(claim) for claim in found.answer.claims] in ([Equal], [])

    def test_who_keeps_less_begins_later_with_a_fingerprint_of_its_own(self) -> None:
        late = bound(NOW_MS - 10 * 60_000)
        found = answer_opening(MANY, window(late), opened(MANY, lower=LOWEST))
        assert found.lower == found.takes_from == late
        assert found.answer.claims == (Fingerprint(HIGHEST, MANY.summary(late, HIGHEST).fingerprint()),)

    def test_who_keeps_nothing_of_it_says_nothing(self) -> None:
        found = answer_opening(MANY, window(HIGHEST), opened(MANY, lower=LOWEST, upper=bound(NOW_MS)))
        assert (found.lower, found.answer.claims) == (bound(NOW_MS), ())

    def test_a_newcomer_begins_where_it_is_told_to(self) -> None:
        suggested = bound(NOW_MS - 20 * 60_000)
        found = answer_opening(MemoryKeys(), window(None), opened(MANY, lower=LOWEST, suggested=suggested))
        assert found.lower == found.takes_from == suggested
        floor = bound(NOW_MS - 10 * 60_000)
        found = answer_opening(MemoryKeys(), window(None, floor=floor), opened(MANY, lower=LOWEST, suggested=suggested))
        assert found.lower == floor

    def test_a_newcomer_is_met_where_it_is_suggested_to_begin(self) -> None:
        talk = MemoryKeys(key(NOW_MS - 1000 * (number + 1)) for number in range(2 * RECENT_MESSAGES))
        old = MemoryKeys([*talk.keys(LOWEST, HIGHEST, 1000), key(NOW_MS - 48 * HOUR_MS)])
        found = answer_opening(old, window(), opened(talk, lower=LOWEST, suggested=None))
        assert found.lower == window().suggested(old) == bound(NOW_MS - 2000 * RECENT_MESSAGES)

    def test_older_messages_begin_with_as_many_and_are_not_taken_by_who_did_not_ask(self) -> None:
        upper = key(NOW_MS - 100 * 60_000)
        found = answer_opening(MANY, window(bound(NOW_MS)), opened(MANY, lower=LOWEST, upper=upper, count=3))
        assert MANY.summary(found.lower, upper).count == 3
        assert found.takes_from == bound(NOW_MS)
        found = answer_opening(MANY, window(None), opened(MANY, lower=LOWEST, upper=upper, count=1000))
        assert (found.lower, found.takes_from) == (LOWEST, HIGHEST)

    def test_what_differs_is_listed(self) -> None:
        mine = MemoryKeys([key(NOW_MS - 9), key(NOW_MS - 8)])
        frame = opened(MemoryKeys([key(NOW_MS - 9)]), lower=LOWEST)
        (claim,) = answer_opening(mine, window(), frame).answer.claims
        assert isinstance(claim, Listing | More)
        assert len(claim.ids) == 2


def opened(
    keys: MemoryKeys, *, lower: Bound, upper: Bound = HIGHEST, suggested: Bound | None = LOWEST, count: int = 0
) -> OpenComparison:
    fingerprint = keys.summary(lower, upper).fingerprint()
    return OpenComparison(
        run=1, lower=lower, upper=upper, count=count, suggested=suggested, fingerprint=fingerprint, scope=0
    )
