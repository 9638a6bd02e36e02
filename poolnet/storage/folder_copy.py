"""Files of a folder that are on this device already: copied into the unfinished download, as whole files.

A copy proves nothing: the source may have changed, and the list may lie about what the content is. So every chunk is to
be verified against the content's tree before it counts.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from poolnet.ranges import RangeSet
from poolnet.storage.copying import copy_range
from poolnet.storage.durable import store_errors
from poolnet.storage.folder_layout import FolderLayout
from poolnet.storage.hashing import STEP_SIZE
from poolnet.storage.layout import READING, opened
from poolnet.storage.no_links import FolderRoot, opened_folder

#: Opening two files and closing them is as much work as copying so many bytes.
_WORK_PER_FILE: Final = STEP_SIZE // 200

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class FolderCopier:
    """Copies files into an unfinished download.

    Args:
        path: the part of the download.
        layout: its layout.
        sources: which files (by place in the list), and where each is; ascending.
    """

    def __init__(self, path: Path, layout: FolderLayout, sources: Sequence[tuple[int, Path]]) -> None:
        self._path = path
        self._layout = layout
        self._sources = list(reversed(sources))
        self._offset = 0  # in the file that is being copied
        self._copied = RangeSet()  # of bytes of the content

    def step(self) -> bool:
        """Copy some more; return whether there is still more. A source that cannot be read is left out.

        Raises:
            StoreError: the download cannot be written.
        """
        work = 0
        with store_errors("write", self._path), opened_folder(self._path) as root:
            while self._sources and work < STEP_SIZE:
                place, source = self._sources[-1]
                size = self._layout.index.size(place)
                copied = self._copy(root, place, source, min(STEP_SIZE, size - self._offset))
                work += copied + _WORK_PER_FILE
                self._offset += copied
                if not copied or self._offset == size:
                    self._take_note(place)
        return bool(self._sources)

    def chunks(self) -> RangeSet:
        """Return the chunks (as pieces) of which every byte was copied, or is no part of a file."""
        return self._layout.whole_chunks(self._copied)

    def _copy(self, root: FolderRoot, place: int, source: Path, size: int) -> int:
        """Copy a part of a file; return how many bytes, 0 if the source is of no use."""
        with contextlib.ExitStack() as stack:
            try:
                source_fd = stack.enter_context(opened(source, READING))
                if os.fstat(source_fd).st_size != self._layout.index.size(place):
                    return 0
            except OSError:
                return 0
            target_fd = self._layout.open_entry(root, place)
            stack.callback(os.close, target_fd)
            try:
                return copy_range(source_fd, self._offset, target_fd, self._offset, size)
            except OSError as exc:
                if exc.errno in _NO_SPACE:
                    raise
                return 0  # if it is not the source that fails, fetching will show it

    def _take_note(self, place: int) -> None:
        """End with a file: what was copied of it counts."""
        start = self._layout.index.starts[place]
        self._copied.add_range(start, start + self._offset)
        self._sources.pop()
        self._offset = 0
