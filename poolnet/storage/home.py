"""The home directory of a device: its key, its profile, and a directory a pool.

One process at a time holds a home, by a lock that ends with the process. What lies in a pool's directory belongs to the
services; here is only where it is.
"""

import base64
import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import attrs
import platformdirs
import trio

from poolnet.errors import StoreError, StoreLocked, WireError
from poolnet.ids import PoolId, decode_id_untrusted, encode_id
from poolnet.storage.atomic_json import read_json, write_json
from poolnet.storage.durable import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    make_private_directory,
    remove_unfinished,
    store_errors,
    sync_directory,
    write_durably,
)
from poolnet.storage.files import whole_path

SEED_SIZE: Final = 32
HOME_VARIABLE: Final = "POOLNET_HOME"
#: What is in a home whose key or lock is not there yet, or not any more.
_WITHOUT_KEY: Final = frozenset(("server", "settings.json", "profile.json", "pools"))
#: Ends the name of a pool's directory that is being removed.
_FORGOTTEN: Final = ".forgotten"
#: All that is in a home that nothing was done with.
_UNUSED: Final = frozenset(("device.key", "lock", "pools", "profile.json"))


@attrs.frozen(kw_only=True)
class Profile:
    """Who uses this device: the display name last chosen, and the encoded first AddDevice of the user."""

    name: str | None = None
    user: bytes | None = attrs.field(default=None, repr=False)


class Home:
    """An open home directory. Made by `open_home`.

    Attributes:
        path: the directory.
        seed: the 32 secret bytes of the device key.
        is_new: the key was made now.
    """

    def __init__(self, path: Path, seed: bytes, *, is_new: bool) -> None:
        self.path = path
        self.seed = seed
        self.is_new = is_new

    async def profile(self) -> Profile:
        """Return the stored profile.

        Raises:
            StoreError: it is damaged or cannot be read.
        """
        value = await trio.to_thread.run_sync(_read_object, self.path / "profile.json")
        return _decode_profile(value, self.path / "profile.json")

    async def save_profile(self, profile: Profile) -> None:
        """Store `profile`, durably.

        Raises:
            StoreError: it cannot be written.
        """
        user = None if profile.user is None else base64.b64encode(profile.user).decode()
        await trio.to_thread.run_sync(write_json, self.path / "profile.json", {"name": profile.name, "user": user})

    def pool_ids(self) -> list[PoolId]:
        """Return the pools that have a directory here, in no particular order."""
        found = []
        for entry in (self.path / "pools").iterdir():
            with contextlib.suppress(WireError):  # something that is not ours
                found.append(PoolId(decode_id_untrusted(entry.name)))
        return found

    def pool_directory(self, pool_id: PoolId) -> Path:
        """Return the directory of a pool, made if it is missing.

        Raises:
            StoreError: it cannot be made.
        """
        path = self.path / "pools" / encode_id(pool_id)
        make_private_directory(path)
        return path

    async def forget_pool(self, pool_id: PoolId) -> None:
        """Remove a pool's directory and all that is in it; nothing happens if there is none.

        Raises:
            StoreError: it cannot be removed.
        """
        path = self.path / "pools" / encode_id(pool_id)
        await trio.to_thread.run_sync(_forget_directory, path)


@contextlib.asynccontextmanager
async def open_home(path: Path | None = None) -> AsyncIterator[Home]:
    """Open a home directory, making it and the device key if they are not there, and hold it until the end.

    A home is for its owner only. A directory becomes one only if it is empty, so that none is closed to others by
    mistake. One that is made now goes again if the block fails before anything was begun with it: no pool, no setting.

    Args:
        path: the directory; without it `default_home`.

    Raises:
        StoreLocked: another process, or another part of this one, holds it.
        StoreError: it cannot be made or read, or is a directory with other things in it.
        LocalError: its ``~`` stands for nobody's directory.
    """
    path = whole_path(path or default_home())
    was_there = await trio.to_thread.run_sync(os.path.lexists, path)
    lock = await trio.to_thread.run_sync(_lock, path)
    home = None
    try:
        home = await trio.to_thread.run_sync(_load, path)
        yield home
    except BaseException:
        if home is not None and home.is_new:
            _remove_unused(path, keeps_directory=was_there)
        raise
    finally:
        os.close(lock)


