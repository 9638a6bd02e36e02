"""Comparing sets by ranges: the sets themselves, one step, and that two sets always come to their union."""

from collections.abc import Sequence
from random import Random

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import WireError
from poolnet.ids import MsgId
from poolnet.limits import (
    MAX_CLAIMS_PER_FRAME,
    MAX_COMPARE_SIZE,
    MAX_COMPARED_IDS,
    MAX_FRAME_SIZE,
    RECONCILE_BRANCHING,
    RECONCILE_LIST_BELOW,
    SESSION_GAP_S,
)
from poolnet.protocol.reconcile import (
    HIGHEST,
    LOWEST,
    Bound,
    MemoryKeys,
    Summary,
    answer,
    check_claims,
    separator,
    summary_of,
)
from poolnet.wire.claims import (
    CLAIM,
    Claim,
    Equal,
    Fingerprint,
    Listing,
    More,
    decode_bound_untrusted,
    encode_bound,
    size_of,
)
from poolnet.wire.framing import FrameSet, encode_frame
from poolnet.wire.message import MessageKey
from poolnet.wire.pool_frames import POOL_FRAMES, Compare

FRAMES = FrameSet(POOL_FRAMES)


def key(hlc: int, number: int = 0) -> MessageKey:
    return Hlc(hlc), MsgId(blake3(b"%d %d" % (hlc, number)).digest())


#: Few stamps and few ids, so that sets overlap, stamps are shared, and ids begin alike.
IDS = st.sampled_from(
    [
        MsgId(bytes([first, second]) + bytes(29) + bytes([last]))
        for first in (0, 1)
        for second in (0, 7)
        for last in (0, 1, 255)
    ]
)
STAMPS = st.one_of(st.integers(0, 20), st.integers(2**62, 2**62 + 2**20), st.just(2**63 - 1)).map(Hlc)
KEYS = st.tuples(STAMPS, IDS)
KEY_SETS = st.sets(KEYS, max_size=60)
BOUNDS = st.one_of(
    st.just(LOWEST),
    st.just(HIGHEST),
    KEYS,
    st.tuples(STAMPS.map(int), st.binary(max_size=3)),
)


def within(keys: set[MessageKey], lower: Bound, upper: Bound) -> list[MessageKey]:
    return sorted(item for item in keys if lower <= item < upper)


# --- sets of keys -----------------------------------------------------------------------------------------------


@given(keys=KEY_SETS, lower=BOUNDS, upper=BOUNDS, number=st.integers(1, 70))
def test_keys_in_memory_answer_as_a_plain_set(keys: set[MessageKey], lower: Bound, upper: Bound, number: int) -> None:
    memory = MemoryKeys(keys)
    expected = within(keys, lower, upper)
    assert list(memory) == sorted(keys)
    assert memory.summary(lower, upper) == summary_of(msg_id for _, msg_id in expected)
    assert memory.keys(lower, upper, number) == expected[:number]
    below = within(keys, LOWEST, upper)
    assert memory.nth_newest(upper, number) == (below[-number] if number <= len(below) else None)


@given(keys=KEY_SETS, lower=BOUNDS, upper=BOUNDS, count=st.integers(1, 20))
def test_parts_of_a_range_are_about_equal_and_make_it_up(
    keys: set[MessageKey], lower: Bound, upper: Bound, count: int
) -> None:
    lower, upper = min(lower, upper), max(lower, upper)
    memory = MemoryKeys(keys)
    expected = within(keys, lower, upper)
    parts = memory.parts(lower, upper, count)
    assert len(parts) == max(1, min(count, len(expected)))
    assert parts[-1][0] == upper
    assert sum((summary for _, summary in parts), Summary()) == memory.summary(lower, upper)
    counts = [summary.count for _, summary in parts]
    assert max(counts) - min(counts) <= 1
    start = lower
    for bound, summary in parts:
        assert summary == memory.summary(start, bound)
        start = bound


@given(first=KEYS, second=KEYS)
def test_a_separator_is_between_two_keys_and_no_longer_than_needed(first: MessageKey, second: MessageKey) -> None:
    below, above = min(first, second), max(first, second)
    if below == above:
        return
    bound = separator(below, above)
    assert below < bound <= above
    assert bound[1] == b"" if below[0] != above[0] else not below < (bound[0], bound[1][:-1])


