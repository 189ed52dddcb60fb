"""The alert rules and the dashboard speak of metrics that exist, and promtool accepts the rules."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolway_server.metrics import Metrics
from spoolway_server.scraping import figure_families

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "spoolway.json"


def exported() -> dict[str, set[str]]:
    """The labels of every series by its name, as they stand in expressions."""
    families = [*Metrics().registry.collect(), *figure_families()]
    found: dict[str, set[str]] = {}
    for family in families:
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {f"{family.name}{ending}": set() for ending in endings}
    return found


def named(text: str) -> set[str]:
    return set(re.findall(r"\bspoolway_[a-z_]+", text))


def expressions() -> Iterator[str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_the_rules_name_metrics_that_exist() -> None:
    """A renamed metric would let its alert sleep for ever."""
    rules = (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")

    assert named(rules)
    assert named(rules) <= set(exported())


def test_the_dashboard_names_metrics_that_exist_and_shows_all_of_ours() -> None:
    """Every family is on the dashboard, but for the server's version."""
    shown = set().union(*(named(expression) for expression in expressions()))

    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in shown}
    assert shown <= set(exported())
    ours = {f.name for f in [*Metrics().registry.collect(), *figure_families()] if "spoolway_" in f.name}
    assert ours - families == {"spoolway_build", "spoolway_backend_paused", "spoolway_jobs_claimed"}


def test_the_documents_say_what_each_alert_means() -> None:
    """docs/operations.md has a row for each alert."""
    alerts = re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

    assert [alert for alert in alerts if f"| `{alert}` |" not in documented] == []


@pytest.mark.tools
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=["rules", "configuration", "what fires"],
)
def test_promtool_accepts_them(command: list[str]) -> None:
    """The rules are valid, each alert fires on what it is for, and none where all is well."""
    done = subprocess.run(
        ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
