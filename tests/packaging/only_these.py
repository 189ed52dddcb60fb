"""Fail unless the environment holds just the distributions named (and the installer's own)."""

import sys
from importlib.metadata import distributions

wanted = {name.lower().replace("_", "-") for name in sys.argv[1:]} | {"pip", "setuptools", "wheel"}
present = {dist.metadata["Name"].lower().replace("_", "-") for dist in distributions()}
surplus = present - wanted
if surplus:
    sys.exit(f"the wheel brings more than it may: {', '.join(sorted(surplus))}")
print("installed:", ", ".join(sorted(present - {"pip", "setuptools", "wheel"})))
