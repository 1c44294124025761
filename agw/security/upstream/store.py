"""What users granted the gateway at other servers, kept over restarts: tokens by user, issuer and resource, sealed on disk.

    DIRECTORY/<user 32 hex><grant 32 hex>      one grant; the name is a hash and says nothing
    DIRECTORY/lock-<3 hex>                     who refreshes a grant, or writes, holds one of these (flock)
    DIRECTORY/spent-<32 hex>                   a login's state that was used

Rules:
- a grant is AES-256-GCM under keys derived for this purpose and bound to its name: moved or altered files are no grants;
- a file is written whole (write, fsync, rename) or not at all, whoever dies when; all workers of a host share the directory;
- what cannot be opened is None and is written over; entries are bounded, and the one that was written longest ago leaves first;
- all file work happens in threads; no method blocks the loop;
- tokens stand in no error, log or repr.

Source: RFC 5116, RFC 5869.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
MAX_GRANTS = 100_000
MAX_FILE = 256 * 1024
MAX_SPENT = 100_000
LOCKS = 1024
LOCK_PATIENCE_S = 15.0
"""How long somebody else may hold a lock: longer than a refresh may take."""
LOCK_RETRY_S = 0.02

MAX_STATE = 4096

_STATE = re.compile(r"[A-Za-z0-9_-]+")
_NONCE, _TAG = 12, 16
_GRANT_NAME = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


class StoreError(Exception):
    """The directory cannot be used, or somebody holds a lock for too long. The text says which."""


class Grant(msgspec.Struct, frozen=True):
    """Tokens of one user for one resource. `expires` is in seconds of time.time(), 0 when it was not said.

    `client_auth` is how the client proves itself (`ClientAuthPlan.method`), "" for the configured one, whose secret is not kept.
    """

    issuer: str
    resource: str
    token_endpoint: str
    client_id: str
    client_secret: str
    client_auth: str
    access_token: str
    refresh_token: str = ""
    expires: float = 0.0
    scope: str = ""

    def __repr__(self) -> str:
        return f"Grant(issuer={self.issuer!r}, resource={self.resource!r})"


def grant_name(user: bytes, issuer: str, resource: str) -> str:
    """The file of a grant. The first half is the user's, so that all grants of a user can be found."""
    own = hashlib.sha256(b"agw grant\0" + issuer.encode() + b"\0" + resource.encode()).hexdigest()[:32]
    return _user_part(user) + own


def _user_part(user: bytes) -> str:
    return hashlib.sha256(b"agw user\0" + user).hexdigest()[:32]


