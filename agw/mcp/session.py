"""Sessions inside their own ids: what a legacy session is, sealed so that any worker can go on with it.

Rules:
- an id is a sealed value (`agw.mcp.seal`) bound to the principal and the backend: presented by another principal, at
  another backend, after its time, altered or made up, it opens to None, always by the same way;
- an id has at most MAX_ID octets of visible ASCII. Upstream session ids are in it as far as they fit; the rest is
  re-initialised by whoever needs it. Client capabilities and client information that do not fit are left out, and then
  only the session's home knows them (`home_only`);
- an id never changes, so it holds what is settled at the handshake; what changes later (log level, subscriptions) is in
  the home's journal (`agw.worker.journal`);
- the home is a place, not a process: the successor of a worker has the same slot. Only the instance (one supervisor's
  life) makes a home be gone.

Source: MCP 2025-11-25, "Session Management"; mcp.md section 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agw.mcp.seal import KeyRing, sealed_length

MAX_ID = 2048
"""Octets of a session id: what common servers take in one header field beside everything else."""
MAX_CLIENT = 1024
"""Octets of client capabilities and client information together that travel in the id."""
INSTANCE_BYTES = 8
UUID_BYTES = 16

_PURPOSE = b"mcp session 1"
"""The number is that of `_Sealed`: ids of another layout are unknown ids."""


class UpstreamSession(msgspec.Struct, array_like=True, frozen=True):
    """What a target gave us at its handshake: its session id (empty: it has no sessions) and the negotiated version."""

    sid: str
    version: str


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """One legacy session.

    version: what was negotiated with the client. capabilities, client_info: raw JSON, None when left out of the id.
    created, expires: Unix seconds. uuid: 16 octets, the session's name in journals and logs.
    instance, slot: its home: the supervisor's life (8 octets) and the worker's place in it.
    transparent: the one target's messages are passed through as they are.
    upstream: by target; may lack targets (`partial`).
    home_only: something the session cannot do without is known to its home only.
    """

    version: str
    capabilities: bytes | None
    client_info: bytes | None
    backend: str
    created: int
    expires: int
    uuid: bytes
    instance: bytes
    slot: int
    transparent: bool = False
    upstream: Mapping[str, UpstreamSession] = {}
    partial: bool = False
    home_only: bool = False

    def bound(self, principal: bytes) -> bytes:
        """What the id is bound to."""
        return _bound(principal, self.backend)

    def pack(self, ring: KeyRing, principal: bytes) -> bytes:
        """The session id. `principal`: whose session it is, empty for nobody in particular.

        Errors: ValueError when not even the fixed part fits (a version of more than a thousand octets, say).
        """
        capabilities, client_info, home_only = self.capabilities, self.client_info, self.home_only
        if len(capabilities or b"") + len(client_info or b"") > MAX_CLIENT:
            capabilities, client_info, home_only = None, None, True
        upstream: dict[str, UpstreamSession] = {}
        base = _Sealed(
            self.version, capabilities, client_info, self.created, self.expires, self.uuid, self.instance, self.slot,
            _flags(self.transparent, self.partial, home_only), upstream,
        )
        room = MAX_ID - sealed_length(len(_encode(base)) + _MAP_GROWTH)
        for target, session in self.upstream.items():
            # base64 spends four octets on three; counting one more per entry keeps every rounding on our side.
            cost = len(_encode((target, session))) * 4 // 3 + 2
            if cost > room:
                base = msgspec.structs.replace(base, flags=base.flags | _PARTIAL)
                continue
            room -= cost
            upstream[target] = session
        token = ring.seal(_PURPOSE, _encode(base), self.bound(principal))
        if len(token) > MAX_ID:
            raise ValueError("the session does not fit into an id")
        return token

    @staticmethod
    def unpack(ring: KeyRing, token: bytes, principal: bytes, backend: str, now: int) -> SessionState | None:
        """The session behind an id, or None for every id that is not a living session of this principal at this backend.

        Units:  `now` in Unix seconds.
        """
        payload = ring.open(_PURPOSE, token[: MAX_ID + 1], _bound(principal, backend))
        if payload is None or len(token) > MAX_ID:
            return None
        try:
            found = _decoder.decode(payload)
        except msgspec.DecodeError:
            return None
        if now >= found.expires:
            return None
        if len(found.uuid) != UUID_BYTES or len(found.instance) != INSTANCE_BYTES:
            return None
        return SessionState(
            version=found.version, capabilities=found.capabilities, client_info=found.client_info, backend=backend, created=found.created,
            expires=found.expires, uuid=found.uuid, instance=found.instance, slot=found.slot, transparent=bool(found.flags & _TRANSPARENT),
            upstream=found.upstream, partial=bool(found.flags & _PARTIAL), home_only=bool(found.flags & _HOME_ONLY),
        )


class _Sealed(msgspec.Struct, array_like=True, frozen=True):
    """The payload of an id; the backend is not in it, because the id is bound to it."""

    version: str
    capabilities: bytes | None
    client_info: bytes | None
    created: int
    expires: int
    uuid: bytes
    instance: bytes
    slot: int
    flags: int
    upstream: dict[str, UpstreamSession]


_TRANSPARENT, _PARTIAL, _HOME_ONLY = 1, 2, 4
_MAP_GROWTH = 4
"""Octets by which the head of the map may grow when entries are added."""


def _flags(transparent: bool, partial: bool, home_only: bool) -> int:
    return _TRANSPARENT * transparent | _PARTIAL * partial | _HOME_ONLY * home_only


def _bound(principal: bytes, backend: str) -> bytes:
    # The length keeps (a, bc) and (ab, c) apart.
    return len(principal).to_bytes(4, "big") + principal + backend.encode("utf-8", "surrogatepass")


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Sealed)
