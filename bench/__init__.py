"""Benchmarks: `make bench`, or `python -m bench --help`. docs/performance.md tells what they measure."""
