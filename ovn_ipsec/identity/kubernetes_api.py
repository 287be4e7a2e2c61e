"""The few calls of the Kubernetes API that enrolment makes. Nobody else imports its client.

Answers are taken as JSON, not as the client's models, which refuse what they do not know. Every
call has timeouts, so an API server that accepts connections and says nothing holds nobody up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from ovn_ipsec.errors import BusyError, EnrolmentError

Json = dict[str, Any]

_CONNECT_S = 5
_READ_S = 15
_WATCH_MARGIN_S = 10
"""The server ends a watch by itself; one that does not has stalled."""
_RETRY_S = 5.0
_SAID_CHARS = 300
_MAX_BYTES = 8 << 20


class ClusterApi:
    """One connection to the API server, made when it is first needed. For one thread."""

    def __init__(self, kubeconfig: Path | None) -> None:
        """``kubeconfig`` None: as the pod that this process runs in."""
        self._kubeconfig = kubeconfig
        self._client: Any = None

    def create_request(self, body: Json) -> Json:
        """Make a CertificateSigningRequest. All methods raise EnrolmentError, also BusyError."""
        return self._ask(
            "a CertificateSigningRequest cannot be made",
            lambda api: client.CertificatesV1Api(api).create_certificate_signing_request,
            body=body,
        )

    def requests(self, label: str) -> Json:
        """The list of CertificateSigningRequests with this label (``KEY=VALUE``)."""
        return self._ask(
            "CertificateSigningRequests cannot be listed",
            lambda api: client.CertificatesV1Api(api).list_certificate_signing_request,
            label_selector=label,
        )

    def delete_request(self, name: str) -> None:
        """Remove a CertificateSigningRequest."""
        self._ask(
            f"CertificateSigningRequest {name} cannot be deleted",
            lambda api: client.CertificatesV1Api(api).delete_certificate_signing_request,
            name=name,
        )

    def watch_request(self, name: str, version: str, wait_s: int) -> Iterator[Json]:
        """Events of one CertificateSigningRequest after this version, for so long."""
        return self._watch(
            f"CertificateSigningRequest {name} cannot be watched",
            lambda api: client.CertificatesV1Api(api).list_certificate_signing_request,
            name,
            version,
            wait_s,
        )

    def config_map(self, namespace: str, name: str) -> Json:
        """A ConfigMap. BusyError: there is none yet."""
        return self._ask(
            f"ConfigMap {namespace}/{name} cannot be read",
            lambda api: client.CoreV1Api(api).read_namespaced_config_map,
            name=name,
            namespace=namespace,
        )

    def watch_config_map(
        self, namespace: str, name: str, version: str, wait_s: int
    ) -> Iterator[Json]:
        """Events of a ConfigMap after this version, for so long."""
        return self._watch(
            f"ConfigMap {namespace}/{name} cannot be watched",
            lambda api: client.CoreV1Api(api).list_namespaced_config_map,
            name,
            version,
            wait_s,
            namespace=namespace,
        )

    def _ask(self, failed: str, choose: Callable[[Any], Any], **arguments: Any) -> Json:
        with closing(self._open(failed, choose, _READ_S, arguments)) as response:
            try:
                value: Json = json.loads(_bounded(response.read(_MAX_BYTES + 1)))
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise _no_answer(failed, error) from error
        return value

    def _watch(
        self,
        failed: str,
        choose: Callable[[Any], Any],
        name: str,
        version: str,
        wait_s: int,
        **arguments: Any,
    ) -> Iterator[Json]:
        arguments |= {
            "field_selector": f"metadata.name={name}",
            "resource_version": version,
            "timeout_seconds": wait_s,
            "watch": True,
        }
        with closing(self._open(failed, choose, wait_s + _WATCH_MARGIN_S, arguments)) as response:
            try:
                for line in _lines(response):
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        said = str(event["object"].get("message"))
                        # 410: the version is too old; the next listing has a new one.
                        raise BusyError(f"{failed}: {said[:_SAID_CHARS]}", 1.0)
                    yield event
            except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
                raise _no_answer(failed, error) from error

    def _open(
        self,
        failed: str,
        choose: Callable[[Any], Any],
        read_s: int,
        arguments: Mapping[str, Any],
    ) -> Any:
        """The answer's head; its body is still to be read."""
        try:
            response = choose(self._connected())(
                **arguments, _preload_content=False, _request_timeout=(_CONNECT_S, read_s)
            )
            if response.status >= 300:
                with closing(response):
                    body = response.read(_MAX_BYTES)
                raise _refusal(failed, response.status, response.headers, body)
        except client.ApiException as error:
            body = (error.body or "").encode()
            raise _refusal(failed, error.status, error.headers or {}, body) from error
        except (client.OpenApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _no_answer(failed, error) from error
        return response

    def _connected(self) -> Any:
        if self._client is None:
            settings = client.Configuration()
            try:
                if self._kubeconfig is None:
                    config.load_incluster_config(client_configuration=settings)
                else:
                    config.load_kube_config(
                        str(self._kubeconfig),
                        client_configuration=settings,
                        persist_config=False,
                    )
            except (config.ConfigException, OSError, ValueError) as error:
                where = self._kubeconfig or "this pod's service account"
                raise EnrolmentError(
                    f"{where}: no way to the Kubernetes API: {error}; check --kubeconfig, or run "
                    "in a pod with a service account"
                ) from error
            settings.retries = False  # when to try again is the planner's
            self._client = client.ApiClient(settings)
        return self._client


def _refusal(failed: str, status: int, headers: Mapping[str, str], body: bytes) -> EnrolmentError:
    """What an answer other than 2xx means (API conventions, "HTTP status codes")."""
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace")
    text = f"{failed}: {status}: {said.strip()[:_SAID_CHARS]}"
    if status == 404:
        return BusyError(text, _RETRY_S)
    if status in (429, 503):
        after = headers.get("Retry-After", "")
        seconds = float(after) if after.isascii() and after.isdigit() else _RETRY_S
        return BusyError(text, min(max(seconds, 1.0), 300.0))
    if status in (401, 403):
        # Also for some seconds after the API server has been restarted.
        return EnrolmentError(f"{text}; check the RBAC rules of this process's identity")
    return EnrolmentError(text)


def _no_answer(failed: str, error: Exception) -> EnrolmentError:
    said = " ".join(str(error).split())[:_SAID_CHARS] or type(error).__name__
    return EnrolmentError(f"{failed}: the Kubernetes API does not answer: {said}")


def _lines(response: Any) -> Iterator[bytes]:
    buffer = b""
    for chunk in response.stream(amt=None):
        *lines, buffer = _bounded(buffer + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def _bounded(data: bytes) -> bytes:
    if len(data) > _MAX_BYTES:
        raise ValueError("the answer is too long")
    return data
