"""Who is revoked, by the file that ``Open_vSwitch:other_config:ca_crl`` names.

The contract with whoever writes the file: PEM or DER, one CRL of each root of the bundle
``other_config:ca_cert`` (PEM: one after the other), each the newest one, replaced by rename.
"""

from __future__ import annotations

from datetime import datetime

from ovn_ipsec.model.facts import CertificateFact, RevocationFact
from ovn_ipsec.sources.crl import RevocationFile, RevocationList, revocation_file, signer
from ovn_ipsec.sources.files import ParsedFiles

_KEPT = "who was revoked before stays so"


class Revocations:
    """Remembers the newest list of each key that signs, so that losing the file admits nobody.

    It remembers as long as the process lives: a list that was never read by it is not known.
    """

    def __init__(self) -> None:
        self._files = ParsedFiles(revocation_file, RevocationFile)
        self._newest: dict[str, RevocationList] = {}
        """By hash of the public key that signed it."""
        self._seen: tuple[RevocationFile | None, CertificateFact | None] | None = None
        self._fact = RevocationFact()

    def snapshot(self, path: str | None, bundle: CertificateFact | None) -> RevocationFact:
        """As of now; the same object while file and bundle are the same."""
        self._files.forget_others({path})
        file = self._files.read(path) if path else None
        if self._seen != (file, bundle):
            self._seen = file, bundle
            self._fact = self._judge(file, bundle)
        return self._fact

    def _judge(
        self, file: RevocationFile | None, bundle: CertificateFact | None
    ) -> RevocationFact:
        problems: list[str] = []
        if file is None:
            if self._newest:
                problems.append(f"other_config:ca_crl is not set any more; {_KEPT}")
        elif bundle is None or bundle.problem is not None:
            problems.append(f"CRL {file.path!r} cannot be verified without a CA bundle; {_KEPT}")
        else:
            problems += self._take(file, bundle)
        lists = self._newest.values()
        return RevocationFact(
            denied=frozenset(name for each in lists for name in each.denied),
            serials=frozenset((each.issuer, serial) for each in lists for serial in each.serials),
            next_update=min(
                (each.next_update for each in lists if each.next_update is not None), default=None
            ),
            problems=tuple(problems),
        )

    def _take(self, file: RevocationFile, bundle: CertificateFact) -> list[str]:
        """Believe what is proven and not older than what is known; the rest in words."""
        problems = [f"CRL {file.problem}; {_KEPT}"] if file.problem else []
        newest: dict[str, RevocationList] = {}
        for each in file.lists:
            key = signer(each, bundle)
            if key is None:
                problems.append(
                    f"CRL {file.path!r}: no CA of {bundle.path!r} signed the list of "
                    f"{each.issuer!a} of {_date(each.this_update)}; it is ignored, and {_KEPT}"
                )
            elif key not in newest or each.age > newest[key].age:
                newest[key] = each
        for key, each in newest.items():
            known = self._newest.get(key)
            if known is not None and each.age < known.age:
                problems.append(
                    f"CRL {file.path!r}: the list of {each.issuer!a} of {_date(each.this_update)} "
                    f"is older than that of {_date(known.this_update)}, which was there before "
                    f"(a replay?); it is ignored, and {_KEPT}"
                )
            else:
                self._newest[key] = each
        self._forget_retired(bundle)
        problems += [
            f"CRL {file.path!r} lacks a list by each root: the last one of {each.issuer!a}, of "
            f"{_date(each.this_update)}, goes on counting"
            for key, each in self._newest.items()
            if key not in newest and file.lists
        ]
        return problems

    def _forget_retired(self, bundle: CertificateFact) -> None:
        """Lists of a root that has left the bundle, once one of the roots in it has its own."""
        present = {member.public_key_hash for member in bundle.chain}
        if not present.isdisjoint(self._newest):
            self._newest = {key: each for key, each in self._newest.items() if key in present}


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
