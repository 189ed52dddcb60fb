"""Which role may make which call: the one table. A call that is missing here is not served at all.

Whose a job is decides ownership.py, which backends a spooler may serve `Principal.require_backends`.
"""

__all__ = ["is_lasting", "roles_for"]

_ALL = frozenset({"user", "spooler", "operator", "admin"})
_CLIENTS = frozenset({"user", "operator", "admin"})
_SPOOLERS = frozenset({"spooler", "admin"})
_OPERATORS = frozenset({"operator", "admin"})
_ADMINS = frozenset({"admin"})

_TABLE: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "SubmitJob",
            "SubmitJobs",
            "UploadContent",
            "GetJob",
            "GetStatus",
            "WaitJob",
            "WatchJobs",
            "GetResult",
            "ReadResult",
            "ListJobs",
            "CancelJob",
            "RetryJob",
            "DeleteJob",
            "ExplainJob",
        ),
        _CLIENTS,
    ),
    # Its spooler's, and its operators' when that is gone.
    "UnregisterBackend": frozenset({"spooler", "operator", "admin"}),
    **dict.fromkeys(("ListBackends", "GetBackend", "GetUpload"), _ALL),
    **dict.fromkeys(
        (
            "StreamNextJobs",
            "NextJob",
            "ReadContent",
            "UploadResult",
            "CompleteJob",
            "FailJob",
            "ReleaseJob",
            "ExtendLeases",
            "RegisterBackend",
        ),
        _SPOOLERS,
    ),
    **dict.fromkeys(
        (
            "ListStorages",
            "GetStorage",
            "GetStorageStats",
            "ListProviderTypes",
            "ActivateStorage",
            "DeactivateStorage",
            "SetBackendPolicy",
            "PauseBackend",
            "ResumeBackend",
            "PurgeBackend",
            "HoldJob",
            "ResumeJob",
            "FailHeldJob",
            "ListSpoolers",
            "RevokeSpooler",
            "ListAuditEvents",
            "CopyStorage",
            "CheckStorage",
            "GetOperation",
            "ListOperations",
            "WatchOperation",
            "CancelOperation",
        ),
        _OPERATORS,
    ),
    # Logins and tokens: who has them has everything.
    **dict.fromkeys(
        (
            "CreateStorage",
            "UpdateStorage",
            "DeleteStorage",
            "TestStorage",
            "GetSignInPage",
            "ImportStorage",
            "CreateToken",
            "ListTokens",
            "RevokeToken",
        ),
        _ADMINS,
    ),
}

_LASTING = frozenset(
    (
        "WaitJob",
        "WatchJobs",
        "ReadResult",
        "UploadContent",
        "StreamNextJobs",
        "NextJob",
        "ReadContent",
        "UploadResult",
        "CheckStorage",
        "WatchOperation",
    )
)
"""Streams and waits: ended once their caller is shut out. The others are over in a moment."""


def roles_for(rpc: str) -> frozenset[str]:
    """Who may make a call; KeyError if the table does not know it."""
    return _TABLE[rpc]


def is_lasting(rpc: str) -> bool:
    """Whether a call goes on for as long as its caller likes."""
    return rpc in _LASTING
