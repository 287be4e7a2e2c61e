"""A list and a watch that follows it: what is in a collection, and each change, for ever."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping

from ca.kubernetes_api import Api, ApiError, Gone, Json

_PAGE = "500"
_FIRST_NAP_S = 0.2
_LONGEST_NAP_S = 5.0

_log = logging.getLogger(__name__)


class Watched:
    """Follows one collection in a thread's ``run``.

    ``seen`` is called with each object as it is listed or changes, ``gone`` with each that is no
    more there. An API server that refuses (403 right after a restart, until it has read its RBAC
    rules), stalls or is gone is asked again, after naps that grow up to 5 s.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        query: Mapping[str, str],
        seen: Callable[[Json], None],
        gone: Callable[[Json], None],
    ) -> None:
        self._api = api
        self._path = path
        self._query = query
        self._seen = seen
        self._gone = gone
        self._present: dict[str, Json] = {}
        self._version = ""
        self.listed = threading.Event()
        """Set when the first list is complete."""

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; a watch that waits notices it within its own time limit."""
        failures = 0
        while not stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow(stop)
                failures = 0
            except Gone:
                self._version = ""
            except ApiError as error:
                failures += 1
                if failures == 1:
                    _log.warning("%s; trying again", error)
                nap_s = min(_FIRST_NAP_S * 2 ** min(failures, 10), _LONGEST_NAP_S)
                stop.wait(nap_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load)

    def _list(self) -> None:
        """All pages, then what is gone since the last time."""
        found: dict[str, Json] = {}
        token = ""
        while True:
            page = self._api.list(
                self._path,
                {**self._query, "limit": _PAGE, **({"continue": token} if token else {})},
            )
            for item in page["items"]:
                found[item["metadata"]["uid"]] = item
            token = page["metadata"].get("continue", "")
            if not token:
                break
        for uid in self._present.keys() - found.keys():
            self._gone(self._present.pop(uid))
        for uid, item in found.items():
            self._present[uid] = _key_of(item)
            self._seen(item)
        self._version = page["metadata"]["resourceVersion"]
        self.listed.set()

    def _follow(self, stop: threading.Event) -> None:
        query = {**self._query, "resourceVersion": self._version, "allowWatchBookmarks": "true"}
        for kind, item in self._api.watch(self._path, query):
            metadata = item["metadata"]
            if kind == "DELETED":
                self._present.pop(metadata["uid"], None)
                self._gone(item)
            elif kind != "BOOKMARK":
                self._present[metadata["uid"]] = _key_of(item)
                self._seen(item)
            self._version = metadata["resourceVersion"]
            if stop.is_set():
                return


def _key_of(item: Json) -> Json:
    """What is kept of an object: enough to say that it is gone."""
    metadata = item["metadata"]
    return {"metadata": {name: metadata[name] for name in ("name", "uid")}}
