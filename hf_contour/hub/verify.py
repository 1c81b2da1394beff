"""Whether a model folder is whole and harmless, before it is loaded: files, links, code, weights, labels.

    hf-contour verify FOLDER
    hf-contour verify FOLDER --json

Needs no network, and executes nothing of the folder. Start it elsewhere: Python looks for modules in the folder that
it is started in.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_contour.configuration_contour_gender import PIPELINES
from hf_contour.hub.assemble import CONFIG_FILES, PACKAGE, references
from hf_contour.hub.publish import PICKLES, card_problems
from hf_contour.hub.verify_model import (
    FAILED,
    MAX_JSON_BYTES,
    OK,
    WARNING,
    Finding,
    check_backbones,
    check_labels,
    check_processor,
    check_results,
    check_weights,
    plan_model,
    read_json,
)
from hf_contour.hub.verify_pickles import check_pickles
from hf_contour.io import file_sha256

MANIFEST = "manifest.json"
# Besides pickles: formats whose loading can run code, and compiled code.
CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth", ".h5", ".keras", ".dill"})
# Files that make a loader go elsewhere, and fields of a config that do.
REDIRECTIONS = ("adapter_config.json", ".metadata")
REDIRECTING_FIELDS = ("transformers_weights", "quantization_config", "fusion_config")
HARMLESS, DAMAGED, USAGE, HARMFUL = 0, 1, 2, 3


def verify_folder(folder: Path) -> list[Finding]:
    """Checks a model folder.

    Args:
        folder: as `save_pretrained` writes it, or a snapshot in the cache of the Hub.

    Returns:
        At least one finding for each check, in a fixed order.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; expected one that save_pretrained wrote.")
    paths = list(entries(folder))
    findings = [check_place(folder), *check_links(folder, paths)]
    if exit_code(findings) == HARMFUL:
        return findings  # what lies behind a link or a pipe must not be opened
    files = [path for path in paths if path.is_file()]
    findings += [*check_presence(folder), *check_pickles(folder, files), *check_code(folder, files)]
    contents, unreadable = read_contents(folder, files)
    findings += [*unreadable, *check_references(folder, contents)]
    findings += check_model(folder, contents)
    return [*findings, *check_sums(folder), *check_card(folder)]


def check_model(folder: Path, contents: Mapping[str, dict[str, Any]]) -> list[Finding]:
    """The config, and the weights and the processor against it.

    Args:
        folder: of the model.
        contents: its JSON files by name, those left out that cannot be read.
    """
    findings, model = [], None
    config = contents.get("config.json")
    if config is not None:
        findings += check_backbones(config)
        try:
            model = plan_model(config)
            findings.append(Finding("config", OK, f"asks for a {type(model).__name__}"))
        except ValueError as error:
            findings.append(Finding("config", FAILED, f"config.json is refused: {error}"))
        if config.get("model_type") == "contour_gender":
            findings.append(check_labels(config))
    findings += check_weights(folder, model)
    if "preprocessor_config.json" in contents:
        findings += check_processor(contents["preprocessor_config.json"], config)
    return findings


