"""Inputs that were not expected once, by the decoder that met them."""

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

from fuzz import samples
from fuzz.decoders import DECODERS
from poolnet.errors import InvalidAddress, LocalError, StoreDamaged, StoreError, WireError
from poolnet.identity.invite_link import parse_server_address_untrusted
from poolnet.ids import encode_id, id_prefix_range_untrusted
from poolnet.json_text import decode_json_untrusted
from poolnet.message_db import open_message_db
from poolnet.pool.records import PoolRecords
from poolnet.protocol.key_set import Summary
from poolnet.server.store import open_pool_store
from poolnet.storage.atomic_json import read_json
from poolnet.storage.file_table import FileTable
from poolnet.storage.home import Home
from poolnet.storage.message_settings import Retention
from poolnet.storage.sqlite_types import find_wrong_value
from poolnet.storage.sqlite_worker import open_sqlite
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.framing import FrameSet
from poolnet.wire.message import decode_message_untrusted
from poolnet.wire.pool_frames import Compare
from poolnet_cli.settings import read_settings
from poolnet_cli.units import MAX_SIZE_BYTES, parse_duration, parse_size

BY_NAME = {decoder.name: decoder for decoder in DECODERS}
NESTED = b"[" * 100_000


class TestJson:
    def test_what_is_nested_too_deep_is_malformed_like_anything_else(self) -> None:
        with pytest.raises(WireError, match="malformed"):
            decode_json_untrusted(NESTED)

    def test_a_store_of_brackets_is_kept_aside(self, tmp_path: Path) -> None:
        path = tmp_path / "store.json"
        path.write_bytes(NESTED)
        with pytest.raises(StoreError, match="damaged"):
            read_json(path, [])
        assert not path.exists()

    def test_settings_of_brackets_are_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "settings.json").write_bytes(NESTED)
        with pytest.raises(StoreError, match="damaged"):
            read_settings(tmp_path)

    @pytest.mark.parametrize(
        "line", [NESTED, b'{"command": "say", "params": [1]}', b'{"command": "say", "params": null}', b'"\\ud800"']
    )
    def test_the_process_that_holds_a_home_survives_what_a_client_says(self, line: bytes) -> None:
        assert BY_NAME["control request"].accepts(line + b"\n")

    @pytest.mark.parametrize("line", [NESTED, b'{"exit": 1, "error": [1]}', b'{"exit": 1, "error": "no"}'])
    def test_a_client_survives_what_the_process_that_holds_a_home_says(self, line: bytes) -> None:
        assert BY_NAME["control answer"].accepts(line + b"\n")


class TestWire:
    def test_a_boolean_is_no_kind_of_a_claim(self) -> None:
        claim = [b"\x01", True, bytes(16)]
        with pytest.raises(WireError, match="kind"):
            FrameSet([Compare]).decode_untrusted(encode_cbor([25, 1, True, b"", [claim]]))

    @pytest.mark.parametrize(("written", "means"), [(b"\0" * 14, LOWEST), (b"\x80" + b"\0" * 39, HIGHEST)])
    def test_a_bound_with_zeros_at_its_end_is_the_same_as_without(self, written: bytes, means: Bound) -> None:
        encoded = encode_cbor([25, 1, True, written, [], written])
        compare = FrameSet([Compare]).decode_untrusted(encoded)
        assert isinstance(compare, Compare)
        assert (compare.lower, compare.known_from) == (means, means)

    def test_the_first_byte_of_a_message_cannot_turn_its_label_into_another(self) -> None:
        """It is the only one that stands before the label: read as a longer array header, it swallows the next."""
        rest = [encode_cbor(item) for item in ("text", 1, samples.KEY.public_key, b"")] + [b"\x00"] * 120
        shortened = b"\x98" + b"".join(rest)[: len(b"".join(rest[:4])) + 113 - 6]
        with pytest.raises(WireError, match="not a message of this version"):
            decode_message_untrusted(encode_cbor([shortened, bytes(64)]), samples.POOL)

    @pytest.mark.parametrize("scope", ["\x1b]0;owned\x07", "a b", "\u202e", "", "x" * 40, "%1"])
    def test_what_stands_for_an_interface_in_a_link_is_its_name_or_number(self, scope: str) -> None:
        with pytest.raises(InvalidAddress):
            parse_server_address_untrusted(f"poolnet://[fe80::1%{scope}]:4433/{encode_id(samples.KEY.public_key)}")

    def test_a_long_prefix_of_an_id_costs_nothing(self) -> None:
        begin = time.process_time()
        with pytest.raises(WireError):
            id_prefix_range_untrusted("b" * 1_000_000)
        assert time.process_time() - begin < 1


class TestUnits:
    @pytest.mark.parametrize("text", ["9" * 400, "1" * 400 + "k", "9" * 60 + "t"])
    def test_a_size_beyond_all_numbers_is_too_much(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"too much|not a size"):
            parse_size(text)
        assert parse_size("1024t") == MAX_SIZE_BYTES

    def test_a_long_text_is_no_duration_and_is_not_searched_for_one(self) -> None:
        begin = time.process_time()
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration("1" * 200_000)
        assert time.process_time() - begin < 1


