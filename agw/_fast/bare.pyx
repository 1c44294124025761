# See bare.pyi for the manual.

from urllib.parse import unquote_to_bytes


def bare_query(bytes query, frozenset names not None, bytes more not None):
    cdef list kept = []
    cdef bytes part
    if query is not None:
        for part in query.split(b"&"):
            # As whoever reads parameters does: "+" is a space, and an escape is the octet it stands for.
            if not names or unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")) not in names:
                kept.append(part)
    if more:
        kept.append(more)
    return b"&".join(kept) if kept else None


def bare_cookies(list headers not None, frozenset names not None, bytes more not None):
    cdef list kept = []
    cdef bytes name, value, part
    for name, value in headers:
        if name == b"cookie":
            for part in value.split(b";"):
                part = part.strip(b" \t")
                if part and part.partition(b"=")[0].strip(b" \t") not in names:
                    kept.append(part)
    if more:
        kept.append(more)
    return b"Cookie: " + b"; ".join(kept) + b"\r\n" if kept else b""
