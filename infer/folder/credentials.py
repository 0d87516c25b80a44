"""Passwords and tokens in URLs, which are hidden from messages, reports and journals."""

import base64
import hashlib
import json
import re
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
"""Placeholder for a password or a token."""

WITHOUT_CREDENTIALS = frozenset({"github", "git"})
"""Protocols whose URLs contain repository and branch before the "@", not a user."""

TOKEN_USERS = frozenset({"http", "https"})
"""Protocols whose URLs can contain a token in place of a user."""

SHORT = 4
"""Shorter secrets are only replaced as whole words."""

_CHAIN = re.compile(r"::(?=[A-Za-z0-9+.-]+(?:://|::|$))")
_QUERY = re.compile(r"([?&#])([^=&#]+)=([^&#]+)|(;)([^=&#;/]+)=([^&#;/?]+)")
"""A parameter of a query, or of a part of a path."""

_CREDENTIAL_NAME = re.compile(
    r"^x-(amz|goog)-|sig|token|key|secret|pass|cred|auth|expires|^(se|sp|sr|ss|st|sv|srt|spr|sip|sk\w+)$", re.IGNORECASE
)
"""Parameters of signed URLs, which change while the folder is the same one; the short ones are Azure's."""


class Credentials:
    """The secret parts of a URL, chained ones (`a://x::b://y`) included."""

    def __init__(self, url: str) -> None:
        self._secrets: set[str] = set()
        parts = _CHAIN.split(url)
        hidden = [self._hide_user(part) for part in parts]
        self.shown = "::".join(_QUERY.sub(self._hide_value, part) for part in hidden)
        """The URL with each password and each value of a query hidden."""
        self.identity = "::".join(_QUERY.sub(_digest_of_value, part) for part in hidden)
        """As `shown`, but different for queries that tell folders from each other."""
        self._secrets.discard("")
        forms = {form for secret in self._secrets for form in _forms(secret)} - {""}
        self._pattern = re.compile("|".join(_bounded(form) for form in sorted(forms, key=len, reverse=True)))

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def without_secrets(self, text: str) -> str:
        """Hide the secrets in a text, also where they are quoted, unquoted or escaped."""
        return self._pattern.sub(HIDDEN, text) if self._secrets else text

    def _hide_user(self, part: str) -> str:
        scheme, separator, rest = part.partition("://")
        if not separator or scheme in WITHOUT_CREDENTIALS:
            return part
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        port = authority.rpartition(":")[2]
        if "@" in authority:
            where = authority
        elif ":" in authority and not authority.startswith("["):
            # A password with a "/" or "?" that is not quoted; if it begins with digits it looks like a port.
            where = re.split(r"\?[^@=/]+=", rest, maxsplit=1)[0] if port.isdigit() else rest
        else:
            return part
        userinfo, at, _ = where.rpartition("@")
        user, colon, password = userinfo.partition(":")
        if not at or not (colon or scheme in TOKEN_USERS):
            return part
        basic = base64.b64encode(unquote(userinfo).encode()).decode()  # as HTTP sends it
        self._secrets |= {password, basic} if colon else {userinfo, basic}
        return f"{scheme}://{f'{user}:{HIDDEN}' if colon else HIDDEN}{rest[len(userinfo) :]}"

    def _hide_value(self, match: re.Match[str]) -> str:
        before, name, value = filter(None, match.groups())
        self._secrets.add(value)
        return f"{before}{name}={HIDDEN}"


def _digest_of_value(match: re.Match[str]) -> str:
    before, name, value = filter(None, match.groups())
    kept = HIDDEN if _CREDENTIAL_NAME.search(name) else hashlib.sha256(value.encode()).hexdigest()[:16]
    return f"{before}{name}={kept}"


def _forms(secret: str) -> set[str]:
    """Return the spellings of a part of a URL that libraries may print."""
    plain = {secret, unquote(secret), unquote_plus(secret)}
    quoted = {quote(text, safe=safe) for text in plain for safe in ("", "/")}
    escaped = {escape(text)[1:-1] for text in plain for escape in (repr, json.dumps)}
    return plain | quoted | escaped


def _bounded(form: str) -> str:
    return rf"(?<!\w){re.escape(form)}(?!\w)" if len(form) < SHORT else re.escape(form)
