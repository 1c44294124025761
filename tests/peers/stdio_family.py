"""A target with a child of its own that holds standard input, output and error open and ignores SIGTERM.

Answers with the child's id; told to `leave`, the target exits and its heir stays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

heir = os.fork()
if heir == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)
for line in sys.stdin.buffer:
    message = json.loads(line)
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": heir}).encode() + b"\n")
    if message["method"] == "leave":
        os._exit(3)
os._exit(0)
