"""Spoolway."""
