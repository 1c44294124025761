"""Types of _pacer.pyx."""

from array import array

def play(
    fds: list[int],
    requests: list[bytes],
    due_ns: array[int],
    latency_ns: array[int],
    lag_ns: array[int],
    grace_s: float,
) -> int: ...
