"""Certificates for tests: an authority of one's own, and what it signs. Knows no TLS library."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
HERE = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))


@dataclass(frozen=True)
class Pair:
    """A certificate file and its key's, PEM."""

    cert_file: str
    key_file: str


class Authority:
    """Signs certificates, and keeps them in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._name = _name(name)
        self._count = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(self._name, self._key, (), (-DAY, DAY), ca=True)
        self.file = self._write("ca.pem", made.public_bytes(Encoding.PEM))

    def pair(
        self,
        common_name: str,
        names: tuple[x509.GeneralName, ...] = HERE,
        valid: tuple[timedelta, timedelta] = (-DAY, DAY),
    ) -> Pair:
        """Make a key and a certificate of it, valid from and until when counted from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(_name(common_name), key, names, valid, ca=False)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._count += 1
        return Pair(
            self._write(f"{self._count}.crt", made.public_bytes(Encoding.PEM)),
            self._write(f"{self._count}.key", private),
        )

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[x509.GeneralName, ...],
        valid: tuple[timedelta, timedelta],
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + valid[0])
            .not_valid_after(now + valid[1])
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
