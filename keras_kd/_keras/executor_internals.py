"""What Python's and Ray's executors have no public names for."""

from concurrent.futures import ProcessPoolExecutor
from typing import Any

#: Ray on this machine alone, without an address of the network.
RAY_ON_THIS_MACHINE = {"_node_ip_address": "127.0.0.1"}


def are_forked(executor: ProcessPoolExecutor) -> bool:
    """Return whether an executor forks its processes."""
    context: Any = executor._mp_context
    return context.get_start_method() == "fork"
