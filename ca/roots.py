"""The first root, and the steps of a roll-over, as entries of a transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ca import authority, store
from ca.authority import Issuer
from ca.csr import PrivateKey
from ca.entries import RootAdded, RootRetired, SigningSwitched
from ca.files import Files
from ca.lifetime import validity
from ca.rollover import Phase, Rollover, Step, require, survey
from ca.settings import CaSettings, check
from ca.store import Batch, Store

Serials = Callable[[], str]
"""Gives a new random serial, in hex."""


def init_authority(
    files: Files, directory: Path, settings: CaSettings, now: datetime, serials: Serials
) -> None:
    """Make an authority with its first root. Raises UsageError and StoreError."""
    check(settings)
    key = authority.make_key(settings.key_kind)
    root = _self_signed(settings, key, now, serials)
    entry = RootAdded(now, authority.key_id(key.public_key()), root.der)
    store.create(files, directory, settings, key, [entry])


def start(store: Store, batch: Batch, now: datetime, serials: Serials) -> None:
    """Put a new root of the same name into the bundle. Raises RolloverError."""
    require(Step.START, survey(batch.inventory, store.settings, now), now)
    old = store.issuer(batch.inventory.signing)
    key = authority.make_key(store.settings.key_kind)
    new = _self_signed(store.settings, key, now, serials)
    shared = max(old.validity[0], new.validity[0]), min(old.validity[1], new.validity[1])
    links = []
    if now < old.validity[1]:
        links.append(authority.build_link(new.certificate, old, shared, serials()))
        links.append(authority.build_link(old.certificate, new, shared, serials()))
    store.sweep_keys()
    name = store.write_key(key)
    cross = tuple(link.public_bytes(Encoding.DER) for link in links)
    batch.add(RootAdded(now, name, new.der, cross))


def switch(store: Store, batch: Batch, now: datetime, *, force: bool = False) -> Rollover:
    """Sign with the new root from now on. Raises RolloverError; returns what was left behind."""
    before = survey(batch.inventory, store.settings, now)
    require(Step.SWITCH, before, now, force=force)
    if before.other is None:
        raise TypeError(f"{Phase.PUBLISHED} without a second root")
    store.issuer(before.other.key_id)  # its key must be there before anything counts on it
    batch.add(SigningSwitched(now, before.other.key_id, force, before.laggards))
    return before


def retire(store: Store, batch: Batch, now: datetime, *, force: bool = False) -> Rollover:
    """Take the old root out of the bundle; ``Store.sweep_keys`` then destroys its key.

    Raises RolloverError; returns what was left behind.
    """
    before = survey(batch.inventory, store.settings, now)
    require(Step.RETIRE, before, now, force=force)
    if before.other is None:
        raise TypeError(f"{Phase.SWITCHED} without a second root")
    batch.add(RootRetired(now, before.other.key_id))
    return before


def _self_signed(settings: CaSettings, key: PrivateKey, now: datetime, serials: Serials) -> Issuer:
    subject = authority.root_subject(settings.organization, settings.name)
    span = validity(now, settings.ca_life)
    return Issuer(authority.build_root(subject, key, span, serials()), key)
