"""What others left where it can't be: put aside, so that nothing of theirs is ever overwritten."""

import os
from itertools import count

from spoolway_providers.local.layout import Layout

__all__ = ["set_aside"]


def set_aside(layout: Layout, path: str) -> str:
    """Move a file to the folder of what was refused, under a name that is free there; returns its path.

    Raises:
        OSError: such as FileNotFoundError.
    """
    os.makedirs(layout.refused, exist_ok=True)
    name = path.rpartition("/")[2]
    for number in count():
        target = f"{layout.refused}/{name}" + (f".{number}" if number else "")
        try:
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            continue
        os.unlink(path)
        return target
    raise AssertionError("there is always one more number")
