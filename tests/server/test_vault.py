"""Logins at rest."""

from pathlib import Path

import msgspec
import pytest

from spoolway_server.catalog import Sealed
from spoolway_server.vault import KeyMissing, KeyMistake, LoginUnreadable, Vault, new_key

LOGIN = {"app_key": "k", "refresh_token": "correct-horse", "retries": 3}


def vault(*keys: str) -> Vault:
    return Vault.load("", {"SPOOLWAY_KEY": ",".join(keys)})


def test_a_login_comes_back_and_is_not_in_what_is_stored() -> None:
    """What is sealed is opened by the same key, and can't be read without."""
    kept = vault(new_key())

    sealed = kept.seal("lab", LOGIN, has_secret=True)

    assert kept.open("lab", sealed) == LOGIN
    assert sealed.key_id == kept.key_id
    assert b"correct-horse" not in msgspec.json.encode(sealed)
    assert b"app_key" not in sealed.data
    assert kept.seal("lab", LOGIN, has_secret=True) != sealed


def test_a_login_belongs_to_its_storage() -> None:
    """Moved to another storage's record it can't be opened."""
    kept = vault(new_key())
    sealed = kept.seal("lab", LOGIN, has_secret=True)

    with pytest.raises(LoginUnreadable, match="damaged or another storage's"):
        kept.open("attic", sealed)
    with pytest.raises(LoginUnreadable):
        kept.open("lab", Sealed(sealed.key_id, sealed.data[:-1] + b"\0"))
    with pytest.raises(LoginUnreadable):
        kept.open("lab", Sealed(sealed.key_id, b""))
    with pytest.raises(LoginUnreadable):
        kept.open("lab", Sealed("", b"no JSON"))


def test_without_a_key_no_secret_is_stored() -> None:
    """The error says how to make a key; a login without a secret needs none."""
    kept = Vault.load("", {})

    with pytest.raises(KeyMissing, match="spoolway admin new-key"):
        kept.seal("lab", LOGIN, has_secret=True)
    sealed = kept.seal("lab", {"path": "x.sqlite"}, has_secret=False)

    assert sealed.key_id == ""
    assert kept.open("lab", sealed) == {"path": "x.sqlite"}


def test_keys_are_changed_one_beside_the_other() -> None:
    """The first key seals, all open; what an unknown key sealed says which one is missing."""
    old, new = new_key(), new_key()
    sealed = vault(old).seal("lab", LOGIN, has_secret=True)

    both = vault(new, old)

    assert both.open("lab", sealed) == LOGIN
    assert both.seal("lab", LOGIN, has_secret=True).key_id == vault(new).key_id != sealed.key_id
    with pytest.raises(LoginUnreadable, match=sealed.key_id):
        vault(new).open("lab", sealed)


def test_a_key_comes_from_a_file_unless_the_environment_has_one(tmp_path: Path) -> None:
    """The environment wins; a file may end with a line break."""
    in_file, in_env = new_key(), new_key()
    path = tmp_path / "key"
    path.write_text(f"{in_file}\n")

    assert Vault.load(str(path), {}).key_id == vault(in_file).key_id
    assert Vault.load(str(path), {"SPOOLWAY_KEY": in_env}).key_id == vault(in_env).key_id


@pytest.mark.parametrize("text", ["correct-horse", "x" * 43 + "!", "A" * 43 + ",short", ","])
def test_what_is_no_key_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    """The error names the source and the way out, never the value."""
    path = tmp_path / "key"
    path.write_text(text)

    for made in (lambda: Vault.load("", {"SPOOLWAY_KEY": text}), lambda: Vault.load(str(path), {})):
        with pytest.raises(KeyMistake, match="new-key") as caught:
            made()
        assert text not in str(caught.value) or text == ","


def test_a_key_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    """Which file, and why."""
    with pytest.raises(KeyMistake, match=r"catalog\.key_file: .*missing can't be read: No such file"):
        Vault.load(str(tmp_path / "missing"), {})


def test_no_repr_shows_a_secret() -> None:
    """Neither the vault's nor a sealed login's."""
    key = new_key()
    kept = vault(key)

    assert key not in repr(kept)
    assert repr(Vault.load("", {}).seal("lab", {"path": "visible"}, has_secret=False)).find("visible") < 0
