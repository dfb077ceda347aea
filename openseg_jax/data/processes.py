"""Sharing work on many files between processes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process

import cv2


def in_processes(function: Callable, items: Sequence, workers: int = 0) -> Iterator:
    """`map(function, items)`, in order, with little held in memory.

    Args:
        function, items, results: picklable.
        workers: processes; 0: one a CPU core. Few items are not worth one.
    """
    workers = min(workers or os.cpu_count() or 1, len(items) // 16)
    if workers < 2:
        yield from map(function, items)
        return
    # Started afresh, not forked: threads of this process (JAX has some) would not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)
    try:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()  # a parent that is killed cannot tell
    os._exit(1)
