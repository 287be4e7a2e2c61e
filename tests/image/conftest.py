"""The image, built once for the run, and a pod to run its containers in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.image.build import build_image
from tools.image.container import Pod

TAG = "test"


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI image layout."""
    directory = tmp_path_factory.mktemp("image") / "layout"
    build_image(directory, TAG)
    return directory


@pytest.fixture(scope="session")
def shared_pod(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """For containers that change nothing."""
    pod = Pod(layout, TAG, tmp_path_factory.mktemp("shared-pod"))
    yield pod
    pod.close()
