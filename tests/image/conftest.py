"""The image, built once for the run, and a pod to run its containers in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tools.image.build import build_image
from tools.image.container import Image, Pod, unpack

TAG = "test"
_numbers = count()


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI image layout."""
    directory = tmp_path_factory.mktemp("image") / "layout"
    build_image(directory, TAG)
    return directory


@pytest.fixture(scope="session")
def image(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Its root file system."""
    return unpack(layout, TAG, tmp_path_factory.mktemp("image-root") / "bundle")


@pytest.fixture(scope="session")
def shared_pod(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """For containers that change nothing."""
    pod = new_pod(image, tmp_path_factory.mktemp("shared-pod"))
    yield pod
    pod.close()


def new_pod(image: Image, directory: Path) -> Pod:
    """With a name that no other pod on this machine has."""
    return Pod(f"ovn-ipsec-test-{os.getpid()}-{next(_numbers)}", image, directory)
