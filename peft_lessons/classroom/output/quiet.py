"""Silence for other libraries, whose words differ from machine to machine."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """Hide warnings, and log messages below errors, of what runs inside: they speak of this machine, not of the lesson.

    bitsandbytes, for one, logs at import that a kernel cannot be loaded, on processors with AVX512-BF16 alone.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
