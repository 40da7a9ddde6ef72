"""Whether the way to SQL Server is encrypted: what a connection string asks for, in the words of each driver."""

from collections.abc import Mapping
from dataclasses import dataclass

_OFF = frozenset({"no", "optional", "false", "0", "off", "request"})
_YES = frozenset({"yes", "true", "1"})
# FreeTDS takes no notice of Encrypt, and refuses a word that it does not know. Its `request` is what Microsoft's
# driver does with Encrypt=no: only the login is encrypted, and all where the server insists.
_FREETDS_WORDS = {"strict": "strict", "off": "off", "request": "request"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encryption:
    """What the connection string asks for.

    Args:
        is_asked: None where a DSN of the driver manager decides.
        is_certificate_checked: Whether a server that only pretends to be the right one would be found out.
        setting: What in the connection string says so, empty where it is the default.
    """

    is_asked: bool | None
    is_certificate_checked: bool
    setting: str = ""


def ask_for_encryption(pairs: Mapping[str, str], *, is_freetds: bool) -> dict[str, str]:
    """Return the keywords that make a driver encrypt, unless the connection string says otherwise."""
    if not is_freetds:
        return {"encrypt": pairs.get("encrypt", "yes")}
    wanted = pairs.get("encryption") or pairs.get("encrypt", "yes")
    word = _FREETDS_WORDS.get(wanted.lower(), "request" if wanted.lower() in _OFF else "require")
    return {"encryption": word}


def read_encryption(pairs: Mapping[str, str], *, is_freetds: bool, is_dsn: bool) -> Encryption:
    """Return what a connection string asks for.

    Args:
        is_dsn: The driver and its settings are those of a DSN.
    """
    name = "Encryption" if is_freetds and "encryption" in pairs else "Encrypt"
    given = pairs.get(name.lower(), "")
    is_asked = None if is_dsn and not given else (given or "yes").lower() not in _OFF
    trusted = pairs.get("trustservercertificate", "")
    if is_asked is False or not trusted:
        setting = f"{name}={given}" if given else ""
    else:
        setting = f"TrustServerCertificate={trusted}"
    # FreeTDS checks a certificate only against an authority that freetds.conf names, and Strict knows no trust.
    is_checked = not is_freetds and (given.lower() == "strict" or trusted.lower() not in _YES)
    return Encryption(is_asked=is_asked, is_certificate_checked=is_checked, setting=setting)
