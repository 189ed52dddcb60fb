"""TLS: the server's certificate, read again when its files change, and whom it wants certificates of."""

import os
import ssl

import grpc
import structlog

from spoolway_server.config import ConfigError, ConfigMistake, TlsSettings

__all__ = ["server_credentials"]

_log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials | None:
    """What to listen with; None: without TLS.

    Raises:
        ConfigError: the files can't be read, or key and certificate are no pair.
    """
    if not settings.enabled:
        return None
    files = _Files(settings)
    try:
        first = files.read()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([ConfigMistake("tls", f"{_problem(error)}; see cert_file and key_file")]) from error
    return grpc.dynamic_ssl_server_credentials(
        first,
        files.changed,  # type: ignore[arg-type]  # None is allowed: nothing has changed
        require_client_authentication=bool(settings.client_ca_file),
    )


class _Files:
    """The files of a certificate; gRPC asks for them at each handshake, in a thread of its own."""

    def __init__(self, settings: TlsSettings) -> None:
        self._cert = settings.cert_file
        self._key = settings.key_file
        self._client_ca = settings.client_ca_file
        self._seen: _Stamp = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The files as they are now; OSError or SSLError if they are not good."""
        self._seen = self._stamp()
        # Half of a renewal must not get in: certificate and key are a pair.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
        roots = None
        if self._client_ca:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self._client_ca)
            roots = _bytes_of(self._client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(_bytes_of(self._key), _bytes_of(self._cert))], root_certificates=roots
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files if they have changed and are good; None: go on with what there is."""
        try:
            if self._stamp() == self._seen:
                return None
            read = self.read()
        except (OSError, ssl.SSLError) as error:
            _log.warning("certificate not taken over; the old one goes on", problem=_problem(error))
            return None
        _log.info("certificate taken over", file=self._cert)
        return read

    def _stamp(self) -> _Stamp:
        found = [os.stat(path) for path in (self._cert, self._key, self._client_ca) if path]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _problem(error: OSError | ssl.SSLError) -> str:
    # The library's own words are few and name no file.
    if isinstance(error, ssl.SSLError):
        return f"certificate and key can't be used together ({error.reason or 'not readable'})"
    return f"{error.filename}: {error.strerror}"
