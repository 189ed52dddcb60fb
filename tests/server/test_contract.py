"""The contract's calls: which of them the protos still lack."""

import re
from pathlib import Path

import pytest

from spoolway.v1 import job_service_pb2, storage_admin_pb2
from spoolway_server.services.job_service import JobService
from spoolway_server.services.storage_admin import StorageAdmin

MISSING = {
    "JobService": frozenset[str](),
    "StorageAdmin": frozenset[str](),
}
"""Calls of the contract that no proto has yet. This list only ever shrinks."""

JOB_SERVICE = """
    SubmitJob SubmitJobs UploadContent GetUpload GetJob GetStatus WaitJob WatchJobs GetResult ReadResult
    ListJobs CancelJob RetryJob DeleteJob ExplainJob ListBackends GetBackend
    StreamNextJobs NextJob CompleteJob FailJob ReleaseJob ExtendLeases UploadResult RegisterBackend
    UnregisterBackend
"""
STORAGE_ADMIN = """
    CreateStorage GetStorage ListStorages UpdateStorage DeleteStorage ActivateStorage DeactivateStorage
    TestStorage CopyStorage ImportStorage GetOperation ListOperations WatchOperation CancelOperation
    CheckStorage GetStorageStats ListProviderTypes SetBackendPolicy PauseBackend ResumeBackend
    PurgeBackend ListSpoolers RevokeSpooler CreateToken ListTokens RevokeToken ListAuditEvents
"""
CONTRACT = {"JobService": JOB_SERVICE.split(), "StorageAdmin": STORAGE_ADMIN.split()}
"""The calls of the contract: JobService for clients and for spoolers, StorageAdmin for operators."""

BEYOND = {
    "JobService": frozenset({"ReadContent"}),
    "StorageAdmin": frozenset({"HoldJob", "ResumeJob", "FailHeldJob", "GetSignInPage"}),
}
"""Calls that the contract does not name: ReadContent brings a job above the inline limit to its spooler; the
state machine has operators hold jobs, resume them and fail those that are held; GetSignInPage lets an
account's owner sign in from afar."""

SERVICES = {
    "JobService": job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    "StorageAdmin": storage_admin_pb2.DESCRIPTOR.services_by_name["StorageAdmin"],
}


@pytest.mark.parametrize("service", CONTRACT)
def test_the_calls_still_missing_are_those_listed(service: str) -> None:
    """A call of the contract is in the proto, or in the list of those to come; never in both or none."""
    present = {method.name for method in SERVICES[service].methods}

    assert set(CONTRACT[service]) - present == MISSING[service]
    assert present - set(CONTRACT[service]) == BEYOND[service]


@pytest.mark.parametrize("service", CONTRACT)
def test_every_call_is_served(service: str) -> None:
    """Every call of a proto has a method of ours: none is left to answer UNIMPLEMENTED."""
    ours = {"JobService": JobService, "StorageAdmin": StorageAdmin}[service]

    served = {name for one in ours.__mro__ if "spoolway_server" in one.__module__ for name in vars(one)}
    assert {method.name for method in SERVICES[service].methods} <= served


@pytest.mark.parametrize("service", CONTRACT)
def test_every_call_has_its_own_request_and_response(service: str) -> None:
    """No message serves two calls, and each is named after its call."""
    for method in SERVICES[service].methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"


def test_the_protos_import_no_google_rpc() -> None:
    """Our protos import google.protobuf and each other, nothing else."""
    protos = Path(__file__).parents[2] / "proto" / "spoolway" / "v1"

    imports = {
        name
        for path in protos.glob("*.proto")
        for name in re.findall(r'^import "(.*)";', path.read_text(), re.MULTILINE)
    }

    assert imports
    assert all(name.startswith(("google/protobuf/", "spoolway/v1/")) for name in imports)