def read_contents(folder: Path, files: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """The JSON files of a folder by name, and what is wrong with those that are needed."""
    contents, findings = {}, []
    for path in files:
        if path.suffix == ".json":
            name = str(path.relative_to(folder))
            try:
                contents[name] = read_json(path)
            except (OSError, ValueError) as error:
                if name in CONFIG_FILES:
                    findings.append(Finding("config", FAILED, f"{name} cannot be read: {error!s:.300}."))
    return contents, findings


def exit_code(findings: Sequence[Finding]) -> int:
    """0 whole and harmless, 1 damaged, 3 harmful."""
    failed = [finding for finding in findings if finding.status == FAILED]
    if any(finding.harmful for finding in failed):
        return HARMFUL
    return DAMAGED if failed else HARMLESS


def main(folder: Path, *, as_json: bool = False, write_sums: bool = False) -> int:
    """Prints a line for each finding, or JSON, and gives the exit code."""
    try:
        findings = verify_folder(folder)
    except NotADirectoryError as error:
        print(json.dumps({"error": str(error), "exit_code": USAGE}) if as_json else f"error: {error}")
        return USAGE
    code = exit_code(findings)
    if write_sums and code == HARMLESS:
        (folder / MANIFEST).write_text(json.dumps({"files": sums(folder)}, indent=1) + "\n", encoding="utf-8")
    if as_json:
        checks = [vars(finding) for finding in findings]
        print(json.dumps({"folder": str(folder), "exit_code": code, "checks": checks}))
        return code
    for finding in findings:
        print(ascii(str(finding))[1:-1] if not str(finding).isprintable() else finding)
    verdict = {HARMLESS: "whole and harmless", DAMAGED: "damaged or not whole", HARMFUL: "harmful: do not load it"}
    print(f"{folder}: {verdict[code]}")
    return code


def entries(folder: Path) -> Iterator[Path]:
    """Everything in a folder, in order, without following links."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            yield Path(root) / name


def check_place(folder: Path) -> Finding:
    """Whether Python was started inside of the folder."""
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        return Finding(
            "place", WARNING, "started inside of the folder, where Python looks for modules first; start it elsewhere."
        )
    return Finding("place", OK, "started outside of the folder")


def check_links(folder: Path, paths: Sequence[Path]) -> list[Finding]:
    """Links that leave the folder, and what is neither file nor folder: reading it could wait for ever."""
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")  # the cache of the Hub keeps the files there
    findings = []
    for path in paths:
        name = path.relative_to(folder)
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            message = f"{name} is a link to {path.readlink()}, out of the folder; delete it."
            findings.append(Finding("links", FAILED, message, harmful=True))
        elif not path.is_symlink() and not (path.is_file() or path.is_dir()):
            kind = stat.filemode(path.lstat().st_mode)[0]
            message = f"{name} is no file (kind {kind}); delete it."
            findings.append(Finding("links", FAILED, message, harmful=True))
    return findings or [Finding("links", OK, "no link leaves the folder")]


def check_presence(folder: Path) -> list[Finding]:
    """The files that a model needs."""
    findings = [
        Finding("files", FAILED, f"{name} is missing; get it again from where the folder came from.")
        for name in CONFIG_FILES
        if not (folder / name).is_file()
    ]
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        findings.append(Finding("files", FAILED, "model.safetensors is missing; get it again."))
    return findings or [Finding("files", OK, "config, weights and processor are there")]


def check_code(folder: Path, files: Sequence[Path]) -> list[Finding]:
    """Code that is not, byte for byte, a file of the installed package."""
    findings, same = [], 0
    for path in files:
        if path.suffix.lower() not in CODE_SUFFIXES - PICKLES and path.name not in REDIRECTIONS:
            continue
        name, own = path.relative_to(folder), PACKAGE / path.name
        if path.name in REDIRECTIONS:
            message = f"{name} makes a loader take other weights; delete it."
        elif not own.is_file():
            message = f"{name} is no file of this package; do not trust this folder's code."
        elif own.read_bytes() != path.read_bytes():
            message = f"{name} differs from the installed package's; it is of another version, or was changed."
        else:
            same += 1
            continue
        findings.append(Finding("code", FAILED, message, harmful=True))
    return findings or [Finding("code", OK, f"{same} files, all as in the installed package" if same else "none")]


def check_references(folder: Path, contents: Mapping[str, dict[str, Any]]) -> list[Finding]:
    """What configs name for a loader to fetch or import: only files of this package, beside the config, are right."""
    findings, has_code = [], any(folder.glob("*.py"))
    nested = contents.get("config.json", {}).get("extractor_config")
    places = {**contents, "extractor_config": nested if isinstance(nested, dict) else {}}
    for place, content in places.items():
        for field in REDIRECTING_FIELDS:
            if field in content:
                message = f"{place} has {field}, which makes a loader take something else; delete it."
                findings.append(Finding("references", FAILED, message, harmful=True))
        if content.get("custom_pipelines", PIPELINES) != PIPELINES:
            message = f"{place} has custom_pipelines that are none of this package's; delete them."
            findings.append(Finding("references", FAILED, message, harmful=True))
        for field, reference in references(content):
            module, _, name = reference.partition(".") if isinstance(reference, str) else ("", "", "")
            if not (module.isidentifier() and name.isidentifier() and (PACKAGE / f"{module}.py").is_file()):
                message = f"{place}: {field} names {reference!r:.80}, which is none of this package's; delete it."
                findings.append(Finding("references", FAILED, message, harmful=True))
            elif place != "extractor_config" and has_code and not (folder / f"{module}.py").is_file():
                findings.append(Finding("references", FAILED, f"{module}.py is missing, which {place} names."))
    if not has_code and not findings:
        message = "no code in the folder: it loads where hf_contour is installed; hf-contour publish adds the code"
        return [Finding("references", WARNING, message)]
    return findings or [Finding("references", OK, "configs name nothing but this package's own code")]


def sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files that make up the model; the card and the copies of code may change."""
    names = sorted({*CONFIG_FILES, *(path.name for path in folder.glob("*.safetensors*"))})
    found = {}
    for name in names:
        if (folder / name).is_file():
            found[name] = {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    return found


def check_sums(folder: Path) -> list[Finding]:
    """The files against `manifest.json`; where there is none, what to compare with the place that they came from."""
    found = sums(folder)
    if not (folder / MANIFEST).is_file():
        measured = check_results(folder)
        if measured is not None:
            return [measured]
        told = ", ".join(f"{name} {entry['sha256']}" for name, entry in found.items() if "safetensors" in name)
        return [Finding("checksums", OK, f"no {MANIFEST} to compare with; SHA-256: {told or 'no weights'}")]
    try:
        listed = read_json(folder / MANIFEST)["files"]
        expected = {str(name): (entry["size"], entry["sha256"]) for name, entry in listed.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return [Finding("checksums", FAILED, f"{MANIFEST} cannot be read ({error!s:.100}); get it again.")]
    wrong = [
        f"{name} is not the file that {MANIFEST} lists; get it again."
        for name, (size, sha256) in expected.items()
        if found.get(name) != {"size": size, "sha256": sha256}
    ]
    wrong += [f"{MANIFEST} does not list {name}; get both again." for name in found if name not in expected]
    return [Finding("checksums", FAILED, message) for message in wrong] or [
        Finding("checksums", OK, f"{len(expected)} files are those that {MANIFEST} lists")
    ]


def check_card(folder: Path) -> list[Finding]:
    """Whether there is a card that the Hub can read."""
    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
        return [Finding("card", WARNING, "there is no README.md, or an endless one, to say what the model is for.")]
    try:
        problems = card_problems(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        problems = [f"README.md cannot be read ({error!s:.200})"]
    return [Finding("card", WARNING, f"{problem}.") for problem in problems] or [Finding("card", OK, "README.md")]
