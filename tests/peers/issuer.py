"""An OAuth 2 and OpenID Connect authorization server for tests, real on the wire and in its signatures.

    with Issuer() as issuer:                        # http://127.0.0.1:port
        token = issuer.token(sub="alice", aud="https://api.example")
        issuer.add_client("agw", "secret")
        ...
        issuer.calls                                # what came: Call(path, form, headers, query)

Endpoints: /.well-known/oauth-authorization-server (RFC 8414), /.well-known/openid-configuration, /jwks, /authorize (approves
at once), /token (client_credentials, authorization_code with PKCE, refresh_token with rotation, token exchange, jwt-bearer),
/introspect (RFC 7662), /register (RFC 7591), /userinfo.

Faults: `issuer.faults["/jwks"] = "down" | "slow" | "garbage" | "500" | "huge" | "redirect"`; `issuer.slow` is released by
`issuer.release()`. An answer of one's own: `issuer.answers["/token"] = (status, content type, octets)`.

Nothing here knows the gateway: no module of agw is used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote_plus, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

_RSA = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
"""Shared by all issuers of a run: making one costs a tenth of a second. Which one signs differs by rotation."""


@dataclass
class Key:
    """A signing key. `kid` "" leaves the header out."""

    kid: str
    alg: str
    private: Any

    @property
    def pem(self) -> str:
        kind = serialization.PrivateFormat.PKCS8
        return self.private.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()

    @property
    def public_pem(self) -> str:
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()

    @property
    def jwk(self) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name(self.alg)
        out = json.loads(algorithm.to_jwk(self.private.public_key()))
        out.pop("key_ops", None)
        return {**out, "use": "sig", "alg": self.alg, **({"kid": self.kid} if self.kid else {})}


def make_key(kid: str, alg: str, index: int = 0) -> Key:
    """A new key (RSA: one of the run's)."""
    if alg.startswith(("RS", "PS")):
        return Key(kid, alg, _RSA[index % len(_RSA)])
    if alg == "EdDSA":
        return Key(kid, alg, ed25519.Ed25519PrivateKey.generate())
    return Key(kid, alg, ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[alg]))


