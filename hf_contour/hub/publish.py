"""Upload of a model folder to the Hub, after a check of what is in it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from hf_contour.hub.card import read_model_folder

NEEDED_FILES = ("README.md", "config.json", "preprocessor_config.json", "model.safetensors")
# The Hub's client has changed the library under it, and the name of what it raises without a connection, before.
TransportError: Any = HfHubHTTPError.__mro__[1]
# Files that can run code when they are loaded.
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


def check_model_folder(folder: Path) -> list[str]:
    """What is wrong with a folder that is to be published; empty where nothing is."""
    problems = [f"{name} is missing" for name in NEEDED_FILES if not (folder / name).is_file()]
    problems += [
        f"{path.name} is a pickle; publish safetensors" for path in files_of(folder) if path.suffix in PICKLES
    ]
    if "config.json is missing" not in problems:
        problems += _code_problems(folder)
    if (folder / "README.md").is_file():
        problems += card_problems((folder / "README.md").read_text(encoding="utf-8"))
    if not problems:
        try:
            read_model_folder(folder)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _code_problems(folder: Path) -> list[str]:
    """Modules that `auto_map` names and the folder lacks."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    auto_map = config.get("auto_map") or {}
    if not auto_map:
        return ["config.json has no auto_map: the folder cannot be loaded without the package"]
    modules = sorted({entry.split(".")[0] for entry in auto_map.values()})
    return [
        f"{module}.py is missing, which auto_map names"
        for module in modules
        if not (folder / f"{module}.py").is_file()
    ]


def card_problems(text: str) -> list[str]:
    """What is wrong with a model card; empty where nothing is."""
    try:
        data = ModelCard(text).data
    except ValueError as error:
        return [f"README.md has a header that the Hub cannot read: {error}"]
    needed = ("license", "library_name", "pipeline_tag")
    problems = [f"README.md says nothing about {name}" for name in needed if not getattr(data, name, None)]
    if "{{" in text or "{%" in text:
        problems.append("README.md has a blank of the template left")
    return problems


def files_of(folder: Path) -> list[Path]:
    """The files that an upload takes, hidden ones left out, in order of their names."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def publish(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Create the repository where needed, and upload the folder.

    Args:
        folder: checked with `check_model_folder` here.
        repo_id: `OWNER/NAME`.
        private: of a repository that is created.

    Returns:
        The address of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If there is no token, or it may not write there.
        ValueError: If the folder has problems.
    """
    problems = check_model_folder(folder)
    if problems:
        raise ValueError(f"{folder} is not ready: " + "; ".join(problems) + ".")
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded to the Hub; unset it, or leave --upload out."
        )
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder, repo_id=repo_id, ignore_patterns=[".*", "*/.*"], commit_message=f"Upload {folder.name}"
        )
    except LocalTokenNotFoundError as error:
        raise PermissionError("there is no token for the Hub; log in with `hf auth login`.") from error
    except HfHubHTTPError as error:
        raise PermissionError(f"the Hub refused {repo_id}: {error}") from error
    except (TransportError, OSError) as error:
        raise ConnectionError(f"the Hub cannot be reached ({error}); check the network.") from error
    return str(commit.commit_url)
