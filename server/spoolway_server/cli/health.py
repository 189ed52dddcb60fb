"""The command `health`, a probe for containers and scripts."""

from typing import Annotated

import typer

from spoolway_server.cli.exits import ExitCode, fail, shown_errors
from spoolway_server.cli.output import put

__all__ = ["health"]


def health(
    service: Annotated[
        str,
        typer.Argument(
            help="`storage/NAME` for one storage; else the server as a whole.", show_default=False
        ),
    ] = "",
    address: Annotated[str | None, typer.Option(help="HOST:PORT of the server (SPOOLWAY_ADDRESS).")] = None,
    ca: Annotated[
        str | None,
        typer.Option(help="Certificate authority's file; the connection is then TLS (SPOOLWAY_CA)."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1)] = 3.0,
) -> None:
    """Ask a server whether it serves: exit code 0 if so, 1 if it drains, 5 if it can't be reached."""
    # Only now: `spoolway --help` needs no gRPC.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from spoolway.channel import channel_credentials
    from spoolway.settings import resolve_settings

    with shown_errors():
        settings = resolve_settings(address=address, ca=ca)
    if settings.ca is None:
        channel = grpc.insecure_channel(settings.address)
    else:
        channel = grpc.secure_channel(settings.address, channel_credentials(settings))
    what = service or "the server"
    with channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=timeout)  # type: ignore[attr-defined]  # its types lack it
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                fail(f"{settings.address} has no {service}; storages are storage/NAME", ExitCode.NOT_FOUND)
            fail(f"{settings.address} does not answer: {error.details()}", ExitCode.UNAVAILABLE)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        fail(f"{what} at {settings.address} is not serving", ExitCode.ENDED_BADLY)
    put("SERVING")
