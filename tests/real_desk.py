"""The authority itself behind the interface that ``tests.fake_desk`` has for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca import office, roots
from ca.csr import KeyKind
from ca.desk import LocalDesk
from ca.files import RealFiles
from ca.requests import ByToken
from ca.rollover import Step
from ca.settings import CaSettings
from ca.store import Store
from ca.tokens import secret_text
from tests.est_server import csr_for
from tools.lab.pki import Pair

SETTINGS = CaSettings(
    name="test CA",
    key_kind=KeyKind.P256,
    leaf_life_s=86400,
    requests_per_minute=60,
    settle_s=0,
    automatic_rollover=False,
)


class RealDesk(LocalDesk):
    """On a state directory of its own."""

    def __init__(self, directory: Path, settings: CaSettings = SETTINGS) -> None:
        self._offset = timedelta()
        roots.init_authority(RealFiles(), directory, settings, self._now(), office.random_serial)
        super().__init__(Store(RealFiles(), directory), self._now, office.random_serial)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    @property
    def signed(self) -> int:
        """How many nodes' certificates there are."""
        return len(self._store.inventory.issued)

    def token_text(self, chassis_id: str) -> str:
        """A new join token as the node gets it."""
        return office.make_token(self, chassis_id, timedelta(hours=1), replace=False).text

    def token(self, chassis_id: str) -> str:
        """A new join token's secret."""
        return secret_text(self.token_text(chassis_id))

    def expired_token(self, chassis_id: str) -> str:
        """A join token's secret whose time is over."""
        text = office.make_token(self, chassis_id, timedelta(seconds=0), replace=False).text
        return secret_text(text)

    def node(self, chassis_id: str) -> Pair:
        """A node that has a certificate already."""
        key = ec.generate_private_key(ec.SECP256R1())
        der = self.sign(csr_for(chassis_id, key=key), ByToken(chassis_id, self.token(chassis_id)))
        return Pair(x509.load_der_x509_certificate(der), key)

    def revoke(self, chassis_id: str) -> None:
        """Cut a node off, whether it has been here or not."""
        if chassis_id.lower() not in self._store.inventory.known_ids():
            self.token(chassis_id)
        office.revoke_node(self, chassis_id)

    def roll_over(self) -> None:
        """A new root that is trusted and does not sign yet."""
        self.take_step(Step.START)

    def switch(self, *, force: bool = False) -> None:
        """The new root signs from now on."""
        self.take_step(Step.SWITCH, force=force)

    def retire(self) -> None:
        """Only the root that signs now is trusted."""
        self.take_step(Step.RETIRE)
