"""File events of the folders, in a thread of their own."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

import watchfiles

from spoolway_providers.local.layout import Layout, Seen

__all__ = ["FolderWatch"]

_log = logging.getLogger(__name__)

_STEP_MS = 20
"""Between two looks of the watching thread; costs 0.3 % of a core. An event is passed on after 20-40 ms."""
_DEBOUNCE_MS = 60
"""The longest that a stream of events is gathered."""
_TURN_MS = 5_000


class FolderWatch:
    """Calls `on_events` with what events are about; `wake_file` is watched too: others' commits touch it."""

    def __init__(self, layout: Layout, wake_file: str, on_events: Callable[[Iterable[Seen]], None]) -> None:
        self._layout = layout
        self._wake_file = wake_file
        self._on_events = on_events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spoolway-local-watch", daemon=True)
        self.is_alive = True
        """Whether events are told; if not, folders must be listed."""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._watch([*self._layout.watched(), self._wake_file])
        except Exception as error:  # noqa: BLE001 - the crate beneath has errors of its own; all mean the same
            # For instance the system's limit of watches.
            _log.warning("can't watch %s, files of others are noticed late: %s", self._layout.base, error)
        finally:
            self.is_alive = False

    def _watch(self, paths: Sequence[str]) -> None:
        for events in watchfiles.watch(
            *paths,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=self._stop,
            rust_timeout=_TURN_MS,
            raise_interrupt=False,
        ):
            seen = {one for _, path in events if (one := self._layout.parse(path)) is not None}
            self._on_events(seen)
