"""How much memory is left. Needs no torch, so that the doctor can ask."""

from pathlib import Path


def available_memory() -> int:
    """Return the bytes that are available: the system's, or fewer where a container limits them."""
    import psutil

    available = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container, which psutil does not see
    if limit.exists() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()))
    return available
