"""A target that never reads its standard input: says that it is there and sleeps."""

from __future__ import annotations

import os
import time

os.write(1, b'{"jsonrpc":"2.0","method":"notifications/here"}\n')
time.sleep(600)
