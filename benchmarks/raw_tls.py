"""The raw limit: bytes a second over TLS 1.3 on TCP between two trio processes on loopback, memory to memory."""

import datetime
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

PIECE = 256 * 1024
MIB = 1024 * 1024


def make_certificate(path: Path) -> None:
    """Write a throwaway key and certificate to one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "raw")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + builder.sign(key, SHA256()).public_bytes(Encoding.PEM))


async def receive(certificate: str) -> None:
    """Print the port, take one connection to its end, answer with one byte."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    print(listener.socket.getsockname()[1], flush=True)
    stream = trio.SSLStream(await listener.accept(), context, server_side=True, https_compatible=True)
    left = int.from_bytes(await stream.receive_some(8), "big")
    while left > 0:
        left -= len(await stream.receive_some(PIECE))
    await stream.send_all(b"!")


async def send(port: int, size_mib: int) -> float:
    """Send `size_mib` MiB and return MiB a second, the handshake not counted."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context, https_compatible=True)
    await stream.do_handshake()
    await stream.send_all((size_mib * MIB).to_bytes(8, "big"))
    piece = os.urandom(PIECE)
    start = time.monotonic()
    for _ in range(size_mib * MIB // PIECE):
        await stream.send_all(piece)
    await stream.receive_some(1)
    return size_mib / (time.monotonic() - start)


def measure(size_mib: int = 256) -> float:
    """Return MiB a second of one transfer between this process and a new one."""
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory) / "raw.pem"
        make_certificate(certificate)
        command = [sys.executable, "-m", "benchmarks.raw_tls", str(certificate)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            return trio.run(send, int(receiver.stdout.readline()), size_mib)


if __name__ == "__main__":
    trio.run(receive, sys.argv[1])
