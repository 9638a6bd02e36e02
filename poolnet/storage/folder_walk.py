"""What is in a folder on disk: its regular files and empty directories, in the order of a folder list.

Links and special files are never followed or taken, hidden ones only when asked for. Memory is what is found, and the
names of the directories on the way to where the walk is.
"""

import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from poolnet.errors import SourceUnavailable, WireError
from poolnet.limits import MAX_FILE_SIZE, MAX_FOLDER_FILES
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.folder_patterns import matcher
from poolnet.storage.no_links import FolderRoot, opened_folder
from poolnet.wire.folder_list import EntryKind, check_path_untrusted

#: Entries looked at in one step: some 10 ms.
_ENTRIES_PER_STEP: Final = 1000


class FolderWalk:
    """A walk through one folder.

    Args:
        path: a directory, or a link to one.
        exclude: patterns of what is left out with all that is below (folder_patterns.py).
        include_hidden: whether what begins with a dot is taken as well.

    Attributes:
        index: what was found so far; complete when `step` has returned False.
        mtimes_ns: when each entry was last modified (0 for a directory).

    Raises:
        SourceUnavailable: it is no directory.
    """

    def __init__(self, path: Path, *, exclude: Sequence[str] = (), include_hidden: bool = False) -> None:
        self.path = path
        self.index = FolderIndex()
        self.mtimes_ns = array("q")
        self._is_excluded = matcher(exclude)
        self._include_hidden = include_hidden
        if not path.is_dir():
            raise SourceUnavailable(f"{path} is not a folder, or is not there")
        self._root: FolderRoot  # in a step
        self._found = self._walk()

    def step(self) -> bool:
        """Look at some more; return whether there is still more.

        Raises:
            SourceUnavailable: a directory cannot be read, a name cannot be told to others, or it is too much.
        """
        try:
            with opened_folder(self.path, may_be_link=True) as self._root:
                return sum(1 for _ in islice(self._found, _ENTRIES_PER_STEP)) == _ENTRIES_PER_STEP
        except OSError as exc:
            raise SourceUnavailable(f"{self.path} cannot be read: {exc.strerror}") from exc

    def _walk(self) -> Iterator[None]:
        """Take note of everything, in order; yield after each entry."""
        branch = [iter(self._entries(""))]
        while branch:
            for path, is_directory in branch[-1]:
                if is_directory:
                    below = self._entries(path)
                    if not below:
                        self._take(path, 0, 0, EntryKind.EMPTY_DIRECTORY)
                    branch.append(iter(below))
                    break
                self._take_file(path)
                yield
            else:
                branch.pop()
            yield

    def _entries(self, directory: str) -> list[tuple[str, bool]]:
        """Return what is to be taken of a directory, in order: paths, and whether each is a directory itself."""
        prefix = f"{directory}/" if directory else ""
        try:
            with self._root.opened_directory(directory) as descriptor, os.scandir(descriptor) as entries:
                taken = [
                    (prefix + entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if self._is_taken(prefix, entry)
                ]
        except OSError as exc:
            raise SourceUnavailable(f"{self.path / directory} cannot be read: {exc.strerror}; exclude it") from exc
        taken.sort(key=lambda entry: os.fsencode(entry[0]))
        return taken

    def _is_taken(self, prefix: str, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") and not self._include_hidden:
            return False
        is_directory = entry.is_dir(follow_symlinks=False)
        if not is_directory and not entry.is_file(follow_symlinks=False):
            return False
        return not self._is_excluded(prefix + entry.name, is_directory)

    def _take_file(self, path: str) -> None:
        try:
            found = self._root.stat(path)
        except FileNotFoundError:
            return  # it was removed just now
        except OSError as exc:
            raise SourceUnavailable(f"{self.path / path} cannot be read: {exc.strerror}; exclude it") from exc
        if not stat.S_ISREG(found.st_mode):
            return  # it has become something else just now
        kind = EntryKind.EXECUTABLE if found.st_mode & stat.S_IXUSR else EntryKind.FILE
        self._take(path, found.st_size, found.st_mtime_ns, kind)

    def _take(self, path: str, size_bytes: int, mtime_ns: int, kind: EntryKind) -> None:
        try:
            check_path_untrusted(path)
        except UnicodeEncodeError as exc:
            raise SourceUnavailable(f"{self.path / path} has a name that is not UTF-8; rename or exclude it") from exc
        except WireError as exc:
            raise SourceUnavailable(f"{self.path / path} cannot be offered: {exc}; rename or exclude it") from exc
        self.index.append(path, size_bytes, kind)
        self.mtimes_ns.append(mtime_ns)
        if len(self.index) > MAX_FOLDER_FILES or self.index.content_size > MAX_FILE_SIZE:
            raise SourceUnavailable(f"{self.path} is too large; a folder has at most {MAX_FOLDER_FILES} files")
