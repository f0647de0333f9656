"""The server's end of TLS: certificates that can be replaced while it serves. Knows no tokens."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from talkwire_server.engine import StartError
from talkwire_server.security.files import Watched, content
from talkwire_server.settings import Settings

T = TypeVar("T")


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Make gRPC's credentials of the files that the settings name; None where they name none.

    Raises:
        StartError: A file cannot be used; names it and says why.

    """
    if not settings.tls_cert_file or not settings.tls_key_file:
        return None
    paths = (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    files = Watched(partial(_read, *paths), *filter(None, paths))

    def look() -> grpc.ServerCertificateConfiguration | None:
        """Answer for each handshake, on a thread of gRPC's: None for no change."""
        if not files.changed():
            return None
        files.read_again()
        return files.value

    return grpc.dynamic_ssl_server_credentials(
        files.value,
        look,  # type: ignore[arg-type]  # may return None, which the stubs do not know
        require_client_authentication=settings.tls_client_ca_file is not None,
    )


def _read(
    cert_file: str, key_file: str, ca_file: str | None
) -> grpc.ServerCertificateConfiguration:
    chain, key = content(cert_file), content(key_file)
    ca = content(ca_file) if ca_file else None
    own, *_ = _parse(x509.load_pem_x509_certificates, chain, cert_file, "a PEM certificate")
    private = _parse(partial(load_pem_private_key, password=None), key, key_file, "a PEM key")
    if ca_file and ca is not None:
        _parse(x509.load_pem_x509_certificates, ca, ca_file, "a PEM certificate")
    now = datetime.now(UTC)
    if own.not_valid_after_utc < now:
        raise StartError(f"{cert_file}: expired on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if own.not_valid_before_utc > now:
        raise StartError(
            f"{cert_file}: not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if not isinstance(private, RSAPrivateKey | EllipticCurvePrivateKey):
        raise StartError(f"{key_file}: gRPC takes RSA and ECDSA keys alone")
    if own.public_key() != private.public_key():
        raise StartError(f"{key_file}: not the key of the first certificate in {cert_file}")
    return grpc.ssl_server_certificate_configuration([(key, chain)], ca)


def _parse(load: Callable[[bytes], T], data: bytes, path: str, what: str) -> T:
    try:
        return load(data)
    except TypeError:  # the library's way to ask for the password
        raise StartError(f"{path}: encrypted; gRPC asks for no password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise StartError(f"{path}: not {what}") from None
