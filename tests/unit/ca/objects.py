"""Secrets and ConfigMaps in memory, with the API server's rule about versions.

A test chooses the write at which the process dies, before or after the server has taken it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator

from ca.kubernetes_api import Api, Conflict, Json, NotFound
from tests.unit.ca.disk import PowerCut


class Objects(Api):
    """``ca.kubernetes_api.Api`` without a server."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.writes = 0
        self.reads = 0
        self.cut_at: int | None = None
        """The write at which the process dies."""
        self.cut_after = False
        """It is done nevertheless."""

    def get(self, path: str) -> Json:
        self.reads += 1
        if path not in self.objects:
            raise NotFound(f"GET {path}", 404, "not found")
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, body: Json) -> Json:
        whole = f"{path}/{body['metadata']['name']}"
        if whole in self.objects:
            raise Conflict(f"POST {path}", 409, "already exists")
        return self._write(whole, body)

    def replace(self, path: str, body: Json) -> Json:
        present = self.get(path)["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion", present) != present:
            raise Conflict(f"PUT {path}", 409, "the object has been modified")
        return self._write(path, body)

    def _write(self, path: str, body: Json) -> Json:
        self.writes += 1
        cut = self.writes == self.cut_at
        if not cut or self.cut_after:
            written = copy.deepcopy(body)
            written["metadata"]["resourceVersion"] = str(self.writes)
            self.objects[path] = written
        if cut:
            raise PowerCut
        return copy.deepcopy(self.objects[path])


class Interleaved:
    """Several writers on the same objects; whose call is next is chosen by the test."""

    def __init__(self, objects: Objects, choices: Iterator[int]) -> None:
        self._objects = objects
        self._choices = choices
        self._changed = threading.Condition()
        self._running: list[int] = []
        self._turn = -1

    def run(self, *writers: Callable[[Objects], None]) -> None:
        """Each with objects of its own name, until all have ended. Raises what they raise."""
        errors: list[BaseException] = []

        def work(number: int, writer: Callable[[Objects], None]) -> None:
            try:
                writer(_Turnwise(self, number, self._objects))
            except BaseException as error:  # noqa: BLE001 (raised again below)
                errors.append(error)
            finally:
                self._end(number)

        self._running = list(range(len(writers)))
        self._choose()
        threads = [threading.Thread(target=work, args=item) for item in enumerate(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            raise error

    def call(self, number: int, what: Callable[[], Json]) -> Json:
        """Do it when it is this writer's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number)
            try:
                return what()
            finally:
                self._choose()

    def _end(self, number: int) -> None:
        with self._changed:
            self._running.remove(number)
            if self._turn == number:
                self._choose()

    def _choose(self) -> None:
        """The caller has the condition, or is alone."""
        if self._running:
            self._turn = self._running[next(self._choices, 0) % len(self._running)]
        with self._changed:
            self._changed.notify_all()


class _Turnwise(Objects):
    """One writer's door to objects that it shares."""

    def __init__(self, turns: Interleaved, number: int, shared: Objects) -> None:
        super().__init__()
        self._turns, self._number, self._shared = turns, number, shared

    def get(self, path: str) -> Json:
        return self._turns.call(self._number, lambda: self._shared.get(path))

    def create(self, path: str, body: Json) -> Json:
        return self._turns.call(self._number, lambda: self._shared.create(path, body))

    def replace(self, path: str, body: Json) -> Json:
        return self._turns.call(self._number, lambda: self._shared.replace(path, body))
