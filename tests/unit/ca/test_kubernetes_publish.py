"""What nodes read, published or not, and whether certificates may be given meanwhile."""

from __future__ import annotations

import logging

import pytest

from ca.kubernetes_api import ApiRefused, Json
from ca.kubernetes_publish import BUNDLE_KEY, Publisher
from ca.rollover import Step
from tests.unit.ca.objects import Objects
from tests.unit.ca.people import Office

_CONFIG_MAP = "/api/v1/namespaces/ovn-ipsec/configmaps/ovn-ipsec-ca"


class _Refusing(Objects):
    """Takes no ConfigMap, such as one that is too large."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = False

    def _write(self, path: str, body: Json) -> Json:
        if self.refuses:
            raise ApiRefused(f"PUT {path}", 422, "data: Too long")
        return super()._write(path, body)


def _publisher(objects: Objects, world: Office) -> Publisher:
    return Publisher(objects, world.desk, "ovn-ipsec", "ovn-ipsec-ca")


def test_leader_whose_roots_were_never_published_does_not_begin_when_it_cannot_publish() -> None:
    objects, world = _Refusing(), Office()
    objects.refuses = True
    with pytest.raises(ApiRefused, match="Too long"):
        _publisher(objects, world).publish_first()
    objects.refuses = False
    _publisher(objects, world).publish_first()
    assert BUNDLE_KEY in objects.objects[_CONFIG_MAP]["data"]


def test_leader_whose_root_nodes_know_begins_although_it_cannot_publish_what_is_new(
    caplog: pytest.LogCaptureFixture,
) -> None:
    objects, world = _Refusing(), Office()
    _publisher(objects, world).publish_first()
    objects.refuses = True
    world.desk.take_step(Step.START)
    with caplog.at_level(logging.WARNING):
        _publisher(objects, world).publish_first()
    assert "Too long" in caplog.text


def test_leader_whose_present_root_nodes_do_not_know_waits_until_it_is_published() -> None:
    objects, world = _Refusing(), Office()
    _publisher(objects, world).publish_first()
    objects.refuses = True
    world.desk.take_step(Step.START)
    world.desk.take_step(Step.SWITCH, force=True)
    with pytest.raises(ApiRefused, match="Too long"):
        _publisher(objects, world).publish_first()
