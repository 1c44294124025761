"""What systemd wants to hear, and the sockets it may hand over. One datagram per notification; nothing to install.

Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

LISTEN_FDS_START = 3


class Notifier:
    """Sends to NOTIFY_SOCKET; without one every call does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        if address:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.setblocking(False)
            self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        pid = environ.get("WATCHDOG_PID", "")
        self.watchdog_ns = int(usec) * 1000 if usec.isdigit() and (not pid or pid == str(os.getpid())) else 0
        """Half of this is a good interval for `watchdog()`; 0 when no watchdog is wanted."""

    def send(self, text: str) -> None:
        """Send assignments, one per line. A full or missing socket loses the message, as the protocol allows."""
        if self._sock is not None:
            try:
                self._sock.sendto(text.encode(), self._address)
            except OSError:
                pass

    def close(self) -> None:
        """Say nothing more; in children, which have nothing to say."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def ready(self, status: str) -> None:
        """Start-up or reload is complete."""
        self.send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload begins; MONOTONIC_USEC lets Type=notify-reload match it to its signal."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """The drain begins and may take this long."""
        self.send(f"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={int(seconds * 1_000_000) + 2_000_000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.send(f"STATUS={text}")

    def watchdog(self) -> None:
        """All workers are alive."""
        self.send("WATCHDOG=1")


def take_listen_fds(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Sockets of a `.socket` unit, bound and listening; the variables are removed so that children do not see them."""
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
