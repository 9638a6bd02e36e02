"""The content of a folder spread over files, against one row of bytes."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import FileId
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.folder_layout import FolderLayout, Selection
from poolnet.wire.folder_list import EntryKind

LIST_ID = FileId(bytes(range(1, 33)))

FILES = st.lists(st.tuples(st.sampled_from(["", "a/", "a/b/"]), st.integers(0, 12), st.booleans()), max_size=8)
WRITES = st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=40)), max_size=8)


def settle(layout: FolderLayout, path: Path) -> None:
    position: int | None = 0
    while position is not None:
        position = layout.settle(path, position)


@given(FILES, WRITES, st.booleans())
def test_what_is_written_anywhere_is_read_back_and_lies_in_the_files(
    files: list[tuple[str, int, bool]], writes: list[tuple[int, bytes]], has_selection: bool
) -> None:
    index, selected = FolderIndex(), bytearray()
    for number, (directory, size, is_selected) in enumerate(sorted(files)):
        index.append(f"{directory}{number}", size, EntryKind.FILE)
        selected.append(is_selected or not has_selection)
    model = bytearray(index.starts[-1]) + LIST_ID
    with tempfile.TemporaryDirectory() as directory:
        spill, path = Path(directory) / "spill", Path(directory) / "part"
        selection = Selection(selected=selected, spill=spill) if has_selection else None
        layout = FolderLayout(lambda: index, LIST_ID, selection)
        layout.create(path)
        with layout.writing(path) as open_files:
            for offset, data in writes:
                fitting = data[: max(0, index.starts[-1] - offset)]
                model[offset : offset + len(fitting)] = fitting
                open_files.write(offset, fitting)
                assert open_files.read(0, len(model)) == model
        settle(layout, path)
        with layout.reading(path, is_complete=not has_selection) as open_files:
            assert open_files.read(0, len(model)) == model
            for offset, data in writes:
                end = min(offset + len(data), len(model))
                assert open_files.read(offset, max(0, end - offset)) == model[offset:end]
        found = {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
        assert found == {
            name: bytes(model[index.starts[place] : index.starts[place + 1]])
            for place, name in enumerate(index.paths)
            if selected[place]
        }
        layout.publish(path, Path(directory) / "complete")
        assert not spill.exists()
        layout.discard(Path(directory) / "complete")
        assert not (Path(directory) / "complete").exists()


def test_what_cannot_be_removed_any_more_does_not_make_a_published_folder_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    index = FolderIndex()
    for name in ("a", "b"):
        index.append(name, 4, EntryKind.FILE)
    spill, part, target = tmp_path / "spill", tmp_path / "x.part", tmp_path / "x"
    layout = FolderLayout(lambda: index, LIST_ID, Selection(selected=bytearray([True, False]), spill=spill))
    layout.create(part)
    with layout.writing(part) as files:
        files.write(0, b"12345678")
    settle(layout, part)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        layout.publish(part, target)
    assert (target / "a").read_bytes() == b"1234"
    assert spill.exists()
    layout.discard(target)
    assert not spill.exists()
