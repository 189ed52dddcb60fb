"""How types of storage are found, ours and those of other packages."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from spoolway_providers import registry
from spoolway_providers.memory import MemoryProvider
from spoolway_providers.registry import ProviderTypeError
from spoolway_providers.sqlite import SqliteProvider

Install = Callable[[str, Mapping[str, str], str], None]

TAPE_PROVIDER = '''
"""A storage type of another package."""

from spoolway_providers.memory import MemoryProvider


class TapeProvider(MemoryProvider):
    """Jobs on a tape."""
'''


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    """What one test installs is not there for the next."""
    registry.provider_types.cache_clear()
    yield
    registry.provider_types.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with entry points, as pip would lay it out."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_one(package: str, points: Mapping[str, str], source: str) -> None:
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in points.items()]
        (info / "entry_points.txt").write_text("[spoolway.providers]\n" + "".join(lines))
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install_one


def test_our_types_are_found() -> None:
    """The types that come with the server are there by name."""
    assert registry.provider_class("memory") is MemoryProvider
    assert registry.provider_class("sqlite") is SqliteProvider


def test_provider_is_made_from_a_login(path: Path) -> None:
    """A type and a login make a provider that is not open yet."""
    assert isinstance(registry.make_provider("sqlite", {"path": str(path)}), SqliteProvider)
    with pytest.raises(ValueError, match="path"):
        registry.make_provider("sqlite", {})


def test_another_package_plugs_in(install: Install) -> None:
    """A type of another package is found by its entry point, and needs nothing of ours changed."""
    install("spoolway_tape", {"tape": "spoolway_tape:TapeProvider"}, TAPE_PROVIDER)

    assert "tape" in registry.provider_types()
    provider = registry.make_provider("tape", {})
    assert type(provider).__name__ == "TapeProvider"


def test_types_are_listed_without_loading(install: Install) -> None:
    """A package that can't be imported does not keep the others from being listed."""
    install("spoolway_broken", {"broken": "spoolway_broken:Provider"}, "raise RuntimeError('no')\n")

    assert {"broken", "memory", "sqlite"} <= set(registry.provider_types())
    assert "spoolway_broken" not in sys.modules


def test_name_claimed_twice_is_refused(install: Install) -> None:
    """Two packages that bring a type of the same name are an error that names both."""
    install("spoolway_tape", {"tape": "spoolway_tape:TapeProvider"}, TAPE_PROVIDER)
    install("spoolway_band", {"tape": "spoolway_band:TapeProvider"}, TAPE_PROVIDER)

    with pytest.raises(ProviderTypeError, match=r"(?s)spoolway_(tape|band).*spoolway_(tape|band)"):
        registry.provider_types()


def test_our_name_can_not_be_taken_over(install: Install) -> None:
    """Another package can't put itself in the place of a type of ours."""
    install("spoolway_tape", {"sqlite": "spoolway_tape:TapeProvider"}, TAPE_PROVIDER)

    with pytest.raises(ProviderTypeError, match="uninstall one of them"):
        registry.provider_class("sqlite")


def test_missing_driver_says_what_to_install(install: Install) -> None:
    """A type whose driver is missing says which extra brings it."""
    install("spoolway_tape", {"tape": "spoolway_tape:TapeProvider"}, "import no_such_tape_driver\n")

    with pytest.raises(
        ProviderTypeError, match=r"no_such_tape_driver.*pip install 'spoolway-server\[tape\]'"
    ):
        registry.provider_class("tape")


def test_unknown_type_names_the_known() -> None:
    """A type that does not exist is an error that lists those that do."""
    with pytest.raises(ProviderTypeError, match=r"'stone'; there are: .*memory, .*sqlite"):
        registry.provider_class("stone")


def test_type_must_be_a_provider(install: Install) -> None:
    """An entry point to something else is refused by name."""
    install("spoolway_tape", {"tape": "spoolway_tape:TapeProvider"}, "TapeProvider = dict\n")

    with pytest.raises(ProviderTypeError, match=r"is no spoolway_providers\.Provider"):
        registry.provider_class("tape")