class GrantStore:
    """The store of one directory. `keys` are 32 octets each, the first seals, all open."""

    def __init__(self, directory: str, keys: Sequence[bytes], *, max_grants: int = MAX_GRANTS, clock: Callable[[], float] = time.time) -> None:
        """Errors: ValueError without keys, or for something else than keys; StoreError when there is no such directory to be had."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a grant store needs keys of {KEY_BYTES} octets")
        self._ciphers = [_derive(key, b"agw sealed grant") for key in keys]
        self._states = [_derive(key, b"agw grant state") for key in keys]
        self._directory = directory
        self._max = max(1, max_grants)
        self._clock = clock
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            os.chmod(directory, 0o700)
        except OSError as error:
            raise StoreError(f"cannot use the directory {directory} for grants: {error.strerror}") from None

    def __repr__(self) -> str:
        return f"GrantStore({self._directory!r})"

    # ------------------------------------------------------------------------------------------------------------ grants

    async def get(self, user: bytes, issuer: str, resource: str) -> Grant | None:
        """The grant, None when there is none that can be opened. Errors: StoreError."""
        return await self._thread(lambda: self._read(grant_name(user, issuer, resource)))

    async def put(self, user: bytes, grant: Grant) -> None:
        """Keep a grant in place of the one there was. Errors: StoreError."""
        name = grant_name(user, grant.issuer, grant.resource)
        data = self._sealed(name, grant)
        if len(data) > MAX_FILE:
            raise StoreError("the grant is too large")
        await self._thread(lambda: self._write(name, data))

    async def remove(self, user: bytes, issuer: str, resource: str) -> None:
        """Forget one grant. Errors: StoreError."""
        await self._thread(lambda: self._unlink(grant_name(user, issuer, resource)))

    async def remove_user(self, user: bytes) -> int:
        """Forget all grants of a user; how many there were. Errors: StoreError."""
        part = _user_part(user)

        def work() -> int:
            names = [name for name in os.listdir(self._directory) if _GRANT_NAME.fullmatch(name) and name.startswith(part)]
            for name in names:
                self._unlink(name)
            return len(names)

        return await self._thread(work)

    @asynccontextmanager
    async def lock(self, user: bytes, issuer: str, resource: str) -> AsyncIterator[None]:
        """Be the only one of this host to change a grant. Errors: StoreError when another holds it for longer than LOCK_PATIENCE_S."""
        # Fewer locks than grants: two grants may share one, and then wait for each other without harm.
        name = grant_name(user, issuer, resource)
        number = (int(name[:8], 16) ^ int(name[32:40], 16)) % LOCKS
        path = os.path.join(self._directory, f"lock-{number:03x}")
        fd = await self._thread(lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        try:
            deadline = time.monotonic() + LOCK_PATIENCE_S
            while not _taken(fd):
                if time.monotonic() >= deadline:
                    raise StoreError("another worker keeps the lock of a grant")
                await asyncio.sleep(LOCK_RETRY_S)
            yield
        finally:
            os.close(fd)  # and with it the lock

    async def spend(self, ident: str, lifetime_s: float) -> bool:
        """Use something once: True for the first caller of all workers, for `lifetime_s` at least. Errors: StoreError."""
        name = "spent-" + hashlib.sha256(ident.encode()).hexdigest()[:32]

        def work() -> bool:
            self._forget_spent(lifetime_s)
            try:
                os.close(os.open(os.path.join(self._directory, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                return False
            return True

        return await self._thread(work)

    def seal_state(self, payload: bytes, bound: bytes) -> str:
        """A payload that travels through a browser and comes back as it was; `bound` has to be the same then. base64url text."""
        nonce = os.urandom(_NONCE)
        return base64.urlsafe_b64encode(nonce + self._states[0].encrypt(nonce, payload, bound)).rstrip(b"=").decode()

    def open_state(self, text: str, bound: bytes) -> bytes | None:
        """The payload, None for everything that was not sealed here for `bound`."""
        if len(text) > MAX_STATE or not _STATE.fullmatch(text) or len(text) % 4 == 1:
            return None
        blob = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(blob) < _NONCE + _TAG:
            return None
        for cipher in self._states:
            with suppress(InvalidTag):
                return cipher.decrypt(blob[:_NONCE], blob[_NONCE:], bound)
        return None

    # ------------------------------------------------------------------------------------------------------------- files

    async def _thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except OSError as error:
            raise StoreError(f"the directory {self._directory} of grants cannot be used: {error.strerror}") from None

    def _sealed(self, name: str, grant: Grant) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._ciphers[0].encrypt(nonce, msgspec.msgpack.encode(grant), name.encode())

    def _read(self, name: str) -> Grant | None:
        try:
            fd = os.open(os.path.join(self._directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if not _NONCE + _TAG <= len(data) <= MAX_FILE:
            return None
        for cipher in self._ciphers:
            try:
                return msgspec.msgpack.decode(cipher.decrypt(data[:_NONCE], data[_NONCE:], name.encode()), type=Grant)
            except (InvalidTag, msgspec.DecodeError):
                continue
        return None

    def _write(self, name: str, data: bytes) -> None:
        path = os.path.join(self._directory, name)
        if not os.path.lexists(path):
            self._make_room()
        fresh = f"{path}.{os.urandom(4).hex()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                with open(fd, "wb", closefd=False) as stream:
                    stream.write(data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(fresh, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(fresh)
            raise
        self._sync()

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))
        self._sync()

    def _sync(self) -> None:
        # A rename or removal is durable once the directory is.
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _make_room(self) -> None:
        """Before one more: the oldest go, and what was left half written by a worker that died."""
        found: list[tuple[float, str]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    when = entry.stat(follow_symlinks=False).st_mtime
                    if _GRANT_NAME.fullmatch(entry.name):
                        found.append((when, entry.name))
                    elif _GRANT_NAME.match(entry.name) and when < self._clock() - 3600:
                        os.unlink(entry.path)
        for _, name in sorted(found)[: max(0, len(found) + 1 - self._max)]:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, name))

    def _forget_spent(self, lifetime_s: float) -> None:
        count = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith("spent-"):
                    count += 1
                    with suppress(FileNotFoundError):
                        if entry.stat(follow_symlinks=False).st_mtime < self._clock() - lifetime_s:
                            os.unlink(entry.path)
                            count -= 1
        if count >= MAX_SPENT:
            raise OSError(28, "too many logins at once")


def _derive(key: bytes, info: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key))


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