@dataclass
class Call:
    """A request as it came: header names in lower case, form and query as (name, value) in order."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body: bytes
    form: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]

    def __getitem__(self, name: str) -> str:
        return dict(self.form)[name]


@dataclass
class Client:
    """A registered client. `public` needs no secret; `key` is the PEM of a public key for private_key_jwt."""

    ident: str
    secret: str = ""
    redirect_uris: list[str] = field(default_factory=list)
    public_key: str = ""
    public: bool = False


class _Refuse(Exception):
    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.status = status


class Issuer:
    """The server. `path` is a path of the issuer's identifier (`/realms/x`), which endpoints are below."""

    def __init__(self, path: str = "", port: int = 0) -> None:
        self.path = path
        self.keys: dict[str, Key] = {"rs": make_key("rs-1", "RS256"), "es": make_key("es-1", "ES256"), "ed": make_key("ed-1", "EdDSA")}
        self.published: list[Key] = list(self.keys.values())
        self.clients: dict[str, Client] = {}
        self.calls: list[Call] = []
        self.faults: dict[str, str] = {}
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.aliases: dict[str, str] = {}
        """Further paths of endpoints, as other products have them: {"/certs": "/jwks"}."""
        self.ends_before: float = 0
        """Seconds that tokens end earlier than the answers with them say: who accepts them forgives clocks some."""
        self.refuses_resource = False
        """Is `resource` (RFC 8707) a parameter that must not come?"""
        self.extra_metadata: dict[str, Any] = {}
        self.omit_metadata: set[str] = set()
        self.claimed_issuer = ""
        self.response_iss: str | None = ""
        """`iss` of authorization responses (RFC 9207): "" is the issuer's own, None leaves it out."""
        self.user = "alice"
        self.expires_in: int | None = 300
        self.token_type = "Bearer"
        self.cache_control = ""
        self.rotate_refresh = True
        self.accept_registration = True
        self.opaque: dict[str, dict[str, Any]] = {}
        """Claims of opaque tokens, for introspection."""
        self.trusted: list[Issuer] = []
        """Whose assertions and subject tokens are accepted, besides our own."""
        self.decide: Callable[[Call, dict[str, Any]], dict[str, Any]] | None = None
        """Changes the claims of a token before it is made; may raise ValueError(error)."""
        self._codes: dict[str, dict[str, Any]] = {}
        self._refresh: dict[str, dict[str, Any]] = {}
        self._spent: set[str] = set()
        self._lock = threading.Lock()
        self._slow = threading.Event()
        self.arrived = threading.Semaphore(0)
        """Released once per request that came."""
        self.holding = threading.Semaphore(0)
        """Released once per request that is held by the fault "slow"."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_GET(self) -> None:
                issuer._handle(self)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: Any) -> None:
                pass  # the other side went away, which is its right

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Issuer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._slow.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # ------------------------------------------------------------------------------------------------------ what tests ask

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The issuer identifier."""
        return self.origin + self.path

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.jwk for key in self.published]}

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/jwks"

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    @property
    def metadata(self) -> dict[str, Any]:
        out = {
            "issuer": self.claimed_issuer or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": self.token_url,
            "jwks_uri": self.jwks_url,
            "introspection_endpoint": f"{self.url}/introspect",
            "registration_endpoint": f"{self.url}/register",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", EXCHANGE, JWT_BEARER],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
            "scopes_supported": ["openid", "read", "write"],
            "authorization_response_iss_parameter_supported": self.response_iss is not None,
            **self.extra_metadata,
        }
        return {name: value for name, value in out.items() if name not in self.omit_metadata}

    def add_client(self, ident: str, secret: str = "", **more: Any) -> Client:
        self.clients[ident] = Client(ident, secret, public=more.pop("public", not secret and not more.get("public_key")), **more)
        return self.clients[ident]

    def rotate(self, name: str = "rs", keep: bool = False) -> Key:
        """A new key takes over; `keep` publishes the old one further."""
        old = self.keys[name]
        number = int(old.kid.rpartition("-")[2]) + 1
        new = self.keys[name] = make_key(f"{name}-{number}", old.alg, number - 1)
        self.published = [new, *(key for key in self.published if keep or key is not old)]
        return new

    def token(self, key: str = "rs", headers: dict[str, Any] | None = None, lifetime: float = 300, **claims: Any) -> str:
        """A signed JWT of this issuer; a claim of None is left out."""
        now = int(time.time())
        signer = self.keys[key]
        body = {"iss": self.url, "sub": self.user, "iat": now, "exp": int(now + lifetime), "jti": secrets.token_hex(8), **claims}
        head = {"kid": signer.kid, **(headers or {})} if signer.kid else headers
        return jwt.encode({name: value for name, value in body.items() if value is not None}, signer.private, signer.alg, head)

    def verified(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """The claims of a token that we or one we trust made. Errors: jwt.InvalidTokenError."""
        header = jwt.get_unverified_header(token)
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        for issuer in (self, *self.trusted):
            if issuer.url != claimed:
                continue
            for key in issuer.published:
                if key.kid == header.get("kid"):
                    options: Any = {"verify_aud": audience is not None}
                    return jwt.decode(token, key.private.public_key(), [key.alg], audience=audience, issuer=issuer.url, options=options)
        raise jwt.InvalidTokenError("no such key")

    def opaque_token(self, **claims: Any) -> str:
        """A token that only introspection understands."""
        token = secrets.token_urlsafe(24)
        now = int(time.time())
        self.opaque[token] = {"active": True, "sub": self.user, "iss": self.url, "client_id": "cli", "iat": now, "exp": now + 300, **claims}
        return token

    def count(self, path: str) -> int:
        with self._lock:
            return sum(1 for call in self.calls if call.path == self.path + path)

    def last(self, path: str) -> Call:
        with self._lock:
            return next(call for call in reversed(self.calls) if call.path == self.path + path)

    def release(self) -> None:
        """Let those go on that the fault "slow" holds."""
        self._slow.set()

    # ------------------------------------------------------------------------------------------------------------ the wire

    def _handle(self, peer: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(peer.path)
        body = peer.rfile.read(int(peer.headers.get("content-length") or 0))
        headers = [(name.lower(), value) for name, value in peer.headers.items()]
        is_form = (peer.headers.get("content-type") or "").startswith("application/x-www-form-urlencoded")
        form = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)) if is_form else []
        call = Call(peer.command, parts.path, parse_qsl(parts.query, keep_blank_values=True), headers, body, form)
        with self._lock:
            self.calls.append(call)
        self.arrived.release()
        path = parts.path
        for prefix in (self.path, ""):
            if prefix and path.startswith(prefix):
                path = path.removeprefix(prefix)
                break
        if self.path and path.endswith(self.path) and path.startswith("/.well-known/"):
            path = path.removesuffix(self.path)  # RFC 8414, 3.1: the issuer's path comes after the well-known one
        path = self.aliases.get(path, path)
        fault = self.faults.get(path, "")
        if fault == "slow":
            self.holding.release()
            self._slow.wait(10)
        elif fault == "down":
            peer.close_connection = True
            peer.connection.close()
            return
        elif fault:
            self._fault(peer, fault)
            return
        if path in self.answers:
            self._send(peer, *self.answers[path])
            return
        try:
            if self.refuses_resource and any(name == "resource" for name, _ in call.query + call.form):
                raise _Refuse("invalid_target")
            self._route(peer, call, path)
        except _Refuse as refusal:
            answer = json.dumps({"error": refusal.error, "error_description": "told by the test issuer"}).encode()
            self._send(peer, refusal.status, "application/json", answer)

    def _fault(self, peer: BaseHTTPRequestHandler, fault: str) -> None:
        if fault == "garbage":
            self._send(peer, 200, "application/json", b'{"keys": [not json')
        elif fault == "huge":
            self._send(peer, 200, "application/json", b'{"keys": [' + b" " * (4 << 20) + b"]}")
        elif fault == "redirect":
            self._send(peer, 302, "text/plain", b"", [("Location", f"{self.origin}/elsewhere")])
        else:
            self._send(peer, int(fault), "text/plain", b"no")

    def _send(self, peer: BaseHTTPRequestHandler, status: int, kind: str, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        peer.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close"), *(headers or [])]:
            peer.send_header(name, value)
        peer.end_headers()
        peer.wfile.write(body)

    def _json(self, peer: BaseHTTPRequestHandler, value: Any, status: int = 200) -> None:
        more = [("Cache-Control", self.cache_control)] if self.cache_control else []
        self._send(peer, status, "application/json", json.dumps(value).encode(), more)

    def _route(self, peer: BaseHTTPRequestHandler, call: Call, path: str) -> None:
        if path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
            self._json(peer, self.metadata)
        elif path == "/jwks":
            self._json(peer, self.jwks)
        elif path == "/authorize":
            self._authorize(peer, call)
        elif path == "/token" and call.method == "POST":
            self._json(peer, self._token(call))
        elif path == "/introspect" and call.method == "POST":
            self._client(call)
            self._json(peer, self._introspect(call["token"]))
        elif path == "/register" and call.method == "POST":
            self._json(peer, self._register(call), 201)
        elif path == "/userinfo":
            self._json(peer, {"sub": self.user})
        else:
            self._send(peer, 404, "text/plain", b"nothing here")

    # ------------------------------------------------------------------------------------------------------------ the flows

    def _authorize(self, peer: BaseHTTPRequestHandler, call: Call) -> None:
        query = dict(call.query)
        client = self.clients.get(query.get("client_id", ""))
        where = query.get("redirect_uri", "")
        if client is None or where not in client.redirect_uris:
            raise _Refuse("invalid_request")
        answer: dict[str, str] = {}
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            answer["error"] = "invalid_request"
        else:
            code = secrets.token_urlsafe(24)
            with self._lock:
                self._codes[code] = {**query, "resources": [value for name, value in call.query if name == "resource"], "user": self.user}
            answer["code"] = code
        if "state" in query:
            answer["state"] = query["state"]
        if self.response_iss is not None:
            answer["iss"] = self.response_iss or self.url
        self._send(peer, 302, "text/plain", b"", [("Location", f"{where}{'&' if '?' in where else '?'}{urlencode(answer)}")])

    def _client(self, call: Call) -> Client:
        """Who calls; by HTTP Basic, in the form, by assertion, or a public client by name."""
        form = dict(call.form)
        header = call.header("authorization")
        if header is not None and header.startswith("Basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            ident, secret = unquote_plus(name), unquote_plus(secret)
        elif form.get("client_assertion_type") == ASSERTION:
            return self._asserted(form["client_assertion"])
        else:
            ident, secret = form.get("client_id", ""), form.get("client_secret", "")
        client = self.clients.get(ident)
        if client is None or (not client.public and not (client.secret and hmac.compare_digest(client.secret, secret))):
            raise _Refuse("invalid_client", 401)
        return client

    def _asserted(self, assertion: str) -> Client:
        try:
            ident = jwt.decode(assertion, options={"verify_signature": False})["iss"]
            client = self.clients[ident]
            allowed = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
            claims = jwt.decode(assertion, client.public_key, allowed, audience=[self.url, self.token_url], options={"require": ["exp", "jti", "sub"]})
        except (jwt.InvalidTokenError, KeyError):
            raise _Refuse("invalid_client", 401) from None
        with self._lock:
            if claims["sub"] != ident or claims["jti"] in self._spent:
                raise _Refuse("invalid_client", 401)
            self._spent.add(claims["jti"])
        return client

    def _token(self, call: Call) -> dict[str, Any]:
        form = dict(call.form)
        grant = form.get("grant_type")
        flows: dict[str | None, Callable[[Call, dict[str, str]], dict[str, Any]]] = {
            "client_credentials": self._client_credentials,
            "authorization_code": self._code,
            "refresh_token": self._refreshed,
            EXCHANGE: self._exchange,
            JWT_BEARER: self._jwt_bearer,
        }
        flow = flows.get(grant)
        if flow is None:
            raise _Refuse("unsupported_grant_type")
        try:
            return flow(call, form)
        except jwt.InvalidTokenError:
            raise _Refuse("invalid_grant") from None
        except KeyError:
            raise _Refuse("invalid_request") from None
        except ValueError as error:
            raise _Refuse(str(error)) from None

    def _answer(self, call: Call, claims: dict[str, Any], scope: str | None, kind: str = "") -> dict[str, Any]:
        if self.decide is not None:
            claims = self.decide(call, claims)
        lifetime = (300 if self.expires_in is None else self.expires_in) - self.ends_before
        out: dict[str, Any] = {"access_token": self.token(lifetime=lifetime, scope=scope, **claims), "token_type": self.token_type}
        if self.expires_in is not None:
            out["expires_in"] = self.expires_in
        if kind:
            out["issued_token_type"] = kind
        if scope:
            out["scope"] = scope
        return out

    def _client_credentials(self, call: Call, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(call)
        audience = call.all("resource") or call.all("audience") or None
        return self._answer(call, {"sub": client.ident, "client_id": client.ident, "aud": audience}, form.get("scope"))

    def _code(self, call: Call, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(call)
        with self._lock:
            granted = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if granted is None or granted["client_id"] != client.ident or granted["redirect_uri"] != form["redirect_uri"] or granted["code_challenge"] != challenge:
            raise _Refuse("invalid_grant")
        if granted["resources"] and call.all("resource") != granted["resources"]:
            raise _Refuse("invalid_target")
        out = self._granted(call, client, granted)
        if "openid" in granted.get("scope", "").split():
            nonce = granted.get("nonce")
            out["id_token"] = self.token(sub=granted["user"], aud=client.ident, nonce=nonce, email=f"{granted['user']}@example.com")
        return out

    def _granted(self, call: Call, client: Client, granted: dict[str, Any]) -> dict[str, Any]:
        claims = {"sub": granted["user"], "client_id": client.ident, "aud": granted["resources"] or None}
        out = self._answer(call, claims, granted.get("scope"))
        refresh = secrets.token_urlsafe(24)
        with self._lock:
            self._refresh[refresh] = {**granted, "client_id": client.ident}
        return {**out, "refresh_token": refresh}

    def _refreshed(self, call: Call, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(call)
        with self._lock:
            granted = self._refresh.pop(form["refresh_token"], None) if self.rotate_refresh else self._refresh.get(form["refresh_token"])
        if granted is None or granted["client_id"] != client.ident:
            raise _Refuse("invalid_grant")
        out = self._granted(call, client, granted)
        if not self.rotate_refresh:
            del out["refresh_token"]
        return out

    def _exchange(self, call: Call, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(call) if self.clients else Client("")
        subject = self._introspect(form["subject_token"]) if form["subject_token"] in self.opaque else self.verified(form["subject_token"])
        claims: dict[str, Any] = {"sub": subject["sub"], "aud": (call.all("audience") + call.all("resource")) or None, "client_id": client.ident}
        if "actor_token" in form:
            claims["act"] = {"sub": self.verified(form["actor_token"])["sub"]}
        kind = form.get("requested_token_type", ACCESS_TOKEN)
        if kind != ID_JAG:
            return self._answer(call, claims, form.get("scope"), kind)
        claims |= {"aud": form["audience"], "resource": form.get("resource"), "scope": form.get("scope")}
        token = self.token(headers={"typ": "oauth-id-jag+jwt"}, **claims)
        return {"access_token": token, "token_type": "N_A", "issued_token_type": ID_JAG, "expires_in": self.expires_in or 300}

    def _jwt_bearer(self, call: Call, form: dict[str, str]) -> dict[str, Any]:
        client = self._client(call) if self.clients else Client("")
        assertion = form["assertion"]
        is_jag = jwt.get_unverified_header(assertion).get("typ") == "oauth-id-jag+jwt"
        claims = self.verified(assertion, self.url if is_jag else None)
        with self._lock:
            if is_jag and claims["jti"] in self._spent:
                raise _Refuse("invalid_grant")
            self._spent.add(claims.get("jti", ""))
        audience = claims.get("resource") or call.all("audience") or None
        return self._answer(call, {"sub": claims["sub"], "aud": audience, "client_id": client.ident}, form.get("scope") or claims.get("scope"))

    def _introspect(self, token: str) -> dict[str, Any]:
        known = self.opaque.get(token)
        if known is not None:
            return known
        try:
            return {"active": True, **self.verified(token)}
        except jwt.InvalidTokenError:
            return {"active": False}

    def _register(self, call: Call) -> dict[str, Any]:
        if not self.accept_registration:
            raise _Refuse("access_denied", 403)
        asked = json.loads(call.body)
        ident = f"client-{secrets.token_hex(6)}"
        public = asked.get("token_endpoint_auth_method") == "none"
        secret = "" if public else secrets.token_hex(16)
        self.add_client(ident, secret, redirect_uris=asked.get("redirect_uris", []), public=public)
        return {**asked, "client_id": ident, **({} if public else {"client_secret": secret, "client_secret_expires_at": 0})}


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL, each once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def basic(ident: str, secret: str) -> str:
    """The Authorization header of a client (RFC 6749, 2.3.1)."""
    return "Basic " + base64.b64encode(f"{quote(ident, safe='')}:{quote(secret, safe='')}".encode()).decode()
