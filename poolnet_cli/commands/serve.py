"""``serve``: a sync server. It works on its own data directory, not on a home."""

from pathlib import Path

import trio

from poolnet import open_sync_server
from poolnet_cli.command import Params
from poolnet_cli.reporter import Reporter


async def serve(params: Params, reporter: Reporter) -> None:
    """Run a sync server until cancelled. Params: host, port, data (a path), public_host (or None).

    Raises:
        AddressInUse: another program listens there.
    """
    listen = (params["host"], params["port"])
    async with open_sync_server(
        data_dir=Path(params["data"]), listen=listen, public_host=params["public_host"]
    ) as server:
        await reporter.record({"event": "serving", "address": str(server.address)})
        await trio.sleep_forever()
