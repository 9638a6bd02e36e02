"""How fast a link moves chunks from memory to memory, next to TLS over TCP in the same run.

Two processes over loopback: the parent receives, the child sends. Run `python benchmarks/link_speed.py [MiB]`; prints
one line for each datagram size and one for raw trio TLS over TCP, with the ratio to it.
"""

import random
import secrets
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import trio
from cryptography.hazmat.primitives import serialization

from poolnet.identity.certificate import link_certificate, private_key_of
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, PoolId, PublicKey
from poolnet.limits import CHUNK_SIZE
from poolnet.net.endpoint import open_endpoint
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.pool_frames import Prune
from poolnet.wire.swarm_frames import ChunkHeader

DEFAULT_SIZE_MIB = 256
MAX_SIZE_MIB = 2048
DATAGRAM_SIZES = (16370, 1452)
TCP_READ_SIZE = 256 * 1024
TIME_LIMIT_S = 120.0

MIB = 1024 * 1024


class Result(NamedTuple):
    """What the receiver measured."""

    name: str
    rate_mib_s: float
    cpu_s: float


def admit_all(_hello: Hello) -> tuple[bytes, ...]:
    """Let everyone in; both ends are ours."""
    return ()


async def receive_chunks(datagram_size: int, size_mib: int) -> Result:
    """Accept a link from a child process and take its chunks."""
    key = DeviceKey(secrets.token_bytes(32))
    count = size_mib * MIB // CHUNK_SIZE
    async with (
        open_endpoint(key=key, listen=("127.0.0.1", 0), authorise=admit_all, rng=random.Random(1)) as endpoint,
        trio.open_nursery() as nursery,
    ):
        arguments = (str(endpoint.address[1]), key.public_key.hex(), str(datagram_size), str(count))
        nursery.start_soon(run_sender, "chunks", *arguments)
        link = await endpoint.accept()
        link.set_chunk_filter(lambda _file, _piece: True)
        link.post_frame(Prune())  # ready: what came before the filter would be dropped, and waited for in vain
        started, cpu = time.perf_counter(), time.process_time()
        received = 0
        while received < count:
            received += len(await link.receive_chunks())
        elapsed = time.perf_counter() - started
        await link.aclose()
    return Result(f"link, datagrams of {datagram_size}", size_mib / elapsed, time.process_time() - cpu)


async def send_chunks(port: int, key: PublicKey, datagram_size: int, count: int) -> None:
    """Dial the parent and send."""
    payload = secrets.token_bytes(CHUNK_SIZE)
    own = DeviceKey(secrets.token_bytes(32))
    async with open_endpoint(key=own, listen=("127.0.0.1", 0), authorise=admit_all, rng=random.Random(2)) as endpoint:
        link = await endpoint.dial(
            ("127.0.0.1", port),
            peer_key=key,
            hello_purpose=Purpose.POOL,
            pool_id=PoolId(bytes(32)),
            credentials=(),
            datagram_size=datagram_size,
        )
        await link.receive_frame()
        for piece in range(count):
            await link.send_chunk(ChunkHeader(file_id=FileId(bytes(32)), piece=piece, size=CHUNK_SIZE), payload)
        await link.wait_closed()


async def receive_tcp(size_mib: int) -> Result:
    """Accept a TLS connection from a child process and take its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        context = server_context(Path(folder))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_sender, "tcp", str(port), str(size_mib))
        async with await listeners[0].accept() as transport:
            stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
            await stream.do_handshake()
            started, cpu = time.perf_counter(), time.process_time()
            received = 0
            while received < size_mib * MIB:
                piece = await stream.receive_some(TCP_READ_SIZE)
                if not piece:
                    raise RuntimeError("the sender ended early")
                received += len(piece)
            elapsed = time.perf_counter() - started
    await listeners[0].aclose()
    return Result("trio TLS over TCP", size_mib / elapsed, time.process_time() - cpu)


async def send_tcp(port: int, size_mib: int) -> None:
    """Connect to the parent and send."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    payload = secrets.token_bytes(TCP_READ_SIZE)
    async with await trio.open_tcp_stream("127.0.0.1", port) as transport:
        stream = trio.SSLStream(transport, context, https_compatible=True)
        for _ in range(size_mib * MIB // TCP_READ_SIZE):
            await stream.send_all(payload)
        await transport.receive_some(1)


def server_context(folder: Path) -> ssl.SSLContext:
    """Return a TLS context with a certificate of a key made for this run."""
    key = DeviceKey(secrets.token_bytes(32))
    pem = folder / "pair.pem"
    pem.write_bytes(
        link_certificate(key).public_bytes(serialization.Encoding.PEM)
        + private_key_of(key).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def run_sender(*arguments: str) -> None:
    """Run this file as the sender, in a process of its own; an error of it is one of ours."""
    await trio.run_process([sys.executable, __file__, "--child", *arguments])


def limited(function: Callable[..., object], *arguments: object) -> object:
    """Run an async function with the time limit."""

    async def main() -> object:
        with trio.fail_after(TIME_LIMIT_S):
            return await function(*arguments)  # type: ignore[misc]

    return trio.run(main)


def run_child(arguments: list[str]) -> None:
    """Be the sender."""
    match arguments:
        case ["chunks", port, key, datagram_size, count]:
            limited(send_chunks, int(port), PublicKey(bytes.fromhex(key)), int(datagram_size), int(count))
        case ["tcp", port, size_mib]:
            limited(send_tcp, int(port), int(size_mib))


def main() -> None:
    """Measure, and print the table."""
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2:])
        return
    size_mib = min(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SIZE_MIB, MAX_SIZE_MIB)
    tcp = limited(receive_tcp, 4 * size_mib)
    links = [limited(receive_chunks, size, size_mib) for size in DATAGRAM_SIZES]
    assert isinstance(tcp, Result)
    for result in [tcp, *links]:
        assert isinstance(result, Result)
        ratio = result.rate_mib_s / tcp.rate_mib_s
        print(
            f"{result.name:28} {result.rate_mib_s:7.1f} MiB/s  {ratio:5.2f} × TCP  receiver's cpu {result.cpu_s:.2f} s"
        )


if __name__ == "__main__":
    main()
