"""Show a job's curve: `python -m examples.singlequdit examples/jobs/rabi.json`, from the repository's root.

Without `--result` the job is simulated on the spot, with no server.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from examples.singlequdit import analysis
from examples.singlequdit.simulator import run


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the curve of a job file as a table and a plot."""
    options = _parser().parse_args(arguments)
    job = json.loads(options.job.read_text("utf-8"))
    result = json.loads(options.result.read_text("utf-8")) if options.result else run(job, options.job.stem)
    points = analysis.curve(job, result, options.statistic)
    exact = analysis.exact_curve(job, options.statistic)
    print(analysis.table(points, exact))
    print(f"\n{options.statistic} against {analysis.scan(job).label}; dotted: exact\n")
    print(analysis.plot(points, exact))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.singlequdit", description=main.__doc__)
    parser.add_argument("job", type=Path, help="job document (JSON)")
    parser.add_argument("--result", type=Path, help="its result document; simulated here if not given")
    parser.add_argument("--statistic", choices=["mean", "variance"], default="mean")
    return parser


if __name__ == "__main__":
    main()