def default_home() -> Path:
    """Return ``$POOLNET_HOME``, or where this system keeps the data of a user's programs."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("poolnet", appauthor=False)


def _lock(path: Path) -> int:
    """Take the home's lock; return the descriptor that holds it."""
    _refuse_directory_of_others(path)
    make_private_directory(path)
    with store_errors("open", path):
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise StoreLocked(f"another poolnet process uses {path}; end it, or choose another home") from exc
    except OSError as exc:
        os.close(descriptor)
        raise StoreError(f"{path} cannot be locked: {exc.strerror}; choose a home on a local disk") from exc
    if not _is_still_at(descriptor, path / "lock"):
        os.close(descriptor)
        raise StoreLocked(f"another poolnet process is just giving up {path}; try again")
    return descriptor


def _is_still_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has that name."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _refuse_directory_of_others(path: Path) -> None:
    with store_errors("read", path):
        try:
            entries = frozenset(os.listdir(path))
        except FileNotFoundError:
            return
    if not entries & {"device.key", "lock"} and entries - _WITHOUT_KEY:
        raise StoreError(
            f"{path} holds other things and is no home of a device; choose an empty directory, or a new one"
        )


def _load(path: Path) -> Home:
    with store_errors("protect", path):
        path.chmod(PRIVATE_DIRECTORY)
    pools = path / "pools"
    make_private_directory(pools)
    _clean_up(path, pools)
    seed, is_new = _load_seed(path / "device.key")
    return Home(path, seed, is_new=is_new)


def _remove_unused(path: Path, *, keeps_directory: bool) -> None:
    """Remove a home if nothing was done with it; what cannot be removed stays, and is a home."""
    with contextlib.suppress(OSError):
        if frozenset(os.listdir(path)) - _UNUSED or os.listdir(path / "pools"):
            return
        (path / "pools").rmdir()
        for name in ("profile.json", "device.key", "lock"):
            (path / name).unlink(missing_ok=True)
        if not keeps_directory:
            path.rmdir()


def _load_seed(path: Path) -> tuple[bytes, bool]:
    with store_errors("read", path):
        try:
            seed = path.read_bytes()
        except FileNotFoundError:
            seed = secrets.token_bytes(SEED_SIZE)
            write_durably(path, seed)
            return seed, True
        path.chmod(PRIVATE_FILE)
    if len(seed) != SEED_SIZE:
        raise StoreError(f"{path} is not a device key; restore it from a backup, or choose another home")
    return seed, False


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path, {})
    if not isinstance(value, dict):
        raise StoreError(f"{path} does not hold what poolnet writes; move it away")
    return value


def _decode_profile(value: dict[str, Any], path: Path) -> Profile:
    name, user = value.get("name"), value.get("user")
    try:
        if not isinstance(name, str | None) or not isinstance(user, str | None):
            raise ValueError("neither text nor null")
        (name or "").encode()  # half a surrogate pair is no name
        return Profile(name=name, user=None if user is None else base64.b64decode(user, validate=True))
    except ValueError as exc:
        raise StoreError(f"{path} does not hold what poolnet writes; move it away") from exc


def _forget_directory(path: Path) -> None:
    """Remove a pool's directory: first its name, durably, so that half of a pool is never taken for one."""
    gone = path.with_name(f".{path.name}{_FORGOTTEN}")
    with store_errors("remove", path):
        if path.exists():
            if gone.exists():
                shutil.rmtree(gone)
            os.replace(path, gone)
        sync_directory(path.parent)
        if gone.exists():
            shutil.rmtree(gone)


def _clean_up(home: Path, pools: Path) -> None:
    """Remove what an earlier process was writing, or removing, when it ended."""
    with store_errors("read", pools):
        entries = [entry for entry in pools.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for entry in entries:
        if entry.name.endswith(_FORGOTTEN):
            shutil.rmtree(entry, ignore_errors=True)  # or the next time
        else:
            remove_unfinished(entry)
    remove_unfinished(home)
