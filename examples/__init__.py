"""Whole examples: backends that can be run and jobs to send them."""
