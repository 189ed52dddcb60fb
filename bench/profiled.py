"""Run a command line under cProfile: `python -m bench.profiled FILE MODULE ARGUMENTS...`.

Each thread gets a profiler of its own, because a storage's writing thread is half of the story; from Python
3.12 on only one thread can be profiled, that of the event loop. FILE.THREAD takes each one's statistics.
"""

import cProfile
import runpy
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_Profiles = dict[str, cProfile.Profile]


def _profiled(run: Callable[[threading.Thread], None], profiles: _Profiles) -> Callable[..., None]:
    def profile_and_run(thread: threading.Thread) -> None:
        profile = profiles[thread.name] = cProfile.Profile()
        with suppress(ValueError):  # Python 3.12+: another thread is being profiled
            profile.enable()
        run(thread)

    return profile_and_run


def main(path: Path, module: str, arguments: list[str]) -> None:
    profiles: _Profiles = {"loop": cProfile.Profile()}
    if sys.version_info < (3, 12):
        threading.Thread.run = _profiled(threading.Thread.run, profiles)  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    profiles["loop"].enable()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        profiles["loop"].disable()
        for name, profile in profiles.items():
            if profile.getstats():
                profile.dump_stats(f"{path}.{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
