"""`backendAuth.aws` to its plan: a key of the file, else that of the environment when the file is loaded.

Rules kept here:
- a key is whole (id and secret) or taken from the environment; a session token goes with the key it was given with;
- what cannot sign is found now, and no message quotes a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agw.config.model_credentials import AwsAuth
from agw.config.outside import text_of
from agw.config.problem import Path
from agw.config.values import NOT_YET
from agw.runtime.plan_security import AwsSign

if TYPE_CHECKING:
    from agw.config.check import Context


def aws_sign(context: Context, value: AwsAuth, path: Path) -> AwsSign | None:
    """The plan; None after a problem."""
    found = _key(context, value, path)
    if found is None:
        return None
    environ = context.environ
    region = value.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    plan = AwsSign(*found, region, value.service_name or "")
    from agw.security.upstream.sigv4 import AwsSource  # only files with such credentials pay for it

    try:
        AwsSource(plan)
    except ValueError as error:
        context.findings.problem(path, f"{error}; give accessKeyId, secretAccessKey, region and serviceName")
        return None
    return plan


def _key(context: Context, value: AwsAuth, path: Path) -> tuple[str, str, str] | None:
    """(id, secret, session token)."""
    if (value.access_key_id is None) != (value.secret_access_key is None):
        missing = "accessKeyId" if value.access_key_id is None else "secretAccessKey"
        if context.is_complete(path):
            context.findings.problem(path, f"the key `{missing}` is missing; add it")
        return None
    if value.access_key_id is not None and value.secret_access_key is not None:
        secret = text_of(context, value.secret_access_key, (*path, "secretAccessKey"))
        token = "" if value.session_token is None else text_of(context, value.session_token, (*path, "sessionToken"))
        return None if secret is None or token is None else (value.access_key_id, secret, token)
    if value.session_token is not None:
        context.findings.problem((*path, "sessionToken"), "a session token belongs to a key; add accessKeyId and secretAccessKey, or remove it")
        return None
    environ = context.environ
    ident, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not ident or not secret:
        text = f"no accessKeyId, and no AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY in the environment; the role of a machine {NOT_YET}"
        context.findings.problem(path, text)
        return None
    return ident, secret, environ.get("AWS_SESSION_TOKEN", "")
