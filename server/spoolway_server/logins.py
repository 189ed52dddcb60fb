"""What a provider says about the login that a configuration gives it."""

from collections.abc import Iterable, Mapping
from typing import Any

from spoolway_providers.interface import Provider
from spoolway_providers.registry import ProviderTypeError, provider_class
from spoolway_server.mistakes import ConfigMistake, did_you_mean, listed

__all__ = ["login_mistakes"]


def login_mistakes(
    path: str, type_name: str, login: Mapping[str, Any], own_keys: Iterable[str]
) -> list[ConfigMistake]:
    """Find everything that is wrong with a login, without connecting.

    Args:
        path: where its table is, such as `storages.main`.
        type_name: a known type of storage.
        login: the table without our own keys.
        own_keys: those, since they are allowed there too.
    """
    try:
        provider = provider_class(type_name)
    except ProviderTypeError as error:
        return [ConfigMistake(f"{path}.type", str(error))]
    fields = [field.name for field in provider.login_fields]
    unknown = [
        ConfigMistake(
            f"{path}.{key}", f"unknown key{did_you_mean(key, fields)}", listed([*own_keys, *fields])
        )
        for key in sorted(login.keys() - set(fields))
    ]
    missing = [
        ConfigMistake(f"{path}.{field.name}", "missing", field.description)
        for field in provider.login_fields
        if field.required and field.name not in login
    ]
    return [*unknown, *missing] or _refusal(path, provider, login)


def _refusal(path: str, provider: type[Provider], login: Mapping[str, Any]) -> list[ConfigMistake]:
    try:
        provider.from_login(login)
    except ValueError as error:
        return [ConfigMistake(path, str(error))]
    return []
