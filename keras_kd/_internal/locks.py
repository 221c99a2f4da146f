"""Locks on open files, which end with the process that holds them, however it ends."""


def lock_now(descriptor: int) -> None:
    """Take the lock of an open file without waiting.

    Raises:
        OSError: another process, or another opening of the file, holds it; or the file system has no locks.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
