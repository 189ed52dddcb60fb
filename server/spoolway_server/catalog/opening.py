"""Which catalog a configuration means."""

from spoolway_server.catalog.interface import Catalog
from spoolway_server.catalog.sqlite import SqliteCatalog
from spoolway_server.config import Config, ConfigError, ConfigMistake

__all__ = ["make_catalog"]


def make_catalog(config: Config) -> Catalog:
    """The catalog of a server, not yet open. ConfigError if its driver is not installed."""
    if not config.catalog.uri:
        return SqliteCatalog(config.catalog_path)
    try:
        # Only now: its driver is an extra.
        from spoolway_server.catalog.mongodb import MongoCatalog
    except ImportError as error:
        problem = f"needs a package that is missing ({error.name}); install it with: "
        raise ConfigError(
            [ConfigMistake("catalog.uri", problem + "pip install 'spoolway-server[mongodb]'")]
        ) from error
    return MongoCatalog(config.catalog.uri, config.catalog.database)
