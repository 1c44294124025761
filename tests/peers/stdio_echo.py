"""A target on standard input and output that does what each request's method says. Plain Python, nothing of agw.

One line in, usually one line out; `params` is an object. See `METHODS` at the end for the list.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
HELD: list[Message] = []


def put(text: str | bytes) -> None:
    """Write octets to standard output, as they are, at once."""
    data = text.encode() if isinstance(text, str) else text
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def answer(request: Message, result: Any) -> None:
    put(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}) + "\n")


def echo(request: Message) -> None:
    answer(request, request.get("params"))


def raw(request: Message) -> None:
    """The line as Python sees it, to prove what came over the pipe."""
    answer(request, request["__line"])


def about(request: Message) -> None:
    """What the process got from its parent."""
    ignored = [number for number in range(1, 32) if number not in (9, 19) and signal.getsignal(number) == signal.SIG_IGN]
    answer(
        request,
        {
            "pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgid(0), "sid": os.getsid(0), "argv": sys.argv, "env": dict(os.environ),
            "cwd": os.getcwd(), "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")), "ignored": ignored,
        },
    )


def hold(request: Message) -> None:
    """Answered only when a `release` comes."""
    HELD.append(request)


def release(request: Message) -> None:
    while HELD:
        answer(HELD.pop(), "late")
    answer(request, len(HELD))


def big(request: Message) -> None:
    answer(request, "x" * request["params"]["size"])


def big_id_last(request: Message) -> None:
    put('{"result":{"text":"' + "x" * request["params"]["size"] + '"},"jsonrpc":"2.0","id":' + json.dumps(request["id"]) + "}\n")


def big_nameless(request: Message) -> None:
    """A long answer that hides its id where nobody looks."""
    put('{"zzz":"' + "x" * request["params"]["size"] + '","id":' + json.dumps(request["id"]) + ',"jsonrpc":"2.0","result":1}\n')


def big_notification(request: Message) -> None:
    put('{"jsonrpc":"2.0","method":"notifications/message","params":{"id":' + json.dumps(request["id"]) + ',"x":"' + "x" * request["params"]["size"] + '"}}\n')
    answer(request, "after")


def noise(request: Message) -> None:
    """What a stray print() does, with answers in between."""
    put("Starting up...\n\n   \n{\"half\": \n\xff\xfe\x00\n[]\n[1]\n42\n{}\n" + "z" * 5000 + "\n")
    answer(request, "clean")


def stderr(request: Message) -> None:
    """More than a pipe holds, in one go; blocks for ever if nobody reads it."""
    sys.stderr.write("complaint\n" * (request["params"]["bytes"] // 10))
    sys.stderr.flush()
    answer(request, "written")


def batch(request: Message) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/x"}
    put(json.dumps([note, {"jsonrpc": "2.0", "id": request["id"], "result": "batched"}, 5]) + "\n")


def dribble(request: Message) -> None:
    """An answer octet by octet, with CRLF at its end."""
    for octet in json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": "drop by drop"}) + "\r\n":
        put(octet)


def malformed(request: Message) -> None:
    """An answer to this request that is no valid message."""
    put('{"jsonrpc":"2.0","id":' + json.dumps(request["id"]) + ',"result":[1,}\n')


def ask(request: Message) -> None:
    """A request and a notification of its own before the answer; their ids are its own affair."""
    put(json.dumps({"jsonrpc": "2.0", "id": request["id"], "method": "roots/list"}) + "\n")
    put(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1}}) + "\n")
    answer(request, "asked")


def twice(request: Message) -> None:
    answer(request, 1)
    answer(request, 2)


def die(request: Message) -> None:
    os._exit(request["params"]["code"])


def die_mid_answer(request: Message) -> None:
    put('{"jsonrpc":"2.0","id":' + json.dumps(request["id"]) + ',"result":{"text":"cut he')
    os.kill(os.getpid(), signal.SIGKILL)


def answer_and_die(request: Message) -> None:
    """The answer has no line break, and the process is gone before anybody reads it: the pipe is made to hold all of it."""
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
    put('{"jsonrpc":"2.0","id":' + json.dumps(request["id"]) + ',"result":"last words' + "!" * request["params"].get("size", 0) + '"}')
    os._exit(0)


def close_output(request: Message) -> None:
    os.close(1)
    time.sleep(60)


def close_input(request: Message) -> None:
    os.close(0)
    answer(request, "closed")
    time.sleep(60)


METHODS: dict[str, Callable[[Message], None]] = {
    function.__name__: function
    for function in (
        echo, raw, about, hold, release, big, big_id_last, big_nameless, big_notification, noise, stderr, batch, dribble, malformed, ask, twice,
        die, die_mid_answer, answer_and_die, close_output, close_input,
    )
}


def main() -> None:
    """Serve until standard input ends; then exit 0, as all reference servers do."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        message["__line"] = line.decode()
        method = METHODS.get(message.get("method", ""))
        if method is not None and "id" in message:
            method(message)
        elif message.get("method") == "notifications/echo":
            put(json.dumps({"jsonrpc": "2.0", "method": "notifications/echoed", "params": message["params"]}) + "\n")


if __name__ == "__main__":
    main()
