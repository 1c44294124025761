"""A table of endpoints as a handler: exact path, then method; 404 and 405 in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agw.admin.access import Access
from agw.admin.guard import check_host, check_origin
from agw.admin.message import Handler, HttpError, Request, Response, json_response


class Endpoint(NamedTuple):
    """One method of one path. `GET` also answers HEAD; the connection leaves the body out."""

    method: str
    path: str
    summary: str
    handler: Handler


class EndpointTable:
    """A `Handler` over a fixed list of endpoints. `index` adds `GET /`, which lists them.

    `guarded` applies the Host and Origin checks before anything else, also to unknown paths; `access` then says who may do what.
    """

    def __init__(self, endpoints: Iterable[Endpoint], *, guarded: bool = True, index: bool = True, access: Access | None = None) -> None:
        self._guarded = guarded
        self._access = access
        self._paths: dict[str, dict[str, Endpoint]] = {}
        if index:
            endpoints = (Endpoint("GET", "/", "this list", self._list), *endpoints)
        for endpoint in endpoints:
            self._paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint

    async def __call__(self, request: Request) -> Response:
        """Errors: HttpError 400 and 403 (guard), 401, 403 and 429 (access), 404 (path), 405 (method); and the endpoint's own."""
        if self._guarded:
            check_host(request)
            check_origin(request)
        if self._access is not None:
            self._access.check(request)
        methods = self._paths.get(request.path)
        if methods is None:
            raise HttpError(404, "no such endpoint")
        endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            allow = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            raise HttpError(405, "method not allowed", headers=(("allow", ", ".join(allow)),))
        return await endpoint.handler(request)

    async def _list(self, request: Request) -> Response:
        listed = [
            {"method": endpoint.method, "path": endpoint.path, "summary": endpoint.summary}
            for methods in self._paths.values()
            for endpoint in methods.values()
        ]
        return json_response({"endpoints": listed})
