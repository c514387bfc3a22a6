"""A client of the API server: plain HTTP, server-side apply, watches, waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
import yaml

Object = dict[str, Any]
FIELD_MANAGER = "eagleray"
# Only a hang is as slow as this; every wait is for a condition.
PATIENCE_SECONDS = 180.0
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """What the API server said no to."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Client:
    """Talks to one API server as its administrator; may be used by several threads."""

    def __init__(self, url: str, token: str, authority: Path) -> None:
        self._url, self._token, self._authority = url, token, authority
        self._local = threading.local()
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            # A proxy or a bundle of certificates of the environment would win over ours.
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {self._token}"
            session.verify = str(self._authority)
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json", **query: str) -> Any:
        """One request; what is not JSON comes back as text."""
        data = body if isinstance(body, (str, type(None))) else json.dumps(body)
        headers = {"Content-Type": kind}
        answer = self._session().request(method, self._url + path, params=query, data=data, headers=headers, timeout=60)
        if answer.status_code >= 400:
            try:
                message = str(answer.json().get("message", answer.text))
            except ValueError:
                message = answer.text
            raise Refused(answer.status_code, message)
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text

    def get(self, path: str, **query: str) -> Any:
        return self.call("GET", path, **query)

    def find(self, path: str) -> Any:
        """The object, or None where there is none."""
        try:
            return self.get(path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Object]:
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def patch(self, path: str, body: Object) -> Any:
        return self.call("PATCH", path, body, MERGE)

    def delete(self, path: str, **options: Any) -> None:
        """Deletes what is there."""
        try:
            self.call("DELETE", path, options or None)
        except Refused as error:
            # 409: the object of that name is another one by now.
            if error.status not in (404, 409):
                raise

    def path_of(self, document: Object) -> str:
        """Where an object lives, after the server's own list of what it serves."""
        version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
        base = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if (version, kind) not in self._paths:
            for resource in self.get(base)["resources"]:
                if "/" not in resource["name"]:
                    self._paths[version, resource["kind"]] = resource["name"], resource["namespaced"]
        if (version, kind) not in self._paths:
            raise Refused(404, f"the server knows no {kind} of {version}")
        plural, namespaced = self._paths[version, kind]
        inside = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{base}{inside}/{plural}/{metadata['name']}"

    def apply(self, document: Object, *, dry: bool = False, strict: bool = True) -> Any:
        """Server-side apply; where it is `strict`, a field that the server does not know is an error."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict" if strict else "Ignore"}
        if dry:
            query["dryRun"] = "All"
        # JSON is YAML too, and quicker to write.
        return self.call("PATCH", self.path_of(document), document, "application/apply-patch+yaml", **query)

    def watch(self, path: str, closing: threading.Event, **query: str) -> Iterator[tuple[str, Object]]:
        """What is there, then what changes, until `closing`: pairs of ADDED, MODIFIED or DELETED and the object.

        A list after a lost watch names everything as added again; what vanished meanwhile is named as deleted.
        """
        known: dict[str, Object] = {}
        while not closing.is_set():
            try:
                listed = self.get(path, **query)
                present = {item["metadata"]["uid"] for item in listed["items"]}
                for uid in known.keys() - present:
                    yield "DELETED", known.pop(uid)
                for item in listed["items"]:
                    known[item["metadata"]["uid"]] = item
                    yield "ADDED", item
                for kind, item in self._changes(path, listed["metadata"]["resourceVersion"], query):
                    if kind == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    else:
                        known[item["metadata"]["uid"]] = item
                    yield kind, item
            except (requests.RequestException, Refused, ValueError):
                closing.wait(0.3)

    def _changes(self, path: str, version: str, query: dict[str, str]) -> Iterator[tuple[str, Object]]:
        wanted = {**query, "watch": "1", "resourceVersion": version}
        answer = self._session().get(self._url + path, params=wanted, stream=True, timeout=(5, 3600))
        with answer:
            for line in answer.iter_lines(chunk_size=None):  # type: ignore[call-overload]
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]


def read_manifests(text: str) -> list[Object]:
    """The documents of a stream; definitions are megabytes, which libyaml reads in seconds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS, every: float = 0.2) -> Any:
    """Waits until the condition holds, and returns what it returned; a refusal counts as not yet."""
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if result := condition():
                return result
        except (Refused, requests.RequestException) as error:
            last = f" (last: {error})"
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}{last}")
        time.sleep(every)
