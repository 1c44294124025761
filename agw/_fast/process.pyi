"""What a process needs from the kernel and Python does not offer. Linux only."""

def set_name(name: bytes) -> None:
    """Name the calling thread, as ps and top show it; 15 octets are kept. Source: prctl(2) PR_SET_NAME."""

def set_parent_death_signal(signal: int) -> None:
    """Have `signal` sent to this process when the thread that forked it ends.

    Races:  the parent may be dead already; compare os.getppid() afterwards.
    Errors: OSError. Source: prctl(2) PR_SET_PDEATHSIG.
    """

def refuse_new_connections(fd: int) -> None:
    """Drop every new SYN for a TCP listener; half-open connections complete and can still be accepted.

    So nobody gets in between the last accept() and close(), which would reset them. There is no way back.
    Errors: OSError. Source: socket(7) SO_ATTACH_FILTER, classic BPF over the TCP header.
    """
