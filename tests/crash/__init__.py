"""The crash harness: the service as real processes that are killed at any moment and at any step.

docs/testing.md says what it proves and how to reproduce a round that failed.
"""
