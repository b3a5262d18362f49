"""The library for those who hold no database and no bucket credentials: everything goes through its service."""

from esper.urza.client.library import RemoteLibrary
from esper.urza.client.transport import TransportSettings, token_from_file

__all__ = ["RemoteLibrary", "TransportSettings", "token_from_file"]
