"""Whom a server asks for the statements that it lacks: against a crowd of clients that come, answer and go."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from poolnet.limits import MAX_ASKED_STATEMENTS
from poolnet.server.wanted import ClientId, WantedStatements

A, B = ClientId(1), ClientId(2)


def some_ids(count: int) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(32, "big") for number in range(count))


def test_each_statement_is_asked_of_one_client():
    wanted = WantedStatements()
    wanted.offer(A, some_ids(3), room=10)
    wanted.offer(B, some_ids(3), room=10)
    assert wanted.ask() == [(A, some_ids(3))]
    assert wanted.ask() == []


def test_a_client_is_asked_for_more_when_it_has_answered():
    wanted = WantedStatements()
    ids = some_ids(MAX_ASKED_STATEMENTS + 1)
    wanted.offer(A, ids, room=10_000)
    assert wanted.ask() == [(A, ids[:-1])]
    for statement_id in ids[:-1]:
        wanted.arrived(statement_id)
    assert wanted.ask() == [(A, ids[-1:])]
    wanted.arrived(ids[-1])
    assert len(wanted) == 0


def test_another_is_asked_when_a_client_goes():
    wanted = WantedStatements()
    wanted.offer(A, some_ids(2), room=10)
    wanted.offer(B, some_ids(3), room=10)
    wanted.ask()
    wanted.gone(A)
    [(client, ids)] = wanted.ask() or [(B, ())]
    wanted.arrived(some_ids(3)[2])
    ids += dict(wanted.ask()).get(B, ())
    assert client == B
    assert set(some_ids(2)) <= set(ids)


def test_what_nobody_has_any_more_is_forgotten():
    wanted = WantedStatements()
    wanted.offer(A, some_ids(2), room=10)
    wanted.gone(A)
    assert len(wanted) == 0
    assert wanted.ask() == []


def test_no_more_is_wanted_than_there_is_room_for():
    wanted = WantedStatements()
    wanted.offer(A, some_ids(9), room=4)
    assert wanted.ask() == [(A, some_ids(4))]


@given(st.integers(0, 2**32 - 1))
def test_as_long_as_a_holder_stays_everything_arrives_and_nothing_is_asked_twice(seed):
    rng = Random(seed)
    ids = some_ids(rng.randrange(1, 30))
    wanted = WantedStatements()
    arrived: set[bytes] = set()
    under_way: dict[ClientId, list[bytes]] = {}
    stays = ClientId(0)
    wanted.offer(stays, ids, room=1000)
    clients = [ClientId(number) for number in range(1, 6)]
    for _ in range(200):
        if rng.random() < 0.2 and clients:
            wanted.offer(rng.choice(clients), rng.sample(ids, rng.randrange(len(ids))), room=1000)
        elif rng.random() < 0.1 and clients:
            wanted.gone(gone := clients.pop())
            under_way.pop(gone, None)
        for client, asked in wanted.ask():
            assert not set(asked) & {item for queue in under_way.values() for item in queue}
            under_way.setdefault(client, []).extend(asked)
        if busy := [client for client, queue in under_way.items() if queue]:
            item = under_way[rng.choice(busy)].pop()
            arrived.add(item)
            wanted.arrived(item)
        # what was offered again after it had arrived is asked for again; the pool filters that
    assert arrived == set(ids)
