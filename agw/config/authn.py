"""Authentication of the file to authentication of the plan.

Rules kept here:
- what a worker could only find out with the first request is found out now: key sets, hashes, names of places;
- without `mode` a policy is strict, and says so;
- plain keys become hashes here, and no message quotes a key, a hash or a password;
- what weakens a policy (no audience, no end, a weak hash, a secret in clear over the network) is a warning.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from agw.config import values
from agw.config.files import read_text
from agw.config.model_authn import ApiKey, ApiKeys, BasicAuth, JwksSource, JwtAuth, JwtProvider, TokenIntrospection
from agw.config.model_location import location_plan
from agw.config.outside import text_of
from agw.config.problem import Path
from agw.config.tls import client_tls
from agw.config.values import quoted
from agw.runtime.plan_security import (
    ApiKeyEntry,
    ApiKeyPlan,
    BasicPlan,
    CallPlan,
    IntrospectionPlan,
    JwtPlan,
    JwtProviderPlan,
    LocationPlan,
    Mode,
)

if TYPE_CHECKING:
    from agw.config.check import Context

MAX_LEEWAY_S = 600
_BEARER = LocationPlan()
_BASIC = LocationPlan(prefix="Basic ")
_KEY = re.compile(r"[!-~]{1,4096}")
_KEY_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_SHORT_KEY = 16
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


def mode_of(context: Context, mode: Mode | None, path: Path) -> Mode:
    """The mode of a policy; strict, with a warning, when none is given. `path` is that of the policy."""
    if mode is None and context.is_complete(path):
        context.findings.warning(path, "no `mode`: it is strict, so requests without credential are refused; write `mode: strict`, or optional to let them in")
    return mode or "strict"


def jwt_plan(context: Context, value: JwtAuth, path: Path) -> JwtPlan:
    """`jwtAuth`; after a problem the plan is not to be used."""
    findings = context.findings
    providers: list[JwtProviderPlan | None] = []
    if value.providers is not None:
        for key, given in (("issuer", value.issuer), ("jwks", value.jwks), ("audiences", value.audiences), ("leeway", value.leeway),
                           ("jwtValidationOptions", value.jwt_validation_options), ("algorithms", value.algorithms or None)):  # fmt: skip
            if given is not None:
                findings.problem((*path, key), f"`{key}` and `providers` exclude each other; write it in the provider")
        if not value.providers and context.is_complete(path):
            findings.problem((*path, "providers"), "no provider, so no token could be verified; add one")
        seen: dict[str, Path] = {}
        for index, provider in enumerate(value.providers):
            below = (*path, "providers", index)
            first = seen.setdefault(provider.issuer, below)
            if first is not below:
                findings.problem((*below, "issuer"), f"the issuer is that of {context.shown(first)} as well; put all keys and audiences into one provider")
            providers.append(provider_plan(context, provider, below))
    elif value.issuer is not None and value.jwks is not None:
        one = JwtProvider(value.issuer, value.jwks, value.audiences, value.jwt_validation_options, value.algorithms, value.leeway)
        providers.append(provider_plan(context, one, path))
    elif context.is_complete(path):
        missing = "`issuer` and `jwks`" if value.issuer is None and value.jwks is None else "`issuer`" if value.issuer is None else "`jwks`"
        findings.problem(path, f"give {missing}, or several `providers`")
    return JwtPlan(
        [item for item in providers if item is not None],
        mode_of(context, value.mode, path),
        location_plan(context, value.location, (*path, "location"), _BEARER, read=True),
    )


def provider_plan(context: Context, value: JwtProvider, path: Path) -> JwtProviderPlan | None:
    """One issuer; None after a problem with its keys."""
    findings = context.findings
    if not value.issuer:
        findings.problem((*path, "issuer"), "the issuer is empty; write the `iss` of its tokens")
    if not value.audiences:
        findings.warning(path, "no `audiences`: a token this issuer made for another service is accepted as well; list the names of this one")
    required = ["exp"] if value.jwt_validation_options is None else value.jwt_validation_options.required_claims
    if "exp" not in required:
        findings.warning((*path, "jwtValidationOptions", "requiredClaims"), "tokens without `exp` never end; add exp")
    leeway = 60
    if value.leeway is not None:
        leeway = findings.value((*path, "leeway"), values.duration_ns, value.leeway, 0) // 1_000_000_000
        if leeway > MAX_LEEWAY_S:
            findings.problem((*path, "leeway"), "more than ten minutes; set the clocks instead")
    keys = _keys(context, value.jwks, (*path, "jwks"))
    if keys is None:
        return None
    return JwtProviderPlan(value.issuer, value.audiences or [], keys[0], keys[1], list(value.algorithms), required, leeway)


def _keys(context: Context, value: str | JwksSource, path: Path) -> tuple[str, str] | None:
    """A key set as (text, ""), or as ("", URL)."""
    place = path
    if isinstance(value, JwksSource):
        chosen = context.choice(value, path, ("file", "url"))
        if chosen == "url" and value.url is not None:
            url = context.outside.document(context, value.url, (*path, "url"))
            if url and _in_clear(url):
                context.findings.warning((*path, "url"), "who can change what comes over http:// can sign tokens; use https://")
            return ("", url) if url else None
        if chosen != "file" or value.file is None:
            return None
        place = (*path, "file")
        text = read_text(context, value.file, place, "mend the path", "write the key set as JSON")
    else:
        text = value
    if text is None:
        return None
    from agw.security.jwks import UnusableSet, parse_jwks  # only files with keys pay for cryptography

    try:
        keys = parse_jwks(text, symmetric=True)
    except UnusableSet as error:
        context.findings.problem(place, f"{error}; write a JSON Web Key Set")
        return None
    if keys.skipped:
        context.findings.warning(place, f"{keys.skipped} of {keys.skipped + len(keys.keys)} keys cannot verify tokens and are left out")
    return text, ""


def _in_clear(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or "")


def api_key_plan(context: Context, value: ApiKeys, path: Path) -> ApiKeyPlan:
    """`apiKey`; after a problem the plan is not to be used."""
    entries: list[ApiKeyEntry] = []
    seen: dict[str, Path] = {}
    for index, item in enumerate(value.keys):
        below = (*path, "keys", index)
        hashed = _key_hash(context, item, below)
        if hashed is None:
            continue
        first = seen.setdefault(hashed, below)
        if first is not below:
            context.findings.problem(below, f"the same key as {context.shown(first)}; keep one of them")
        entries.append(ApiKeyEntry(hashed, msgspec.json.encode(item.metadata).decode()))
    if not value.keys and context.is_complete(path):
        context.findings.problem((*path, "keys"), "no key, so nobody could come in; add one")
    return ApiKeyPlan(entries, mode_of(context, value.mode, path), location_plan(context, value.location, (*path, "location"), _BEARER, read=True))


def _key_hash(context: Context, item: ApiKey, path: Path) -> str | None:
    chosen = context.choice(item, path, ("key", "key_hash"))
    if chosen == "key" and item.key is not None:
        if not _KEY.fullmatch(item.key):
            context.findings.problem((*path, "key"), "a key has 1 to 4096 visible ASCII characters and no blanks, or no request could hold it")
            return None
        if len(item.key) < _SHORT_KEY:
            context.findings.warning((*path, "key"), f"shorter than {_SHORT_KEY} characters can be guessed; make one with: openssl rand -hex 24")
        return hashlib.sha256(item.key.encode()).hexdigest()
    if chosen == "key_hash" and item.key_hash is not None:
        match = _KEY_HASH.fullmatch(item.key_hash)
        if match is not None:
            return match[1].lower()
        context.findings.problem((*path, "keyHash"), "not `sha256:` and 64 hex digits; make it with: printf %s KEY | sha256sum")
    return None


def basic_plan(context: Context, value: BasicAuth, path: Path) -> BasicPlan:
    """`basicAuth`; after a problem the plan is not to be used."""
    from agw.security.htpasswd import cost, read_users

    findings = context.findings
    place = (*path, "htpasswd") if isinstance(value.htpasswd, str) else (*path, "htpasswd", "file")
    text = text_of(context, value.htpasswd, (*path, "htpasswd"), "mend the path, or make one: htpasswd -Bc FILE name")
    users: list[tuple[str, str]] = []
    if text is not None:
        users, wrong = read_users(text)
        for number, what in wrong:
            findings.problem(place, f"line {number} {what}")
        if not users and not wrong:
            findings.problem(place, "no user, so nobody could come in; add one: htpasswd -nB name")
        weak = sum(1 for _, hashed in users if (cost(hashed) or ("", 0))[0] != "bcrypt")
        if weak:
            findings.warning(place, f"{weak} of {len(users)} hashes are apr1 or {{SHA}}, which are guessed fast once they leak; use bcrypt: htpasswd -nB name")
    realm = "Restricted" if value.realm is None else findings.value((*path, "realm"), _realm, value.realm, "")
    location = location_plan(context, value.authorization_location, (*path, "authorizationLocation"), _BASIC, read=True)
    return BasicPlan(users, realm, mode_of(context, value.mode, path), location)


def _realm(text: str) -> str:
    if not re.fullmatch(r"[ -~]{1,128}", text):
        raise ValueError(f"{quoted(text)} is no realm; use 1 to 128 visible ASCII characters and blanks")
    return text


def introspection_plan(context: Context, value: TokenIntrospection, path: Path) -> IntrospectionPlan:
    """`tokenIntrospection`; after a problem the plan is not to be used."""
    findings = context.findings

    def duration(text: str | None, key: str, default: int) -> int:
        return default if text is None else findings.value((*path, key), values.positive_duration_ns, text, default)

    tls = None if value.backend_tls is None else client_tls(context, value.backend_tls, (*path, "backendTLS"))
    timeout = duration(value.timeout, "timeout", 5_000_000_000)
    call = context.outside.call(context, value.url, (*path, "url"), "introspection", timeout_ns=timeout, tls=tls)
    secret = text_of(context, value.client_secret, (*path, "clientSecret")) or ""
    if call is not None and _in_clear(value.url):
        findings.warning((*path, "url"), "tokens and the client's secret go over http:// for everybody on the way to read; use https://")
    if secret and not value.client_id and context.is_complete(path):
        findings.problem((*path, "clientSecret"), "a secret without `clientId`; add it")
    if not value.audiences:
        findings.warning(path, "no `audiences`: a token made for another service is accepted as well; list the names of this one")
    return IntrospectionPlan(
        call or CallPlan(-1),
        value.client_id,
        secret,
        value.issuer,
        value.audiences,
        duration(value.cache_ttl, "cacheTtl", 60_000_000_000),
        value.max_entries,
        mode_of(context, value.mode, path),
        location_plan(context, value.location, (*path, "location"), _BEARER, read=True),
    )
