"""What the keeper does, turn by turn."""

from collections.abc import Callable, Iterable
from time import monotonic

from spoolway_providers.interface import Finding
from spoolway_providers.local.configs import Configs
from spoolway_providers.local.disk import Disk, Fault
from spoolway_providers.local.following import Follower
from spoolway_providers.local.foreign import ForeignReader
from spoolway_providers.local.heads import Heads
from spoolway_providers.local.index import Index
from spoolway_providers.local.intake import Intake
from spoolway_providers.local.layout import Layout, Place, Seen
from spoolway_providers.local.login import Settings
from spoolway_providers.local.projection import Projector
from spoolway_providers.local.rebuilding import Rebuilder
from spoolway_providers.local.scanning import Scanner
from spoolway_providers.local.tables import projected
from spoolway_providers.local.watching import FolderWatch

__all__ = ["Duty"]

_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
"""Between two projections while others commit: these go first, and what changes twice is written once."""
_HEARTBEAT_S = 1.0
_SOON_S = 0.01
_RETRY_FAILED_S = 30.0


class Duty:
    """Used by the keeper's thread, from `begin` to `end`."""

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        index: Index,
        fault: Fault,
        on_events: Callable[[Iterable[Seen]], None],
    ) -> None:
        self._index = index
        self._disk = Disk(layout.drafts, fault)
        reader = ForeignReader(layout, default_owner=settings.owner)
        self._configs = Configs(index, self._disk, layout)
        self._projector = Projector(index, self._disk, layout, stock_spoolers=settings.stock_spoolers)
        self._follower = Follower(index, layout, reader)
        self._intake = Intake(index, layout, reader)
        self._scanner = Scanner(index, self._disk, layout, self._intake, self._follower)
        self._heads = Heads(index, layout, self._follower, settings.stock_spoolers, fault)
        self._rebuilder = Rebuilder(index, layout, reader)
        self._watch = FolderWatch(layout, f"{layout.index}.wake", on_events)
        self._backends: list[str] = []
        self._newest = -1
        self._project_at = 0.0
        self._retry_at = 0.0
        self._heads_at = 0.0
        self._is_rebuilt = False
        self._findings: list[Finding] = []

    def begin(self) -> None:
        """Take over: what the index says is behind, and what the folders say that it does not know."""
        left = self._disk.open()
        done, newest = projected(self._index.connection)
        self._backends = self._configs.sync()
        self._rebuilder.take_over(self._backends)
        self._projector.start()
        self._follower.start()
        self._watch.start()
        self.finish()
        self._projector.write_again(self._heads.held_back(self._backends))
        if left:
            self._findings.append(
                Finding("unfinished_document", f"{left} files", "removed, as nobody had seen them yet")
            )
        if newest > done > 0:
            self._findings.append(
                Finding("unwritten_change", f"{newest - done} changes", "written to the files now")
            )

    def end(self) -> None:
        """Let go of all."""
        self._watch.close()
        self._disk.close()

    def turn(self, seen: Iterable[Seen]) -> float:
        """Do what there is to do now.

        Returns:
            When there will be more, by the monotonic clock, if nothing happens meanwhile.
        """
        if monotonic() >= self._project_at:
            self._project()
        has_news = self._has_news()
        self._look(set(seen), has_news=has_news)
        if self._scanner.has_backlog or not self._is_rebuilt:
            return 0.0
        at = [monotonic() + _HEARTBEAT_S, self._intake.next_look, self._follower.next_look, self._heads_at]
        at += [self._configs.next_look, self._scanner.next_scan]
        return min([*at, self._project_at] if self._is_behind() else at)

    def finish(self) -> None:
        """Write all that is behind."""
        if self._configs.are_behind():
            self._backends = self._configs.sync()
        self._projector.project()
        while self._projector.has_more:
            self._projector.project()
        self._follower.watch(self._projector.take_suspects())

    def go_round(self) -> list[Finding]:
        """Look at everything now, and write all that is behind; what was mended since the last time."""
        self.finish()
        self._projector.retry_failed()
        self._scanner.forget()
        self._look(set(), has_news=True)
        while self._scanner.has_backlog:
            self._scanner.step()
        self.finish()
        findings = [*self._findings, *self._scanner.take_findings()]
        self._findings = []
        return findings

    def _project(self) -> None:
        started_at = monotonic()
        before = projected(self._index.connection)[1]
        if not self._projector.project():
            return
        self._follower.watch(self._projector.take_suspects())
        ended_at = monotonic()
        is_quiet = self._projector.has_more and projected(self._index.connection)[1] == before
        pause_s = min(max(ended_at - started_at, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        self._project_at = ended_at if is_quiet else ended_at + pause_s

    def _is_behind(self) -> bool:
        done, newest = projected(self._index.connection)
        return done < newest

    def _has_news(self) -> bool:
        """Whether anything was committed since the last turn."""
        newest = projected(self._index.connection)[1]
        has_news, self._newest = newest != self._newest, newest
        return has_news

    def _look(self, seen: set[Seen], *, has_news: bool) -> None:
        now = monotonic()
        is_time = now >= self._scanner.next_scan
        is_config = any(one.place is None for one in seen) or now >= self._configs.next_look
        if is_time or is_config or (has_news and self._configs.are_behind()):
            before, self._backends = self._backends, self._configs.sync()
            new = set(self._backends) - set(before)
            seen |= {Seen(Place.QUEUED, name, "") for name in new}
            if new:
                self._scanner.scan_soon()
        if seen:
            self._scanner.look(seen, self._backends)
        if is_time:
            self._scanner.scan(self._backends, is_watched=self._watch.is_alive)
        if self._scanner.has_backlog:
            self._scanner.step()
        if now >= self._intake.next_look:
            self._intake.ripen()
        if now >= self._follower.next_look:
            self._follower.look()
        if has_news or seen or now >= self._heads_at:
            self._heads_at = now + (_HEARTBEAT_S if self._heads.look(self._backends) else _SOON_S)
        if not self._is_rebuilt:
            self._rebuilder.step(self._backends)
            self._is_rebuilt = self._rebuilder.is_done
        if now >= self._retry_at:
            self._retry_at = now + _RETRY_FAILED_S
            self._projector.retry_failed()
