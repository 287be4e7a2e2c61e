"""One act on exactly one certificate of an NSS database: the DER on standard input, in hex.

certutil knows entries by nickname only, and of several with one nickname it acts on the one
that NSS likes best: to drop the old of two it deletes the new one. So this calls NSS's own
public functions. Run as a program of its own (``python -I -S nss_entry.py``): NSS is
initialised once per process, and a fault in it must not take the agent along.

    nss_entry.py sql:DIR delete            the certificate; its key stays
    nss_entry.py sql:DIR label NICKNAME    give it this nickname
    nss_entry.py sql:DIR preferred NICKNAME
                                           would pluto find it by this nickname?

Exit codes: 0 done, or yes; 3 no; 4 the certificate is not there; 1 NSS failed.
"""

from __future__ import annotations

import ctypes
import sys

NO = 3
ABSENT = 4


class SecItem(ctypes.Structure):
    """NSS's SECItem (seccomon.h): a typed byte string."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("data", ctypes.c_char_p),
        ("len", ctypes.c_uint),
    )


def load() -> ctypes.CDLL:
    """libnss3 with the signatures of cert.h and pk11pub.h."""
    nss = ctypes.CDLL("libnss3.so")
    pointer = ctypes.c_void_p
    nss.NSS_InitReadWrite.argtypes = (ctypes.c_char_p,)
    nss.CERT_GetDefaultCertDB.restype = pointer
    nss.CERT_FindCertByDERCert.argtypes = (pointer, ctypes.POINTER(SecItem))
    nss.CERT_FindCertByDERCert.restype = pointer
    nss.PK11_FindCertFromNickname.argtypes = (ctypes.c_char_p, pointer)
    nss.PK11_FindCertFromNickname.restype = pointer
    # What `certutil --rename` calls; exported under this name.
    # By getattr: Python would mangle a name that begins with two underscores.
    getattr(nss, "__PK11_SetCertificateNickname").argtypes = (pointer, ctypes.c_char_p)
    nss.SEC_DeletePermCertificate.argtypes = (pointer,)
    nss.CERT_DestroyCertificate.argtypes = (pointer,)
    return nss


def act(nss: ctypes.CDLL, certificate: int, verb: str, nickname: bytes) -> int:
    """The exit code of ``verb`` on the certificate."""
    if verb == "delete":
        return 1 if nss.SEC_DeletePermCertificate(certificate) else 0
    if verb == "label":
        rename = getattr(nss, "__PK11_SetCertificateNickname")
        return 1 if rename(certificate, nickname) else 0
    # NSS keeps one object per certificate, so the same one has the same address.
    found = nss.PK11_FindCertFromNickname(nickname, None)
    return 0 if found == certificate else NO


def main(argv: list[str]) -> int:
    """The program."""
    database, verb, *rest = argv
    der = bytes.fromhex(sys.stdin.read())
    nss = load()
    if nss.NSS_InitReadWrite(database.encode()):
        sys.stderr.write("NSS cannot open the database")
        return 1
    item = SecItem(0, der, len(der))
    certificate = nss.CERT_FindCertByDERCert(nss.CERT_GetDefaultCertDB(), ctypes.byref(item))
    if not certificate:
        return ABSENT
    code = act(nss, certificate, verb, rest[0].encode() if rest else b"")
    nss.CERT_DestroyCertificate(certificate)
    if code == 1:
        sys.stderr.write(f"NSS error {nss.PORT_GetError()}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
