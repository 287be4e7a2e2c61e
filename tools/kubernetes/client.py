"""A small client of the API server for tests: JSON in, status and JSON out, one identity each."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]
TIMEOUT_S = 30.0
_PLURALS = {"NetworkPolicy": "networkpolicies"}
_CLUSTER_WIDE = frozenset(
    {
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "Namespace",
        "Node",
        "PriorityClass",
    }
)


class Refused(Exception):
    """The API server's answer is not 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Client:
    """One identity. Every method raises Refused, or OSError when nobody answers."""

    port: int
    ca: Path
    token: str = field(repr=False)
    timeout_s: float = TIMEOUT_S
    headers: tuple[tuple[str, str], ...] = ()
    """Besides the token: whom to impersonate."""

    def acting_as(self, user: str, groups: tuple[str, ...], extra: dict[str, str]) -> Client:
        """This identity, impersonating another one with what its token would say."""
        headers = [("Impersonate-User", user), *(("Impersonate-Group", g) for g in groups)]
        for key, value in extra.items():
            headers.append((f"Impersonate-Extra-{urllib.parse.quote(key, safe='')}", value))
        return replace(self, headers=tuple(headers))

    def call(
        self, method: str, path: str, body: Json | None = None, kind: str = "application/json"
    ) -> Json:
        """One request on a connection of its own."""
        context = ssl.create_default_context(cafile=self.ca)
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=self.timeout_s
        )
        data = b"" if body is None else json.dumps(body).encode()
        headers = [("Authorization", f"Bearer {self.token}"), ("Content-Type", kind)]
        try:
            connection.putrequest(method, path)
            for name, value in (*headers, ("Content-Length", str(len(data))), *self.headers):
                connection.putheader(name, value)
            connection.endheaders(data)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise Refused(response.status, text.decode(errors="replace"))
        is_json = response.headers.get_content_type() == "application/json"
        values: Json = json.loads(text) if is_json else {"text": text.decode()}
        return values

    def get(self, path: str) -> Json:
        """Read."""
        return self.call("GET", path)

    def create(self, body: Json) -> Json:
        """Make an object of any kind."""
        return self.call("POST", collection(body), body)

    def apply(self, body: Json) -> Json:
        """Server-side apply, as ``kubectl apply --server-side`` does."""
        path = f"{collection(body)}/{body['metadata']['name']}?fieldManager=test&force=true"
        return self.call("PATCH", path, body, "application/apply-patch+yaml")

    def merge(self, path: str, body: Json) -> Json:
        """JSON merge patch."""
        return self.call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> Json:
        """Remove."""
        return self.call("DELETE", path)

    def apply_directory(self, directory: Path) -> None:
        """Every object of the directory's YAML files, namespaces first."""
        documents = [
            document
            for path in sorted(directory.glob("*.yaml"))
            if path.name != "kustomization.yaml"
            for document in yaml.safe_load_all(path.read_text())
            if document
        ]
        for document in sorted(documents, key=lambda item: str(item["kind"]) != "Namespace"):
            self.apply(document)

    def may(self, verb: str, resource: str, name: str = "", namespace: str = "") -> bool:
        """Whether this identity may, by SelfSubjectAccessReview; GROUP/RESOURCE[/SUBRESOURCE]."""
        group, _, rest = resource.partition("/")
        plural, _, part = rest.partition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "subresource": part}
        attributes |= {"name": name, "namespace": namespace}
        review = self.create(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
        )
        return bool(review["status"]["allowed"])


def collection(body: Json) -> str:
    """The path of an object's collection."""
    version, kind = body["apiVersion"], body["kind"]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = body.get("metadata", {}).get("namespace")
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    if kind in _CLUSTER_WIDE or not namespace:
        return f"{prefix}/{plural}"
    return f"{prefix}/namespaces/{urllib.parse.quote(namespace)}/{plural}"
