"""JWTs: who a signed token proves, by PyJWT. Knows neither calls nor where the keys come from."""

import jwt

from talkwire_server.callers import Caller, loggable
from talkwire_server.errors import Unauthenticated
from talkwire_server.security.keys import ALGORITHMS, Keys
from talkwire_server.security.rights import caller

LEEWAY = 10  # seconds by which clocks may differ
_LONGEST_SUBJECT = 255  # as OpenID Connect has it
_CLAIM = "talkwire"


class Signed:
    """Tokens that an issuer signed for an audience.

    Who calls is the claim `sub`; what it may do, the claim `talkwire`, with the keys of a token
    file's entry.
    """

    def __init__(self, keys: Keys, issuer: str, audience: str) -> None:
        self.keys = keys
        self._issuer = issuer
        self._audience = audience

    async def find(self, token: str) -> Caller:
        """Tell whose token this is.

        Raises:
            Unauthenticated: It is not valid.

        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError
            key = await self.keys.find(header.get("kid"))
            if key is None:
                raise Unauthenticated("its key is not known")
            return self._caller(token, key)
        except jwt.PyJWTError as error:
            raise Unauthenticated(type(error).__name__) from None

    def _caller(self, token: str, key: jwt.PyJWK) -> Caller:
        claims = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY,
            options={"require": ["exp", "sub"], "enforce_minimum_key_length": True},
        )
        subject = claims["sub"]
        if not 0 < len(subject) <= _LONGEST_SUBJECT:
            raise Unauthenticated(f"its subject has {len(subject)} characters")
        try:
            return caller(f"jwt:{loggable(subject)}", claims.get(_CLAIM, {}))
        except ValueError as error:
            raise Unauthenticated(f"its claim {_CLAIM}: {error}") from None
