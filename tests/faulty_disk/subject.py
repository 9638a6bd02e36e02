"""What a store has to bring along to be tried: how it is opened, some work for it, and what can be seen of it."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Step(Generic[T]):
    """A part of the work; may be done again if it failed.

    Attributes:
        name: told when it is done, so no two of a subject have the same.
        work: does it, with the open store.
        is_durable: what it did, and all before it, survives a power cut once it has returned. Otherwise only a kill.
    """

    name: str
    work: Callable[[T], Awaitable[Any]]
    is_durable: bool = True


@attrs.frozen
class Subject(Generic[T]):
    """A store and some work for it, which begins in an empty directory.

    Attributes:
        open: opens the store in a directory; what is in it depends on nothing else.
        steps: the work.
        observe: returns what can be seen of the store, as JSON. After a crash it is what it was after some step.
        belongs: patterns of all files that may be there after all steps, the store opened and closed once more.
        unfinished: of what may be there as well as long as steps are left, which go on with it or take it away.
        may_be: whether something may be seen that is none of these states, but lies between them; by default not.
    """

    open: Callable[[Path], AbstractAsyncContextManager[T]]
    steps: Sequence[Step[T]]
    observe: Callable[[T], Awaitable[Any]]
    belongs: Sequence[str]
    unfinished: Sequence[str] = ()
    may_be: Callable[[Any, Sequence[Any]], bool] = lambda _seen, _states: False


def each_part_may_be(seen: Any, states: Sequence[Any]) -> bool:
    """For `Subject.may_be`: each part of what is seen is as in one of the states. For stores of several files."""
    return all(part in [state[place] for state in states] for place, part in enumerate(seen))