def test_a_large_set_changes_as_a_plain_set_does() -> None:
    rng = Random(1)
    model: set[MessageKey] = set()
    memory = MemoryKeys()
    for number in range(6000):
        if model and rng.random() < 0.3:
            gone = rng.choice(sorted(model)[:50] if number % 2 else list(model))
            model.remove(gone)
            memory.remove(gone)
            assert gone not in memory
        else:
            new = key(rng.randrange(3000), rng.randrange(2))
            assert memory.add(new) == (new not in model)
            model.add(new)
            assert new in memory
    assert list(memory) == sorted(model)
    assert len(memory) == len(model)
    for _ in range(50):
        lower, upper = sorted((key(rng.randrange(3000)), key(rng.randrange(3000))))
        assert memory.summary(lower, upper) == summary_of(item[1] for item in within(model, lower, upper))
    with pytest.raises(KeyError):
        memory.remove(key(10_000))


def test_a_session_begins_after_a_long_silence() -> None:
    gap_ms = int(SESSION_GAP_S * 1000)
    times = [0, gap_ms, 2 * gap_ms, 3 * gap_ms + 1, 3 * gap_ms + 2]
    keys = [key(make_hlc(1000 + unix_ms)) for unix_ms in times]
    memory = MemoryKeys(keys)
    assert memory.session_start(HIGHEST) == keys[3]
    assert memory.session_start(keys[3]) == keys[0]
    assert memory.session_start(keys[0]) is None


def test_summaries_add_and_subtract_and_their_fingerprints_tell_count_and_sum() -> None:
    ids = [MsgId(bytes([255]) * 32), MsgId(bytes(31) + b"\1"), MsgId(bytes(32))]
    whole = summary_of(ids)
    assert whole == summary_of(ids[:1]) + summary_of(ids[1:])
    assert whole - summary_of(ids[1:]) == summary_of(ids[:1])
    assert whole.total == 0
    assert len(whole.fingerprint()) == 16
    assert len({summary_of(ids[:count]).fingerprint() for count in range(4)}) == 4


# --- claims on the wire -----------------------------------------------------------------------------------------


@given(bound=BOUNDS, keys=st.lists(KEYS))
def test_a_bound_divides_messages_in_the_same_way_after_the_wire(bound: Bound, keys: list[MessageKey]) -> None:
    again = decode_bound_untrusted(encode_bound(bound))
    assert [item < again for item in keys] == [item < bound for item in keys]
    assert decode_bound_untrusted(encode_bound(again)) == again


@pytest.mark.parametrize("item", [b"\x80" + bytes(7) + b"\1", b"\xff", bytes(41), "text", 7, None])
def test_what_is_no_bound_is_refused(item: object) -> None:
    with pytest.raises(WireError):
        decode_bound_untrusted(item)


ID_LISTS = st.lists(IDS, max_size=5).map(tuple)
CLAIMS = st.one_of(
    st.builds(Equal, BOUNDS),
    st.builds(Fingerprint, BOUNDS, st.binary(min_size=16, max_size=16)),
    st.builds(Listing, BOUNDS, ID_LISTS),
    st.builds(More, BOUNDS, ID_LISTS),
)


def through_the_wire(frame: Compare) -> Compare:
    decoded = FRAMES.decode_untrusted(encode_frame(frame)[4:])
    assert isinstance(decoded, Compare)
    return decoded


@given(claims=st.lists(CLAIMS, max_size=10))
def test_claims_keep_their_meaning_on_the_wire_and_are_no_longer_than_said(claims: list[Claim]) -> None:
    frame = Compare(run=1, is_answer=True, lower=LOWEST, claims=tuple(claims))
    again = through_the_wire(frame)
    assert [type(claim) for claim in again.claims] == [type(claim) for claim in claims]
    assert through_the_wire(again) == again
    assert len(encode_frame(frame)) <= 20 + sum(map(size_of, claims))


@given(items=st.recursive(st.none() | st.integers(0, 5) | st.binary(max_size=70), lambda inner: st.lists(inner)))
def test_what_is_no_claim_is_refused(items: object) -> None:
    try:
        decoded = CLAIM.decode(items)
    except WireError:
        return
    assert isinstance(decoded, Equal | Fingerprint | Listing | More)


def test_claims_must_ascend() -> None:
    check_claims((5, b""), [Equal((6, b"")), Equal((6, b"a"))])
    for uppers in ([(5, b"")], [(6, b""), (6, b"")], [(7, b""), (6, b"")]):
        with pytest.raises(WireError):
            check_claims((5, b""), [Equal(upper) for upper in uppers])


# --- one step ---------------------------------------------------------------------------------------------------


def ask(memory: MemoryKeys) -> tuple[Claim, ...]:
    return (Fingerprint(HIGHEST, memory.summary(LOWEST, HIGHEST).fingerprint()),)


def test_equal_sets_are_found_equal_in_one_step() -> None:
    memory = MemoryKeys([key(number) for number in range(1000)])
    said = answer(memory, LOWEST, ask(memory), takes_from=LOWEST)
    assert said.claims == (Equal(HIGHEST),)
    assert said.agreed == ((LOWEST, HIGHEST),)
    assert not said.asks


