from pathlib import Path


def problems_of(path: Path) -> list[str]:
    return []
