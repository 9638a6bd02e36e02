"""Patterns that choose files of a folder, as in a shell: to leave them out of an offer, or to fetch only those."""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Final

_WILDCARDS: Final = frozenset("*?[")


def matcher(patterns: Sequence[str]) -> Callable[[str, bool], bool]:
    """Return a function that tells of a path, and whether it is a directory, whether a pattern matches it.

    Args:
        patterns: one without a slash is about names (``*.tmp``), one with a slash about paths relative to the folder
            (``build/*.o``; ``/build``), where a ``*`` goes across slashes, too; one that ends in a slash is about
            directories only.
    """
    compiled = [_compile(pattern) for pattern in patterns]

    def is_match(path: str, is_directory: bool) -> bool:
        name = path.rpartition("/")[2]
        return any(
            (is_directory or not only_directories) and matches.match(path if is_path else name)
            for matches, is_path, only_directories in compiled
        )

    return is_match


def is_pattern(text: str) -> bool:
    """Return whether a text has wildcards in it."""
    return not _WILDCARDS.isdisjoint(text)


def _compile(pattern: str) -> tuple[re.Pattern[str], bool, bool]:
    """Return what a pattern means: an expression, whether it is for paths, and whether for directories only."""
    body = pattern.rstrip("/").removeprefix("**/")
    return re.compile(translate(body.lstrip("/"))), "/" in body, pattern.endswith("/")