def test_few_messages_are_listed_and_many_are_compared_in_parts() -> None:
    few = MemoryKeys([key(number) for number in range(RECONCILE_LIST_BELOW)])
    many = MemoryKeys([key(number) for number in range(5000)])
    listing = answer(few, LOWEST, ask(many), takes_from=LOWEST)
    assert [type(claim) for claim in listing.claims] == [Listing]
    parts = answer(many, LOWEST, ask(few), takes_from=LOWEST)
    assert [type(claim) for claim in parts.claims] == [Fingerprint] * RECONCILE_BRANCHING
    assert parts.asks


def test_a_list_is_answered_with_what_is_here_besides_and_tells_what_is_lacking() -> None:
    mine = [key(number) for number in range(10)]
    theirs = [*mine[3:], key(50)]
    said = answer(MemoryKeys(mine), LOWEST, [Listing(HIGHEST, ids(theirs))], takes_from=LOWEST)
    assert said.claims == (More(HIGHEST, ids(mine[:3])),)
    assert said.lacking == ids([key(50)])
    assert not said.asks


def ids(keys: Sequence[MessageKey]) -> tuple[MsgId, ...]:
    return tuple(msg_id for _, msg_id in keys)


def test_what_is_lacking_below_where_history_is_wanted_is_not_wanted_but_all_is_given() -> None:
    mine = [key(number) for number in range(4)]
    claims = [Listing((50, b""), ids([key(10)])), Listing(HIGHEST, ids([key(60)]))]
    said = answer(MemoryKeys(mine), LOWEST, claims, takes_from=(50, b""))
    assert said.lacking == ids([key(60)])
    assert said.claims[0] == More((50, b""), ids(mine))


def test_an_answer_of_as_many_claims_as_a_frame_holds_leaves_the_rest_to_one_fingerprint() -> None:
    memory = MemoryKeys([key(number) for number in range(RECONCILE_LIST_BELOW + 1)])
    uppers: list[Bound] = [(100 + number, b"") for number in range(MAX_CLAIMS_PER_FRAME)]
    claims: list[Claim] = [Fingerprint(uppers[0], bytes(16))]  # answered with two
    equal = Summary().fingerprint()
    claims += [Fingerprint(upper, equal) if number % 2 else Equal(upper) for number, upper in enumerate(uppers[1:])]
    said = answer(memory, LOWEST, claims, takes_from=LOWEST)
    assert len(said.claims) == MAX_CLAIMS_PER_FRAME
    assert said.claims[-1] == Fingerprint(uppers[-1], equal)
    frame = Compare(run=1, is_answer=True, lower=LOWEST, claims=said.claims)
    assert through_the_wire(frame) == frame


def test_a_page_ends_just_above_what_it_tells_also_among_messages_of_the_same_time() -> None:
    keys = sorted(key(7, number) for number in range(500))
    memory = MemoryKeys(keys)
    for max_size in range(1024, 8192, 32):  # each ends at another message
        page, rest = answer(memory, LOWEST, [Listing(HIGHEST, ())], takes_from=LOWEST, max_size=max_size).claims
        assert isinstance(page, More)
        assert page.ids == ids(within({*keys}, LOWEST, page.upper))
        assert rest == Fingerprint(HIGHEST, memory.summary(page.upper, HIGHEST).fingerprint())


def test_an_empty_list_is_answered_page_by_page() -> None:
    memory = MemoryKeys([key(number) for number in range(5000)])
    claims: tuple[Claim, ...] = (Listing(HIGHEST, ()),)
    lower: Bound = LOWEST
    told: list[MsgId] = []
    for _ in range(100):
        said = answer(memory, lower, claims, takes_from=LOWEST)
        assert sum(map(size_of, said.claims)) <= MAX_COMPARE_SIZE + 100
        assert isinstance(said.claims[0], More)
        told += said.claims[0].ids
        if not said.asks:
            break
        lower, claims = said.claims[0].upper, (Listing(HIGHEST, ()),)
    assert tuple(told) == ids(list(memory))


def test_a_list_about_a_range_with_too_much_in_it_is_answered_with_parts() -> None:
    keys = [key(number) for number in range(MAX_COMPARED_IDS + 1)]
    said = answer(MemoryKeys(keys), LOWEST, [Listing(HIGHEST, ids([key(5)]))], takes_from=LOWEST)
    assert {type(claim) for claim in said.claims} == {Fingerprint}
    assert said.lacking == ()
    just_fits = MemoryKeys(keys[:-1])
    said = answer(just_fits, LOWEST, [Listing(HIGHEST, ids(list(just_fits)[3:]))], takes_from=LOWEST)
    assert said.claims == (More(HIGHEST, ids(list(just_fits)[:3])),)


