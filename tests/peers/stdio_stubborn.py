"""A target that ends by SIGKILL only: ignores SIGTERM and the end of its input. Answers everything with its own id."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin.buffer:
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": os.getpid()}).encode() + b"\n")
time.sleep(600)
