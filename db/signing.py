"""Signs the chain of digests with an Ed25519 key."""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from db.errors import CommandLineError
from db.queries.digests import DigestEntry


@dataclass(frozen=True)
class Signature:
    """The signature of a chain value."""

    signature: str
    """Base64."""
    public_key: str
    """Base64 of the 32 bytes of the key."""


def signed_text(entry: DigestEntry) -> str:
    """Returns the text that a signature covers."""
    return f"tickgraph {entry.number} {entry.chain.hex()}\n"


def sign(entry: DigestEntry, key_file: Path) -> Signature:
    """Signs the chain up to an entry with the PEM file of a private key. Raises CommandLineError."""
    try:
        # An optional package, which few installations need.
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    except ImportError as error:
        raise CommandLineError(
            "SIGNING_KEY_FILE needs the package cryptography: pip install -r requirements-signing.lock"
        ) from error
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise CommandLineError(f"SIGNING_KEY_FILE={key_file}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CommandLineError(f"SIGNING_KEY_FILE={key_file} is not a PEM file of a private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandLineError(f"SIGNING_KEY_FILE={key_file} is not an Ed25519 key: openssl genpkey -algorithm ed25519")
    public_key = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return Signature(b64encode(key.sign(signed_text(entry).encode())).decode(), b64encode(public_key).decode())