@given(seed=st.integers(0, 2**32), count=st.integers(1, MAX_CLAIMS_PER_FRAME))
def test_whatever_is_claimed_the_answer_is_bounded_and_about_the_same_range(seed: int, count: int) -> None:
    rng = Random(seed)
    memory = MemoryKeys([key(rng.randrange(100_000)) for _ in range(rng.choice((0, 10, 3000)))])
    uppers: list[Bound] = sorted({(rng.randrange(1, 100_000), b"") for _ in range(count)})
    claims: list[Claim] = []
    for upper in uppers:
        some = ids([key(rng.randrange(100_000)) for _ in range(rng.choice((0, 1, 20)))])
        kinds: tuple[Claim, ...] = (
            Equal(upper),
            Fingerprint(upper, bytes(16)),
            Listing(upper, some),
            More(upper, some),
        )
        claims.append(kinds[rng.randrange(4)])
    said = answer(memory, LOWEST, claims, takes_from=LOWEST)
    check_claims(LOWEST, said.claims)
    assert not said.claims or said.claims[-1].upper <= uppers[-1]
    assert len(said.claims) <= MAX_CLAIMS_PER_FRAME
    assert len(encode_frame(Compare(run=1, is_answer=True, lower=LOWEST, claims=said.claims))) < MAX_FRAME_SIZE / 2


# --- many steps -------------------------------------------------------------------------------------------------


class Exchange:
    """Two sets, one comparing with the other until nothing is asked any more. Frames pass the wire."""

    def __init__(self, one: MemoryKeys, other: MemoryKeys, *, max_size: int = MAX_COMPARE_SIZE) -> None:
        self.sets = (one, other)
        self.lacking: tuple[set[MsgId], set[MsgId]] = (set(), set())
        self.max_size = max_size
        self.bytes_sent = 0
        self.frames = 0

    def run(self) -> None:
        claims, lower, turn = ask(self.sets[0]), LOWEST, 1
        while claims:
            frame = through_the_wire(Compare(run=1, is_answer=turn == 0, lower=lower, claims=claims))
            self.bytes_sent += len(encode_frame(frame))
            self.frames += 1
            said = answer(self.sets[turn], frame.lower, frame.claims, takes_from=LOWEST, max_size=self.max_size)
            self.lacking[turn].update(said.lacking)
            claims = said.claims if said.asks or any(isinstance(claim, More) for claim in said.claims) else ()
            turn = 1 - turn
            assert self.frames < 1000


@given(one=KEY_SETS, other=KEY_SETS, max_size=st.sampled_from([1, 300, MAX_COMPARE_SIZE]))
def test_any_two_sets_find_exactly_what_each_lacks(one: set[MessageKey], other: set[MessageKey], max_size: int) -> None:
    one, other = unique(one | other, one), unique(one | other, other)
    exchange = Exchange(MemoryKeys(one), MemoryKeys(other), max_size=max_size)
    exchange.run()
    assert exchange.lacking == (set(ids(sorted(other - one))), set(ids(sorted(one - other))))


def unique(union: set[MessageKey], keys: set[MessageKey]) -> set[MessageKey]:
    """Leave out keys so that each id has one stamp, as ids of messages do."""
    by_id = {item[1]: item for item in sorted(union)}
    return {item for item in keys if by_id[item[1]] == item}


@pytest.mark.parametrize("seed", range(4))
def test_large_sets_find_exactly_what_each_lacks(seed: int) -> None:
    rng = Random(seed)
    union = [key(rng.randrange(2**50), number) for number in range(20_000)]
    one = {item for item in union if rng.random() < (0.999, 0.5, 0.01, 1.0)[seed]}
    other = {item for item in union if rng.random() < (0.999, 0.5, 0.99, 0.0)[seed]}
    exchange = Exchange(MemoryKeys(one), MemoryKeys(other))
    exchange.run()
    assert exchange.lacking == (set(ids(sorted(other - one))), set(ids(sorted(one - other))))


def test_ten_differences_among_a_hundred_thousand_cost_less_than_20_kb_and_6_round_trips() -> None:
    rng = Random(1)
    union = [key(make_hlc(10**12 + 10_000 * number + rng.randrange(10_000))) for number in range(100_010)]
    lost = rng.sample(union, 10)
    exchange = Exchange(MemoryKeys({*union} - {*lost[:5]}), MemoryKeys({*union} - {*lost[5:]}))
    exchange.run()
    print(f"\n10 of 100 010 different: {exchange.bytes_sent} bytes, {exchange.frames} frames")
    assert exchange.lacking == (set(ids(lost[:5])), set(ids(lost[5:])))
    assert exchange.bytes_sent < 16_000  # the messages themselves come on top
    assert exchange.frames <= 8
