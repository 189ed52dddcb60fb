"""Generated from proto/spoolway/v1 by `make proto`; do not edit."""
