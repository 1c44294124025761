"""Session keys: what session ids and other sealed values are protected with, and where the keys come from.

    configured (config.session, SESSION_KEY)    used as they are, the first seals; a reload may change them
    a key file                                  read, or made once: sessions outlive a restart
    neither                                     one key per supervisor: sessions outlive workers and reloads

Rules:
- the key file is `config.session.keyFile`, else `session.key` in $STATE_DIRECTORY; without either nothing is written;
- a key file belongs to the user of the process and nobody else may read it, or the start is refused;
- what else is sealed (cookies of `oidc`) has keys of its own derived from these, unless it is given some;
- the key of one's own opens as long as the supervisor lives, also after keys were configured by a reload;
- keys are never logged.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
from collections.abc import Mapping

import msgspec

from agw.runtime.plan import Plan, ProcessPlan
from agw.supervisor.sockets import SocketError

log = logging.getLogger(__name__)

KEY_BYTES = 32
MAX_FILE = 4096
FILE_NAME = "session.key"


class KeyFileError(SocketError):
    """The key file cannot be used; the text says why and what to do."""


class SessionKeys:
    """The keys of one supervisor's life, as hex, newest first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # systemd lists several directories separated by colons; the first is the unit's own.
        self._state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        self._own: list[str] = []

    def ring(self, process: ProcessPlan) -> list[str]:
        """The keys for a plan; never empty. Errors: KeyFileError."""
        if process.session_keys:
            return [*process.session_keys, *(k for k in self._own if k not in process.session_keys)]
        if not self._own:
            self._own = self._kept(process.session_key_file) or [os.urandom(KEY_BYTES).hex()]
        return self._own

    def _kept(self, configured: str) -> list[str]:
        path = configured or (os.path.join(self._state, FILE_NAME) if self._state else "")
        if not path:
            return []
        try:
            make_key_file(path)
        except FileExistsError:
            pass
        except OSError as error:
            if configured:
                raise KeyFileError(error.errno, f"cannot make the session key file {path}: {error.strerror}") from None
            # A state directory that cannot be written to is no reason not to serve.
            log.warning("session keys are not kept over restarts", extra={"file": path, "cause": error.strerror})
            return []
        return read_key_file(path)


def with_cookie_keys(plan: Plan, ring: list[str]) -> Plan:
    """The plan with keys for every `oidc` policy that has none: as many as there are session keys, in their order."""
    if not any(route.policies.oidc is not None and not route.policies.oidc.cookie_keys for route in plan.routes):
        return plan
    # Another key for another purpose: a session id is never a cookie, whatever else may be wrong.
    keys = [hmac.digest(bytes.fromhex(key), b"agw oidc cookies", "sha256").hex() for key in ring]
    routes = []
    for route in plan.routes:
        oidc = route.policies.oidc
        if oidc is not None and not oidc.cookie_keys:
            completed = msgspec.structs.replace(route.policies, oidc=msgspec.structs.replace(oidc, cookie_keys=keys))
            route = msgspec.structs.replace(route, policies=completed)
        routes.append(route)
    return msgspec.structs.replace(plan, routes=routes)


def make_key_file(path: str) -> None:
    """Write a new key, whole or not at all. Errors: FileExistsError if there is a file, else OSError."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    fresh = f"{path}.{os.urandom(4).hex()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, os.urandom(KEY_BYTES).hex().encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        # link() and not rename(): another instance that was quicker wins, and both use its key.
        os.link(fresh, path)
    finally:
        os.unlink(fresh)


def read_key_file(path: str) -> list[str]:
    """The keys in a file: 64 hex digits per line, the first seals, `#` begins a comment. Errors: KeyFileError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(error.errno, f"cannot read the session key file {path}: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o077:
            raise KeyFileError(0, f"the session key file {path} must be a file that only its owner can read: chown it to the user of agw, chmod 600")
        text = os.read(fd, MAX_FILE).decode("latin-1")
    finally:
        os.close(fd)
    keys = [line.strip().lower() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys or any(len(key) != 2 * KEY_BYTES or set(key) - set("0123456789abcdef") for key in keys):
        raise KeyFileError(0, f"the session key file {path} must hold 64 hex digits per line, as `openssl rand -hex 32` prints")
    return list(dict.fromkeys(keys))