class TestFilesOfAHome:
    @pytest.mark.parametrize(
        "change",
        [
            {"name": 5},
            {"name": "\ud800"},
            {"servers": [5]},
            {"servers": "abc"},
            {"hosted": {"listen_host": 1, "port": 4433, "public_host": "x"}},
            {"hosted": {"listen_host": "::", "port": 2**40, "public_host": "x"}},
            {"hosted": [1]},
            {"display_name": 7},
        ],
    )
    def test_a_pool_record_with_a_value_of_another_kind_is_a_store_error(
        self, tmp_path: Path, change: dict[str, object]
    ) -> None:
        (tmp_path / "pools").mkdir()
        home = Home(tmp_path, bytes(32), is_new=False)
        directory = home.pool_directory(samples.POOL)
        record = {"version": 1, "name": "sailors", "servers": [], "hosted": None, "display_name": None}
        (directory / "pool.json").write_text(json.dumps(record))
        assert [found.name for found in PoolRecords(home).all()] == ["sailors"]

        (directory / "pool.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(StoreError, match="damaged"):
            PoolRecords(home).all()

    async def test_a_profile_with_half_a_character_as_a_name_is_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "profile.json").write_text('{"name": "\\ud800"}')
        with pytest.raises(StoreError, match="does not hold"):
            await Home(tmp_path, bytes(32), is_new=False).profile()

    @pytest.mark.parametrize(
        "change",
        [
            {"size_bytes": -1},
            {"size_bytes": 2**64},
            {"target": "a\0b"},
            {"target": "/"},
            {"target": "/tmp/\ud800"},
            {"started_ms": 2**80},
            {"ended_ms": -1},
            {"done_bytes": -5},
        ],
    )
    async def test_a_queued_download_that_cannot_be_is_a_store_error(
        self, tmp_path: Path, change: dict[str, object]
    ) -> None:
        record = {
            "file_id": encode_id(samples.ID),
            "name": "chart.pdf",
            "size_bytes": 5,
            "target": "/tmp/chart.pdf",
            "started_ms": 2**40,
        }
        (tmp_path / "queue.json").write_text(json.dumps([record]))
        assert len(await FileTable(tmp_path).load()) == 1

        (tmp_path / "queue.json").write_text(json.dumps([{**record, **change}]))
        with pytest.raises(StoreError, match="does not hold"):
            await FileTable(tmp_path).load()


class TestDatabases:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE messages SET hlc = 'text'",
            "UPDATE blocks SET total = 'text'",
            "UPDATE blocks SET authors = '1 Inf'",
            "UPDATE volumes SET first = X'00'",
            "UPDATE settings SET value = '[1, 2]'",
            "UPDATE settings SET value = '[[['",
            "UPDATE settings SET value = X'ff'",
            """UPDATE settings SET value = '{"max_age_s": NaN, "max_count": null}' WHERE name = 'retention'""",
            "DELETE FROM authors",
        ],
    )
    def test_a_history_with_a_wrong_value_is_damaged(self, tmp_path: Path, statement: str) -> None:
        with pytest.raises(StoreDamaged):
            BY_NAME["history"].decode(changed(tmp_path / "messages.db", "history", statement))

    async def test_a_history_with_a_wrong_value_is_set_aside_and_a_new_one_begun(self, tmp_path: Path) -> None:
        path = tmp_path / "messages.db"
        changed(path, "history", "UPDATE blocks SET total = 'text'")
        with pytest.raises(StoreDamaged, match=r"blocks\.total"):
            async with open_message_db(path, samples.POOL) as history:
                await history.summary(LOWEST, HIGHEST)
        async with open_message_db(path, samples.POOL) as history:
            assert await history.summary(LOWEST, HIGHEST) == Summary(0, 0)

    async def test_a_history_with_a_stamp_that_is_none_is_damaged_whatever_is_asked_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "messages.db"
        changed(path, "history", "UPDATE messages SET hlc = 'text'")
        with pytest.raises(StoreDamaged, match=r"messages\.hlc"):
            async with open_message_db(path, samples.POOL) as history:
                await history.last_hlc()

    def test_a_schema_that_cannot_even_be_quoted_is_damaged(self, tmp_path: Path) -> None:
        """SQLite names what it cannot read in its message, which is no UTF-8 then."""
        path = tmp_path / "messages.db"
        path.write_bytes(BY_NAME["history"].samples[0])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET name = CAST(X'ff' AS TEXT), sql = 'CREATE TABLE ('")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with pytest.raises(StoreDamaged, match="damaged"):
            BY_NAME["history"].decode(path.read_bytes())

    async def test_a_fault_of_the_program_is_not_blamed_on_the_database(self, tmp_path: Path) -> None:
        path = tmp_path / "messages.db"
        path.write_bytes(BY_NAME["history"].samples[0])

        def fail(_connection: sqlite3.Connection) -> None:
            raise TypeError("a fault of the program")

        with pytest.raises(TypeError, match="a fault of the program"):
            async with open_sqlite(path, schema=("SELECT 1",) * 3) as worker:
                await worker.run(fail)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert find_wrong_value(connection) is None
            assert connection.execute("SELECT count(*) FROM messages").fetchone() != (0,)

    @pytest.mark.parametrize("statement", ["UPDATE roster SET places = X'01'", "UPDATE roster SET node = X'01'"])
    async def test_a_roster_that_is_not_one_damages_the_store_of_a_server(self, tmp_path: Path, statement: str) -> None:
        path = tmp_path / "server.db"
        changed(path, "server store", statement)
        with pytest.raises(StoreDamaged):
            async with open_pool_store(path) as store:
                await store.load(samples.POOL)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0])
    def test_a_retention_is_a_number_that_can_be_counted_with(self, value: float) -> None:
        with pytest.raises(LocalError, match="more than 0"):
            Retention(max_age_s=value)


def changed(path: Path, name: str, statement: str) -> bytes:
    """Write the sample of a database, change it, and return what it is then."""
    path.write_bytes(BY_NAME[name].samples[0])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.read_bytes()
