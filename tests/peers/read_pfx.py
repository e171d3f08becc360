#!/usr/bin/env python3
"""Reads a PFX without rekey's code and tells, as JSON, all that Windows would find in it.

    read_pfx.py FILE < PASSWORD

The certificate and the key come from the cryptography package. What that package leaves out (bag attributes, the seal,
the way of encryption) is read here with a small DER reader and the key derivation of RFC 7292 appendix B.
"""

import hashlib
import hmac
import json
import sys

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import pkcs12

NAMES = {
    "1.2.840.113549.1.5.12": "PBKDF2",
    "1.2.840.113549.1.5.13": "PBES2",
    "1.2.840.113549.1.7.1": "data",
    "1.2.840.113549.1.7.6": "encryptedData",
    "1.2.840.113549.1.9.20": "friendly_name",
    "1.2.840.113549.1.9.21": "local_key_id",
    "1.2.840.113549.1.12.1.3": "pbeWithSHAAnd3-KeyTripleDES-CBC",
    "1.2.840.113549.1.12.10.1.2": "key",
    "1.2.840.113549.1.12.10.1.3": "certificate",
    "1.2.840.113549.2.9": "hmacWithSHA256",
    "1.3.6.1.4.1.311.17.1": "provider",
    "1.3.6.1.4.1.311.17.2": "machine_key_set",
    "1.3.14.3.2.26": "sha1",
    "2.5.29.15": "key_usage",
    "2.16.840.1.101.3.4.1.42": "AES-256-CBC",
    "2.16.840.1.101.3.4.2.1": "sha256",
}


class Node:
    """One DER value; children of a constructed one are made when asked for."""

    def __init__(self, data, start=0):
        self.tag = data[start]
        length, at = data[start + 1], start + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        self.value = data[at : at + length]
        self.end = at + length
        if len(self.value) != length:
            raise ValueError("DER value is cut off")

    def __getitem__(self, index):
        return list(self)[index]

    def __iter__(self):
        at = 0
        while at < len(self.value):
            child = Node(self.value, at)
            yield child
            at = child.end

    def number(self):
        return int.from_bytes(self.value, "big", signed=True)

    def oid(self):
        first, numbers, number = self.value[0], [], 0
        for byte in self.value[1:]:
            number = number << 7 | byte & 0x7F
            if not byte & 0x80:
                numbers.append(number)
                number = 0
        text = ".".join(map(str, [*divmod(first, 40), *numbers])) if first < 80 else ".".join(map(str, [2, first - 80, *numbers]))
        return NAMES.get(text, text)


def whole(data):
    node = Node(data)
    if node.end != len(data):
        raise ValueError("bytes follow the DER value")
    return node


def derive(digest, purpose, password, salt, iterations, length):
    """RFC 7292 appendix B.2."""
    block = hashlib.new(digest).block_size
    fill = lambda data: (data * block)[: -(-len(data) // block) * block]
    state = fill(salt) + fill(password.encode("utf-16-be") + b"\0\0")
    out = b""
    while len(out) < length:
        a = bytes([purpose]) * block + state
        for _ in range(iterations):
            a = hashlib.new(digest, a).digest()
        out += a
        b = int.from_bytes((a * block)[:block], "big") + 1
        parts = [state[i : i + block] for i in range(0, len(state), block)]
        state = b"".join(((int.from_bytes(p, "big") + b) % (1 << 8 * block)).to_bytes(block, "big") for p in parts)
    return out[:length]


def decrypt(algorithm, data, password):
    """The plain text, and how it was encrypted."""
    scheme = algorithm[0].oid()
    if scheme == "pbeWithSHAAnd3-KeyTripleDES-CBC":
        salt, iterations = algorithm[1][0].value, algorithm[1][1].number()
        key, iv = (derive("sha1", purpose, password, salt, iterations, size) for purpose, size in ((1, 24), (2, 8)))
        cipher, told = TripleDES(key), {"scheme": scheme}
    elif scheme == "PBES2":
        derivation, encryption = algorithm[1]
        salt, iterations, prf = derivation[1][0].value, derivation[1][1].number(), derivation[1][2][0].oid()
        told = {"scheme": scheme, "derivation": derivation[0].oid(), "prf": prf, "cipher": encryption[0].oid()}
        if (derivation[0].oid(), prf, encryption[0].oid()) != ("PBKDF2", "hmacWithSHA256", "AES-256-CBC"):
            raise ValueError(f"not read here: {told}")
        cipher = algorithms.AES(hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations, 32))
        iv = encryption[1].value
    else:
        raise ValueError(f"not read here: {scheme}")
    decryptor = Cipher(cipher, modes.CBC(iv)).decryptor()
    unpadder = padding.PKCS7(cipher.block_size).unpadder()
    plain = unpadder.update(decryptor.update(data) + decryptor.finalize()) + unpadder.finalize()
    return plain, told | {"iterations": iterations, "salt_bytes": len(salt)}


def attributes(nodes):
    told = {}
    for attribute in nodes:
        name, values = attribute[0].oid(), list(attribute[1])
        if name == "machine_key_set":
            told[name] = len(values) == 0
        elif name in ("friendly_name", "provider"):
            told[name] = values[0].value.decode("utf-16-be")
        else:
            told[name] = values[0].value.hex()
    return told


def read_bag(bag, password):
    kind, told = bag[0].oid(), attributes(bag[2])
    if kind == "key":
        shrouded = bag[1][0]
        plain, told["encryption"] = decrypt(shrouded[0], shrouded[1].value, password)
        told["private_key_attributes"] = attributes([a for part in whole(plain) if part.tag == 0xA0 for a in part])
    return kind, told


def read_safe(safe, password):
    kind = safe[0].oid()
    if kind == "data":
        return [read_bag(bag, password) for bag in whole(safe[1][0].value)]
    content = safe[1][0][1]
    plain, encryption = decrypt(content[1], content[2].value, password)
    return [(name, told | {"encryption": encryption}) for name, told in (read_bag(bag, password) for bag in whole(plain))]


def read_seal(pfx, safes, password):
    seal = pfx[2]
    digest, salt, iterations = seal[0][0][0].oid(), seal[1].value, seal[2].number()
    key = derive(digest, 3, password, salt, iterations, hashlib.new(digest).digest_size)
    verified = hmac.compare_digest(hmac.digest(key, safes, digest), seal[0][1].value)
    return {"digest": digest, "iterations": iterations, "salt_bytes": len(salt), "verified": verified}


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    password = sys.stdin.read()
    loaded = pkcs12.load_pkcs12(data, password.encode())
    certificate = loaded.cert.certificate
    public = lambda key: key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pfx = whole(data)
    safes = pfx[1][1][0].value
    bags = [bag for safe in whole(safes) for bag in read_safe(safe, password)]
    print(
        json.dumps(
            {
                "version": pfx[0].number(),
                "seal": read_seal(pfx, safes, password),
                "order": [kind for kind, _ in bags],
                **dict(bags),
                "thumbprint": certificate.fingerprint(hashes.SHA1()).hex().upper(),
                "subject": certificate.subject.rfc4514_string(),
                "friendly_name": loaded.cert.friendly_name.decode(),
                "key_bits": loaded.key.key_size,
                "key_matches_certificate": public(loaded.key.public_key()) == public(certificate.public_key()),
            },
            indent=2,
        )
    )


main()
