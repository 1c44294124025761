"""CEL for `extAuthz`: the engine of the rules, with the service's answer among the facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from agw.security import cel
from agw.security.cel_functions import safe
from agw.security.cel_names import Phase
from agw.security.contract import Found, Request
from agw.security.ext_authz.values import Evaluate
from agw.security.facts import Facts


def compile(expression: str, phase: str) -> Evaluate:
    """See `values.Compile`. Errors: ValueError."""
    try:
        compiled = cel.compile(expression, cast(Phase, phase))
    except (cel.CelError, cel.CelMissing) as error:
        raise ValueError(str(error)) from None

    def evaluate(request: Request, found: Found, roots: Mapping[str, Any]) -> Any:
        value = compiled.evaluate(Facts(request, found.claims, extra=_answer(roots.get("response"))))
        if isinstance(value, cel.EvaluationError):
            raise ValueError("no value")
        return value

    return evaluate


def _answer(response: dict[str, Any] | None) -> dict[str, Any]:
    """`response.*`; what no expression could use is left out."""
    out: dict[str, Any] = {}
    for name, value in (response or {}).items():
        try:
            out[f"response.{name}"] = safe(value.decode("utf-8") if isinstance(value, bytes) else value)
        except ValueError:
            continue
    return out
