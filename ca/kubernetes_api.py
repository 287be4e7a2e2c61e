"""The API server as this package sees it: JSON objects in and out, every failure an ApiError.

The only module that imports the official client, which knows kubeconfigs, the pod's token (read
again as it rotates), TLS and proxies. Its typed models are not used: a CertificateSigningRequest
that has a field this version of the client does not know must be written back whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from ca.errors import CaError, UsageError

Json = dict[str, Any]
CONNECT_S = 3.0
ANSWER_S = 10.0
"""For the next bytes of an answer. A stalled server must not hold a thread for ever."""
WATCH_S = 15
"""A watch ends after this, and is taken up where it ended: so long may a dead one go unnoticed."""
_CONNECTIONS = 48
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class ApiError(CaError):
    """The API server did not do what was asked."""


class ApiUnreachable(ApiError):
    """No answer: refused, reset, timed out. What was asked may have been done or not."""


class ApiRefused(ApiError):
    """An answer that is not 2xx."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {message} (HTTP {status})")
        self.status = status


class Conflict(ApiRefused):
    """409: somebody else wrote first, or the object exists already."""


class NotFound(ApiRefused):
    """404."""


class Gone(ApiRefused):
    """410: a watch goes back further than the server remembers; list again."""


_BY_STATUS = {404: NotFound, 409: Conflict, 410: Gone}


class Api:
    """One API server and one identity. Safe for threads.

    Paths are those of the API reference, without a query. Every method raises ApiError.
    """

    def __init__(self, configuration: Any, connect_s: float, answer_s: float) -> None:
        self._connect_s, self._answer_s = connect_s, answer_s
        configuration.retries = False  # who asks knows whether to ask again
        configuration.connection_pool_maxsize = _CONNECTIONS
        self._client: Any = client.ApiClient(configuration)

    def get(self, path: str) -> Json:
        """Read an object."""
        return self._call("GET", path)

    def list(self, path: str, query: Mapping[str, str]) -> Json:
        """Read a collection."""
        return self._call("GET", path, query=query)

    def create(self, path: str, body: Json) -> Json:
        """Make an object in this collection; Conflict when there is one of the name."""
        return self._call("POST", path, body)

    def replace(self, path: str, body: Json) -> Json:
        """Write an object; Conflict unless it is still of ``metadata.resourceVersion``."""
        return self._call("PUT", path, body)

    def watch(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[str, Json]]:
        """Event types and objects, until the server ends the watch."""
        wanted = {**query, "watch": "true", "timeoutSeconds": str(WATCH_S)}
        response = self._send("GET", path, None, wanted, WATCH_S + ANSWER_S)
        if response.status >= 300:
            _refuse("GET", path, response)
        rest = b""
        try:
            for chunk in response.response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        _refuse_event(path, event["object"])
                    yield event["type"], event["object"]
        except (HTTPError, OSError, ValueError) as error:
            raise ApiUnreachable(f"watch {path}: {error}") from error
        finally:
            response.response.close()

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Json:
        response = self._send(method, path, body, query or {}, self._answer_s)
        try:
            if response.status >= 300:
                _refuse(method, path, response)
            values: Json = json.loads(response.read())
        except (HTTPError, OSError, ValueError) as error:
            raise ApiUnreachable(f"{method} {path}: {error}") from error
        finally:
            response.response.release_conn()
        return values

    def _send(
        self, method: str, path: str, body: Json | None, query: Mapping[str, str], read_s: float
    ) -> Any:
        url = self._client.configuration.host + path + ("?" + urlencode(query) if query else "")
        try:
            headers = dict(_JSON)
            token = self._client.configuration.auth_settings().get("BearerToken")
            if token is not None:
                headers["Authorization"] = token["value"]
            return self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=(self._connect_s, read_s)
            )
        except (HTTPError, OSError, client.ApiException, ConfigException) as error:
            raise ApiUnreachable(f"{method} {path}: {error}") from error


def connect(connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> Api:
    """The cluster of the kubeconfig in $KUBECONFIG, or of the pod this runs in.

    Raises UsageError.
    """
    kubeconfig = os.environ.get("KUBECONFIG")
    configuration = client.Configuration()
    try:
        if not kubeconfig:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(kubeconfig, client_configuration=configuration)
    except (ConfigException, OSError, ValueError) as error:
        where = kubeconfig or "this pod"
        raise UsageError(
            f"{where}: no way to an API server: {error}; run in a pod with a ServiceAccount, or "
            "set KUBECONFIG to a kubeconfig"
        ) from error
    return Api(configuration, connect_s, answer_s)


def path_of(kind: str, namespace: str = "", name: str = "", group: str = "") -> str:
    """The API path of an object or, without a name, a collection; ``group`` is GROUP/VERSION."""
    parts = ["apis", *group.split("/")] if group else ["api", "v1"]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [kind, name] if name else [kind]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _refuse(method: str, path: str, response: Any) -> NoReturn:
    data = response.read()
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data[:200].decode(errors="replace").strip()
    status = int(response.status)
    raise _BY_STATUS.get(status, ApiRefused)(f"{method} {path}", status, message)


def _refuse_event(path: str, status: Json) -> NoReturn:
    code = int(status.get("code", 500))
    what = f"watch {path}"
    raise _BY_STATUS.get(code, ApiRefused)(what, code, str(status.get("message", "")))
