"""Server addresses and invite links: what people paste, whole or broken."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import InvalidAddress, InvalidInvite
from poolnet.identity.invite_link import (
    InviteLink,
    ServerAddress,
    format_invite_link,
    format_server_address,
    parse_invite_link_untrusted,
    parse_server_address_untrusted,
)
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId, PublicKey, encode_id
from poolnet.limits import MAX_INVITE_LINK_CHARS, MAX_SERVERS_PER_INVITE

KEY = DeviceKey.from_seed(b"s" * 32).public_key
OTHER_KEY = DeviceKey.from_seed(b"t" * 32).public_key
SERVER = ServerAddress(host="example.org", port=7665, key=KEY)
LINK = InviteLink(servers=(SERVER,), pool_id=PoolId(b"p" * 32), secret=b"x" * 32)
TEXT = format_invite_link(LINK)

hosts = st.sampled_from(["example.org", "localhost", "a-b.example", "192.0.2.1", "::1", "2001:db8::7", "x_y.local."])
servers = st.builds(ServerAddress, host=hosts, port=st.integers(1, 65535), key=st.sampled_from([KEY, OTHER_KEY]))


@given(servers)
def test_a_server_address_survives_being_written_and_read(server: ServerAddress) -> None:
    assert parse_server_address_untrusted(format_server_address(server)) == server
    assert parse_server_address_untrusted(f"  {server}\n") == server


@given(
    st.lists(servers, min_size=1, max_size=MAX_SERVERS_PER_INVITE).map(tuple),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
def test_an_invite_link_survives_being_written_and_read(
    its_servers: tuple[ServerAddress, ...], pool_id: PoolId, secret: bytes
) -> None:
    link = InviteLink(servers=its_servers, pool_id=pool_id, secret=secret)
    text = format_invite_link(link)
    assert parse_invite_link_untrusted(text) == link
    assert parse_invite_link_untrusted(text.upper()) == link  # as a QR code may hold it
    assert link.invite_key().seed == secret


def test_an_invite_link_reads_as_documented() -> None:
    pool, secret = encode_id(LINK.pool_id), encode_id(LINK.secret)
    assert f"poolnet://example.org:7665/{encode_id(KEY)}/{pool}#{secret}" == TEXT
    two = InviteLink(
        servers=(SERVER, ServerAddress(host="::1", port=1, key=OTHER_KEY)), pool_id=LINK.pool_id, secret=LINK.secret
    )
    assert format_invite_link(two) == (
        f"poolnet://example.org:7665/{encode_id(KEY)}/{pool}?server=[::1]:1/{encode_id(OTHER_KEY)}#{secret}"
    )


def test_nothing_but_the_link_itself_shows_the_secret() -> None:
    shown = f"{LINK!r} {LINK} {LINK.invite_key()!r}"
    assert encode_id(LINK.secret) not in shown
    assert repr(LINK.secret) not in shown
    assert encode_id(LINK.pool_id) in shown


def test_options_of_a_newer_version_are_skipped() -> None:
    path, secret = TEXT.split("#")
    assert parse_invite_link_untrusted(f"{path}?colour=blue#{secret}") == LINK


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is nothing"),
        ("   ", "there is nothing"),
        ("https://example.org/x#y", "begins with poolnet://"),
        ("poolnet:/example.org", "begins with poolnet://"),
        (TEXT[:-1], "secret after the # has 52 .* cut off"),
        (TEXT[:-52], "secret after the # .* cut off"),
        (TEXT[:-53], "no # part"),
        (TEXT[:100], "no # part"),
        (str(SERVER), "server's address"),
        (f"{SERVER}#{encode_id(LINK.secret)}", "reads poolnet://HOST:PORT"),
        (TEXT.replace("#", "/x#"), "reads poolnet://HOST:PORT"),
        (TEXT[:90] + "\n" + TEXT[90:], "broken into lines"),
        (TEXT[:-1] + "1", "secret after the # .* not copied exactly"),
        (TEXT + "a", "secret after the # .* not copied exactly"),
        (TEXT.replace("#", "a#"), "pool id .* not copied exactly"),
        (TEXT[:-3] + "1" + TEXT[-2:], "secret after the #"),
        (TEXT.replace(":7665", ""), "HOST:PORT"),
        (TEXT.replace(":7665", ":0"), "port from 1 to 65535"),
        (TEXT.replace(":7665", ":65536"), "port from 1 to 65535"),
        (TEXT.replace(":7665", ":٣"), "port from 1 to 65535"),
        (TEXT.replace("example.org", "2001:db8::1"), "in brackets"),
        (TEXT.replace("example.org", "[example.org]"), "not an IPv6 address"),
        (TEXT.replace("example.org", "exa$mple"), "neither a name nor"),
        (TEXT.replace("example.org", ""), "neither a name nor"),
        (TEXT.replace("example.org", "-x"), "neither a name nor"),
        (TEXT.replace("example.org", "a." * 127), "neither a name nor"),
        (TEXT.replace("#", "?server=example.org:1#"), "key is missing"),
        (TEXT.replace(encode_id(KEY), encode_id(bytes(32))), "anybody could use"),
        (TEXT + "x" * 5000, "at most"),
        (TEXT.replace("#", "?" + "&".join(["server=" + str(SERVER)[10:]] * MAX_SERVERS_PER_INVITE) + "#"), "at most 8"),
    ],
)
def test_a_broken_invite_link_gets_a_sentence_that_says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInvite, match=sentence) as caught:
        parse_invite_link_untrusted(text)
    assert encode_id(LINK.secret)[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is nothing"),
        (TEXT, "this is an invite link"),
        (TEXT.split("#")[0], "this is an invite link"),
        ("poolnet://example.org:7665", "key is missing"),
        ("poolnet://example.org:7665/", "cut off"),
        (str(SERVER)[:-1], "cut off"),
        ("example.org:7665", "begins with poolnet://"),
    ],
)
def test_a_broken_server_address_gets_a_sentence_that_says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(InvalidAddress, match=sentence):
        parse_server_address_untrusted(text)


def test_a_link_may_be_as_long_as_the_limit() -> None:
    path, secret = TEXT.split("#")
    filled = f"{path}?later={'x' * (MAX_INVITE_LINK_CHARS - len(TEXT) - 7)}#{secret}"
    assert len(filled) == MAX_INVITE_LINK_CHARS
    assert parse_invite_link_untrusted(f" {filled} ") == LINK
    with pytest.raises(InvalidInvite, match="at most"):
        parse_invite_link_untrusted(filled.replace("?", "?x"))


@pytest.mark.parametrize("port", [1, 65535])
@pytest.mark.parametrize(
    "host", ["a" * 63, "a", "_x", "1.2.3.4", ("a" * 62 + ".") * 4 + "b", "[fe80::1%" + "e" * 15 + "]"]
)
def test_hosts_and_ports_go_as_far_as_names_and_numbers_do(host: str, port: int) -> None:
    text = str(SERVER).replace("example.org:7665", f"{host}:{port}")
    assert parse_server_address_untrusted(text) == attrs.evolve(SERVER, host=host.strip("[]"), port=port)
    assert str(parse_server_address_untrusted(text)) == text


@pytest.mark.parametrize(
    "host", ["a" * 64, "", "a..b", "-a", ("a" * 62 + ".") * 4 + "bb", "[fe80::1%" + "e" * 16 + "]", "[::1"]
)
def test_hosts_that_go_further_are_refused(host: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_server_address_untrusted(str(SERVER).replace("example.org:7665", f"{host}:1"))


@given(st.text() | st.text(alphabet="poolnet:/#?&=server[]@.%").map("poolnet://".__add__))
def test_any_text_is_a_link_or_raises_only_what_it_says(text: str) -> None:
    with pytest.raises(InvalidInvite):
        parse_invite_link_untrusted(text)
    with pytest.raises(InvalidAddress):
        parse_server_address_untrusted(text)


def test_a_host_that_makes_a_pattern_backtrack_is_refused_at_once() -> None:
    with pytest.raises(InvalidInvite):
        parse_invite_link_untrusted(TEXT.replace("example.org", "a" * 3000 + "!"))


def test_a_server_address_shows_its_key_as_people_see_it() -> None:
    assert encode_id(KEY) in repr(SERVER)
    assert ServerAddress(host="h", port=1, key=PublicKey(KEY)) != SERVER
