"""The port that several processes serve. Knows no gRPC."""

import errno
import socket

from talkwire_server.engine import StartError
from talkwire_server.settings import Settings


class Port:
    """Kept from other servers, and shared by those processes that set SO_REUSEPORT.

    The kernel gives each connection to one of them, by a hash of its addresses. Sockets that are
    bound, as here, and do not listen get none; they keep the port while a process is replaced.
    """

    def __init__(self, settings: Settings) -> None:
        self.number = settings.port
        self._sockets: list[socket.socket] = []
        try:
            for family, address in _addresses(settings.host):
                self._bind(family, address)
            if not self._sockets:
                raise OSError
        except OSError:
            self.close()
            wanted = settings.address(settings.port)
            raise StartError(f"cannot listen on {wanted}: taken, or not this machine's") from None

    def _bind(self, family: int, address: str) -> None:
        kept = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            # As gRPC does: all addresses are those of IPv4, too.
            kept.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        # Else connections of a server that has just left would keep the port.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            kept.bind((address, self.number))
        except OSError as error:
            kept.close()
            if error.errno != errno.EADDRNOTAVAIL:  # else the name may have others
                raise
            return
        self._sockets.append(kept)
        # Only now: it fails where anybody else has the port, even one that would share it.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.number = kept.getsockname()[1]

    def close(self) -> None:
        """Leave the port to others."""
        for kept in self._sockets:
            kept.close()


def _addresses(host: str) -> dict[tuple[int, str], None]:
    """Find the addresses of a host, each once."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return {(family, str(address[0])): None for family, *_, address in found}
