"""The progress bars of the whole project."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch.hub import tqdm  # type: ignore[attr-defined]  # tqdm, or a plain stand-in where it is not installed

T = TypeVar("T")


class _Bar(tqdm):
    """A bar whose lock belongs to this process.

    tqdm's own lock is a semaphore that forked processes share: a process that is killed while it draws would block the
    bars of all others for ever.
    """

    monitor_interval = 0  # no thread that watches the bars


def _renew_lock() -> None:
    if hasattr(tqdm, "set_lock"):
        _Bar.set_lock(threading.RLock())


_renew_lock()
if hasattr(os, "register_at_fork"):  # a thread that held the lock does not exist in the child
    os.register_at_fork(after_in_child=_renew_lock)


def progress_bar(total: int | None, *, show: bool | None = None, **options: Any) -> Any:
    """A context manager: a bar on stderr with `update(n)`. `options` are tqdm's, such as `desc` and `unit`.

    `total` is None where it is unknown; with `show=None` the bar is shown where stderr is a terminal.
    """
    if show is None:
        show = sys.stderr is not None and sys.stderr.isatty()
    return _Bar(total=total, disable=not show or sys.stderr is None, **options)


def track(items: Sequence[T], *, show: bool | None = None, **options: Any) -> Iterator[T]:
    """The items, with a bar that counts them; takes the arguments of `progress_bar`."""
    with progress_bar(len(items), show=show, **options) as bar:
        for item in items:
            yield item
            bar.update(1)
