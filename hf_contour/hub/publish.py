"""Upload of a model to the Hub: its card, a check of what would be uploaded, and the upload."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from hf_contour.hub.assemble import CONFIG_FILES, code_files
from hf_contour.hub.card import read_model_folder

NEEDED_FILES = ("README.md", *CONFIG_FILES, "model.safetensors")
# The Hub's client has changed the library under it, and the name of what it raises without a connection, before.
TransportError: Any = HfHubHTTPError.__mro__[1]
# Files that can run code when they are loaded.
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


def check_model_folder(folder: Path) -> list[str]:
    """What is wrong with a folder that is to be uploaded as it is; empty where nothing is."""
    problems = [f"{name} is missing" for name in NEEDED_FILES if not (folder / name).is_file()]
    problems += pickles_of(folder)
    if (folder / "README.md").is_file():
        problems += card_problems((folder / "README.md").read_text(encoding="utf-8"))
    if problems:
        return problems
    try:
        read_model_folder(folder)
    except ValueError as error:
        return [str(error)]
    code = code_files(folder)
    if not code:
        return ["config.json has no auto_map: the folder cannot be loaded without the package"]
    missing = [source.name for source in code if not (folder / source.name).is_file()]
    return [f"{name} is missing, which config.json names" for name in missing]


def pickles_of(folder: Path) -> list[str]:
    """A problem for each file that could run code when it is loaded."""
    return [f"{path.name} is a pickle; publish safetensors" for path in files_of(folder) if path.suffix in PICKLES]


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


def upload(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Create the repository where needed, and upload the folder.

    Args:
        folder: as `assemble` makes it; checked with `check_model_folder` here.
        repo_id: `OWNER/NAME`.
        private: of a repository that is created.

    Returns:
        The address of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If there is no token, or it may not write there.
        ValueError: If the folder has problems, or the Hub refuses it for another reason.
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
            folder_path=folder, repo_id=repo_id, ignore_patterns=[".*", "*/.*"], commit_message="Upload the model"
        )
    except LocalTokenNotFoundError as error:
        raise PermissionError("there is no token for the Hub; log in with `hf auth login`.") from error
    except HfHubHTTPError as error:
        raise _refusal(error, repo_id) from error
    except RuntimeError as error:  # of a large file, whatever its cause
        raise ConnectionError(
            f"{error} ({error.__cause__ or 'no cause given'}); try again, or set HF_HUB_DISABLE_XET=1 where a proxy "
            "knows only the Hub's older way to upload."
        ) from error
    except (TransportError, OSError) as error:
        raise ConnectionError(f"the Hub cannot be reached ({error}); check the network.") from error
    return str(commit.commit_url)


def _refusal(error: HfHubHTTPError, repo_id: str) -> Exception:
    """What to raise where the Hub has answered, and said no."""
    code = error.response.status_code
    said = error.server_message or f"HTTP {code}"
    if code in (401, 403):
        return PermissionError(
            f"the Hub refused {repo_id} ({code}: {said}); the token must be allowed to write there: `hf auth login`."
        )
    if code >= 500:
        return ConnectionError(f"the Hub has a fault of its own ({code}: {said}); try again later.")
    return ValueError(f"the Hub refused {repo_id} ({code}: {said}).")
