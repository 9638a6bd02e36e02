"""The sync server: it places the nodes of a pool and introduces them; it carries no messages and no files."""

from poolnet.server.app import SyncServer, open_sync_server

__all__ = ["SyncServer", "open_sync_server"]
