"""Finds the types of storage: ours and those of other packages, by entry point `spoolway.providers`."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from spoolway_providers.interface import Provider

__all__ = ["ProviderTypeError", "make_provider", "provider_class", "provider_types"]

GROUP = "spoolway.providers"


class ProviderTypeError(Exception):
    """There is no such type of storage, or it can't be loaded; the message says what to install."""


@cache
def provider_types() -> Mapping[str, EntryPoint]:
    """All types by name, without loading them.

    Raises:
        ProviderTypeError: two packages claim the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found and found[point.name].value != point.value:
            raise ProviderTypeError(
                f"two packages bring a storage type {point.name!r}: {found[point.name].value} and "
                f"{point.value}; uninstall one of them"
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def provider_class(name: str) -> type[Provider]:
    """The class for a type of storage, loaded now.

    Raises:
        ProviderTypeError: no such type, or its driver is not installed.
    """
    types = provider_types()
    if name not in types:
        raise ProviderTypeError(f"there is no storage type {name!r}; there are: {', '.join(types)}")
    try:
        loaded = types[name].load()
    except ImportError as error:
        raise ProviderTypeError(
            f"storage type {name!r} needs a package that is missing ({error.name}); "
            f"install it with: pip install 'spoolway-server[{name}]'"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Provider)):
        raise ProviderTypeError(f"{types[name].value} is no spoolway_providers.Provider")
    return loaded


def make_provider(name: str, login: Mapping[str, Any]) -> Provider:
    """A provider of type `name` with this login, not yet open.

    Raises:
        ProviderTypeError: no such type, or its driver is not installed.
        ValueError: a field of the login is wrong.
    """
    return provider_class(name).from_login(login)
