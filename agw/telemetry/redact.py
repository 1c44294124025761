"""Replaces secrets in values that are shown to people: configuration dumps, log fields.

It errs towards hiding. A member is hidden by its name (`password`, `clientSecret`, `x-api-key`, `key`, ...), in
objects and in `[name, value]` pairs such as header lists; text is hidden by its look (user:password@ in a URL, bearer
tokens, PEM private keys). Numbers under a secret name are hidden, booleans and nulls are not: they say "is set".
"""

from __future__ import annotations

import re

HIDDEN = "<redacted>"

# Compared with names in lower case without `-`, `_` and `.`; matched at the end, so `clientSecret` is found too.
_SECRET_NAME = re.compile(
    r"(?:password|passwd|passphrase|secret|token|apikey|authorization|cookie|credentials?|htpasswd|sessionid)$"
    r"|^(?:keys?|privatekey|signingkey|encryptionkey|pwd|auth)$"
)
_SECRET_TEXT = re.compile(
    r"(?P<userinfo>(?<=://)[^/\s@?#]+(?=@))"
    r"|(?P<scheme>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|(?P<query>[?&](?:[a-z_-]*(?:token|key|secret|password)|code|sig|signature)=)[^&\s#]+"
    r"|(?P<pem>-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))",
    re.IGNORECASE | re.DOTALL,
)


def is_secret_name(name: str) -> bool:
    """True if a value under this name is to be hidden."""
    return _SECRET_NAME.search(re.sub(r"[-_.]", "", name.lower())) is not None


def redact_text(text: str) -> str:
    """`text` without what looks like a credential."""
    return _SECRET_TEXT.sub(lambda found: (found["scheme"] or found["query"] or "") + HIDDEN, text)


def redact(value: object) -> object:
    """A copy of a JSON value (dict, list, tuple, str, int, float, bool, None) with its secrets replaced."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        # {"name": "authorization", "value": ...} is how header conditions and changes are written.
        label = value.get("name")
        named = isinstance(label, str) and is_secret_name(label)
        return {
            name: _hide(item) if is_secret_name(str(name)) or (named and name == "value") else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and isinstance(value[0], str) and is_secret_name(value[0]):
            return [value[0], _hide(value[1])]
        return [redact(item) for item in value]
    return value


def _hide(value: object) -> object:
    """What stands under a secret name. An object there is a policy (`authorization: {rules: ...}`), not a secret."""
    if isinstance(value, dict):
        return redact(value)
    if isinstance(value, (list, tuple)):
        return [_hide(item) for item in value]
    return value if value is None or isinstance(value, bool) else HIDDEN
