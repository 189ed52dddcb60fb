"""`python -m spoolway_server.cli` is `spoolway`."""

from spoolway_server.cli import main

main()
