"""What the files of a received folder are called here: harmless names, no two alike on any file system.

Deterministic: the same list gets the same names everywhere and every time. Of names that differ only in case, in how
their characters are composed, or in what was taken out of them, the first keeps its name, the others get a number.
"""

from pathlib import PurePosixPath

import attrs

from poolnet.printable import looks_as
from poolnet.storage.files import safe_file_name


@attrs.define(kw_only=True)
class _Directory:
    """A directory on the way to the entry that was placed last."""

    wire_name: str
    local_path: str
    taken: dict[str, int] = attrs.Factory(dict)  # folded names, and the last number given to each


class FolderNames:
    """Places the entries of one list, in the order of the list; memory is the names of one branch."""

    def __init__(self) -> None:
        self._branch = [_Directory(wire_name="", local_path="")]

    def place(self, path: str) -> str:
        """Return where an entry goes, relative to the folder, with slashes."""
        *directories, name = path.split("/")
        depth = 0
        while depth < len(directories) and depth + 1 < len(self._branch):
            if self._branch[depth + 1].wire_name != directories[depth]:
                break
            depth += 1
        del self._branch[depth + 1 :]
        for directory in directories[depth:]:
            self._branch.append(_Directory(wire_name=directory, local_path=self._take(directory)))
        return self._take(name)

    def _take(self, name: str) -> str:
        """Claim a name in the last directory of the branch; return the path of it."""
        parent = self._branch[-1]
        chosen = safe = safe_file_name(name)
        key = folded = _fold(safe)
        while key in parent.taken:
            parent.taken[folded] = number = parent.taken[folded] + 1
            chosen = _numbered(safe, number)
            key = _fold(chosen)
        parent.taken[key] = 1
        return f"{parent.local_path}/{chosen}" if parent.local_path else chosen


def _fold(name: str) -> str:
    """Return what names have in common that some file system takes for the same."""
    return name.lower() if name.isascii() else looks_as(name)


def _numbered(name: str, number: int) -> str:
    path = PurePosixPath(name)
    return f"{path.stem} ({number}){path.suffix}"
