"""What an observation makes of NSS entries that are not ours."""

from __future__ import annotations

import pytest

from ovn_ipsec.drivers.nss import _installed
from ovn_ipsec.drivers.nss_database import Contents, Entry
from tests.unit.odd_certificates import ODD_CERTIFICATES


@pytest.mark.parametrize("der", ODD_CERTIFICATES.values(), ids=ODD_CERTIFICATES)
def test_foreign_certificate_that_cannot_be_read_is_listed_all_the_same(der: bytes) -> None:
    contents = Contents((Entry("theirs", der, b"id"),), {})
    (entry,) = _installed(contents, {"theirs": "C,,"})
    assert (entry.nickname, entry.trust, entry.has_key) == ("theirs", "C,,", False)
