"""The volumes and variables of a pod, from what the API server keeps."""

from __future__ import annotations

import base64
import math
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client import Client, Object, Refused

UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
TOKEN_SECONDS = 3600


class Invalid(Exception):
    """What this kubelet cannot give a pod."""


def quantity(text: Any) -> float:
    """`500m`, `2Gi` as a number."""
    found = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise Invalid(f"`{text}` is no quantity that is known here")
    return float(found[1]) * UNITS[found[2]]


class Volumes:
    """The volumes of one pod, below a folder of its own."""

    def __init__(self, client: Client, pod: Object, folder: Path, field: Callable[[str], str]) -> None:
        self._client, self._pod, self._folder, self._field = client, pod, folder, field
        self._namespace = pod["metadata"]["namespace"]
        self._volumes: list[Object] = pod["spec"].get("volumes", [])
        self._paths: dict[str, Path] = {}

    def make(self) -> None:
        for volume in self._volumes:
            self._paths[volume["name"]] = self._make(volume)

    def path(self, mount: Object) -> Path:
        """What is mounted there."""
        return self._paths[mount["name"]] / mount.get("subPath", "")

    def refresh(self) -> None:
        """Secrets and ConfigMaps change under a running pod: Kueue waits for its own certificate that way."""
        for volume in self._volumes:
            if "secret" in volume or "configMap" in volume:
                self._fill(self._paths[volume["name"]], volume)

    def unmount(self) -> None:
        unmount_below(self._folder)

    def _make(self, volume: Object) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "persistentVolumeClaim" in volume:
            return self._claimed(volume["persistentVolumeClaim"]["claimName"])
        folder = self._folder / volume["name"]
        folder.mkdir(parents=True)
        if "emptyDir" in volume:
            self._empty(folder, volume["emptyDir"] or {})
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                self._fill(folder, source)
        else:
            self._fill(folder, volume)
        folder.chmod(0o1777)
        return folder

    def _empty(self, folder: Path, options: Object) -> None:
        if options.get("medium") == "Memory":
            size = int(quantity(options["sizeLimit"])) if "sizeLimit" in options else "50%"
            command = ["mount", "-t", "tmpfs", "-o", f"mode=1777,size={size}", "tmpfs", str(folder)]
            subprocess.run(command, check=True)

    def _claimed(self, claim: str) -> Path:
        bound = self._get("persistentvolumeclaims", claim)
        name = bound["spec"].get("volumeName")
        if not name:
            raise Invalid(f"the claim `{claim}` is bound to no volume")
        volume = self._client.get(f"/api/v1/persistentvolumes/{name}")
        if "hostPath" not in volume["spec"]:
            raise Invalid(f"the volume `{name}` is of a kind that is not known here: only `hostPath` is")
        return Path(volume["spec"]["hostPath"]["path"])

    def _get(self, kind: str, name: str) -> Object:
        found: Object = self._client.get(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}")
        return found

    def _fill(self, folder: Path, source: Object) -> None:
        if "secret" in source:
            options = source["secret"]
            self._write(folder, options, "secrets", options.get("secretName") or options.get("name", ""))
        elif "configMap" in source:
            self._write(folder, source["configMap"], "configmaps", source["configMap"]["name"])
        elif "serviceAccountToken" in source:
            token = source["serviceAccountToken"]
            _put(folder / token["path"], self._token(token).encode())
        elif "downwardAPI" in source:
            for item in source["downwardAPI"]["items"]:
                _put(folder / item["path"], self._field(item["fieldRef"]["fieldPath"]).encode())
        else:
            kinds = ", ".join(sorted(source.keys() - {"name"}))
            raise Invalid(f"a volume of a kind that is not known here: {kinds}")

    def _write(self, folder: Path, options: Object, kind: str, name: str) -> None:
        data = self.data(kind, name, optional=options.get("optional", False))
        items = options.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            _put(folder / item["path"], data[item["key"]])

    def data(self, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """What a Secret or a ConfigMap holds."""
        try:
            found = self._get(kind, name)
        except Refused as error:
            if optional and error.status == 404:
                return {}
            raise
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return {key: value.encode() for key, value in (found.get("data") or {}).items()}

    def _token(self, wanted: Object) -> str:
        metadata = self._pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        spec: Object = {"expirationSeconds": wanted.get("expirationSeconds", TOKEN_SECONDS), "boundObjectRef": bound}
        if wanted.get("audience"):
            spec["audiences"] = [wanted["audience"]]
        account = self._pod["spec"].get("serviceAccountName", "default")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        return str(self._client.call("POST", path, body)["status"]["token"])

    # -- variables

    def environment(self, container: Object, base: Mapping[str, str]) -> dict[str, str]:
        """The variables of a container: `envFrom`, then `env`, each of which may use those before it."""
        found = dict(base)
        for source in container.get("envFrom", []):
            kind = "configMapRef" if "configMapRef" in source else "secretRef"
            reference = source[kind]
            plural = "configmaps" if kind == "configMapRef" else "secrets"
            data = self.data(plural, reference["name"], optional=reference.get("optional", False))
            found |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
        for variable in container.get("env", []):
            value = self._variable(variable, container, found)
            if value is not None:
                found[variable["name"]] = value
        return found

    def _variable(self, variable: Object, container: Object, known: Mapping[str, str]) -> str | None:
        source = variable.get("valueFrom") or {}
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return self._resource(source["resourceFieldRef"], container)
        for key, kind in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if key in source:
                reference = source[key]
                optional = reference.get("optional", False)
                data = self.data(kind, reference["name"], optional=optional)
                if reference["key"] not in data and not optional:
                    raise Invalid(f"`{reference['name']}` has no key `{reference['key']}`")
                value = data.get(reference["key"])
                return None if value is None else value.decode()
        return expand(variable.get("value", ""), known)

    @staticmethod
    def _resource(reference: Object, container: Object) -> str:
        kind, resource = reference["resource"].split(".", 1)
        amount = quantity(container.get("resources", {}).get(kind, {}).get(resource, 0))
        return str(math.ceil(amount / quantity(reference.get("divisor") or "1")))


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes replaces it; what is not known stays, `$$` is a dollar."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][\w.-]*)\)",
        lambda found: "$" if found[0] == "$$" else known.get(found[1], found[0]),
        text,
    )


def unmount_below(folder: Path) -> None:
    """Every mount below a folder."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()[::-1]:
        target = line.split()[1].encode().decode("unicode_escape")
        if target.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", target], capture_output=True, check=False)


def _put(path: Path, content: bytes) -> None:
    """Never half a file: whoever reads it may do so at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.making")
    making.write_bytes(content)
    making.rename(path)
