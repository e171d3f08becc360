"""An issuer's part by PyJWT and cryptography: makes a key, publishes it as a JWK Set and signs a token with it.

Reads one line of JSON, {"algorithm": "RS256", "kid": "…", "claims": {…}}, and writes one, {"jwks": {…}, "token": "…"}.
"""

import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

MADE = {
    "RS": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
    "PS": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "ES384": (lambda: ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    algorithm = asked["algorithm"]
    make, written = MADE.get(algorithm) or MADE[algorithm[:2]]
    key = make()
    public = json.loads(written.to_jwk(key.public_key()))
    public.update(kid=asked["kid"], use="sig", alg=algorithm)
    public.pop("key_ops", None)
    token = jwt.encode(asked["claims"], key, algorithm=algorithm, headers={"kid": asked["kid"]})
    print(json.dumps({"jwks": {"keys": [public]}, "token": token}))


if __name__ == "__main__":
    main()
