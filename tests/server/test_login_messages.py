"""The logins of the contract and those of the providers: the same fields."""

import pytest

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway_providers.registry import provider_class, provider_types
from spoolway_server.new_logins import SIGN_IN_CODE
from spoolway_server.services.logins import TYPED


def test_every_type_of_ours_has_a_message() -> None:
    """A new provider needs a login message; those of other packages use the Struct."""
    ours = {name for name, point in provider_types().items() if point.value.startswith("spoolway_providers.")}

    assert set(TYPED) == ours


@pytest.mark.parametrize("name", TYPED)
def test_a_message_has_the_fields_of_its_provider(name: str) -> None:
    """No field is missing or has another name; the sign-in code stands beside them."""
    message = pb.StorageLogin.DESCRIPTOR.fields_by_name[name].message_type
    provider = provider_class(name)
    beyond = {SIGN_IN_CODE} if provider.sign_in_field else set()

    assert {field.name for field in message.fields} == {one.name for one in provider.login_fields} | beyond
