"""What goes on the wire: heads rebuilt from what was parsed, and the gateway's own answers. C only (forward.pxd).

Rules:
- nothing is copied as a block: each field is written from its parsed name and value;
- hop-by-hop fields and those named by Connection are dropped (RFC 9110 section 7.6.1); framing is written by us;
- names, values and order of everything else are kept;
- X-Forwarded-For, -Host and -Proto say what we saw; what a client claims about itself is dropped unless configured;
- the table FAILURES is the one place where what went wrong becomes a status, a reason and a JSON-RPC code;
- an output buffer that overflows is marked, never written past its end, and the head is not sent.
"""

from typing import Final

REASONS: Final[tuple[str, ...]]
"""Why a request ended as it did, by number, agentgateway's words: values of the `reason` label and log field."""
