"""Who may come in, and who may read along. Knows where credentials are, and reads none."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from talkwire_server.settings.flag import MOST, Group, flag


@dataclass(frozen=True, kw_only=True)
class SecuritySettings(Group):
    """Security."""

    tls_cert_file: str | None = flag(
        None, "the server's certificate and its chain, PEM; may be replaced while it serves"
    )
    tls_key_file: str | None = flag(None, "its key, PEM; likewise")
    tls_client_ca_file: str | None = flag(
        None, "who signs the certificates of clients, PEM; they are then required; likewise"
    )
    token_file: str | None = flag(
        None, "hashes of tokens, YAML, as `talkwire token` writes them; likewise"
    )
    jwt_jwks: str | None = flag(
        None, "public keys of JWTs: a file, likewise, or an https: URL", metavar="FILE|URL"
    )
    jwt_issuer: str | None = flag(None, "whom JWTs must be from (iss)", metavar="ISS")
    jwt_audience: str | None = flag(None, "whom they must be for (aud)", metavar="AUD")
    open_health: bool = flag(True, "answer for health without a token")
    open_reflection: bool = flag(False, "answer for reflection without a token")
    allow_insecure: bool = flag(
        False, "let other machines in without TLS, or without asking who calls"
    )
    handshake_timeout: float = flag(
        20.0,
        "for who connects to speak TLS and HTTP/2",
        at_least=1,
        at_most=86_400,
        metavar="S",
    )
    max_metadata_bytes: int = flag(
        16 << 10, "largest metadata of a call", at_least=1024, at_most=MOST
    )

    def faults(self) -> Iterator[str]:
        """Find what has no use without another."""
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            yield "--tls-cert-file and --tls-key-file need each other"
        if self.tls_client_ca_file and not self.tls_cert_file:
            yield "--tls-client-ca-file needs --tls-cert-file"
        jwt = (self.jwt_jwks, self.jwt_issuer, self.jwt_audience)
        if any(jwt) and not all(jwt):
            yield "--jwt-jwks, --jwt-issuer and --jwt-audience need one another"
        if urlsplit(self.jwt_jwks or "").scheme not in ("", "https"):
            yield "--jwt-jwks takes a file or an https: URL"

    @property
    def wants_tokens(self) -> bool:
        """Whether a call needs a token."""
        return bool(self.token_file or self.jwt_jwks)

    def missing(self) -> Iterator[str]:
        """Say what other machines could do that they should not."""
        if not self.tls_cert_file:
            yield "read along (no --tls-cert-file)"
        if not self.wants_tokens and not self.tls_client_ca_file:
            yield "call unasked (no --token-file, --jwt-jwks or --tls-client-ca-file)"
