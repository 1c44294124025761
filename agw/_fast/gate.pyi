"""Who may come in: what was decided about a credential before, found again without asking anyone.

A route with security policies has a Gate. The exchange shows it the head; a known, unexpired credential costs one comparison
(the connection's last one), a keyed hash and a comparison (one of 1,024 found lately) or one digest and look-up. Everything else
goes to the keeper (`agw.security.keeper`), which admits or refuses, now or later, and may have the decision remembered here.

Rules:
- an Identity is remembered for the exact octets it was made of, in the cache of one gate;
- a connection's last identity counts only for the gate that remembers it: generations of gates are unique;
- `forget_all` (keys changed) makes every remembered identity unknown, also those that connections hold;
- a licence says what an admitted request is charged for; it exists only when nothing else is left to decide;
- caches are bounded: identities per gate, licences per identity.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from agw._fast.limiter import Limit
from agw._fast.policy import HeaderEdits

@disjoint_base
class Charge:
    """`cost` units of a limit's bucket `key` (`limiter.hash_key`)."""

    def __init__(self, limit: Limit, key: int, cost: int = 1) -> None: ...
    def take(self) -> bool:
        """Charge it now; False when the limit is reached. For messages that Python judges; the exchange takes by itself."""
    @property
    def limit(self) -> Limit: ...
    @property
    def key(self) -> int: ...
    @property
    def cost(self) -> int: ...

@disjoint_base
class License:
    """What an admitted request or message is charged for."""

    def __init__(self, charges: Iterable[Charge] = (), stamp: int = 0) -> None:
        """`stamp`: of the call table whose names were judged (`calls.CallTable.stamp`)."""
    @property
    def stamp(self) -> int: ...
    @property
    def charges(self) -> tuple[Charge, ...]: ...

@disjoint_base
class Identity:
    """Whom a request is from. `repr` shows the key only."""

    extra: dict[str, Any]
    """What the keeper keeps with it."""
    def __init__(
        self,
        key: bytes,
        claims: dict[str, Any],
        *,
        token: bytes = b"",
        scopes: frozenset[str] = ...,
        expires_ns: int = ...,
        log_fields: bytes = b"",
        edits: HeaderEdits | None = None,
    ) -> None:
        """`expires_ns` by the reactor's clock; `edits` are for the request towards the upstream."""
    def learn(self, name: bytes, licence: License) -> None:
        """Calls of this name (raw, as the client says it) need not be judged again."""
    @property
    def key(self) -> bytes:
        """The principal; b"" for nobody."""
    @property
    def claims(self) -> dict[str, Any]:
        """Roots of CEL."""
    @property
    def token(self) -> bytes:
        """The verified bearer token, or b""."""
    @property
    def scopes(self) -> frozenset[str]: ...
    @property
    def expires_ns(self) -> int: ...
    @property
    def log_fields(self) -> bytes:
        """JSON members, each after a comma."""
    @property
    def edits(self) -> HeaderEdits | None: ...
    @property
    def entry(self) -> License | None:
        """Set once it is remembered."""

@disjoint_base
class Gate:
    """The security policies of a route as the data path knows them. C methods: `shown`, `recall`, `licence`."""

    keeper: Any
    """Who decides (`agw.security.keeper.Keeper`); None: nobody passes."""
    def __init__(
        self, plan: Any, headers: Sequence[bytes], *, elsewhere: bool = False, by_peer: bool = False, messages: bool = False, capacity: int = 10000
    ) -> None:
        """`headers`: lower-case names of fields that hold credentials; `messages`: are there rules or limits for messages?"""
    def find(self, shown: bytes, now: int) -> Identity | None:
        """The remembered identity for these octets."""
    def remember(self, who: Identity, entry: License, shown: bytes) -> None:
        """From now on these octets are this identity, until it expires."""
    def forget_all(self) -> None:
        """Nobody is known any more."""
    def __len__(self) -> int: ...
    @property
    def plan(self) -> Any: ...
    @property
    def headers(self) -> tuple[bytes, ...]: ...
    @property
    def elsewhere(self) -> bool: ...
    @property
    def by_peer(self) -> bool: ...
    @property
    def messages(self) -> bool: ...
    @property
    def capacity(self) -> int: ...
    @property
    def generation(self) -> int:
        """Another number after `forget_all`; no two gates ever have the same."""
