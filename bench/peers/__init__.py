"""Other queues through the same work: `make bench-peers`. docs/performance.md tells how each is set."""
