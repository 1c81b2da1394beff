"""Fetches Transformers' own common tests, which the installed package leaves out.

    python scripts/experiments/fetch_transformers_tests.py && pytest -m transformers_common

Downloads the source distribution of the installed version from the package index that pip is set up with (11 MB,
about ten seconds; pip checks it against the index's checksum) and unpacks its common tests into the folder
`.transformers_tests`, which git ignores. Does nothing when that version is there already.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".transformers_tests"
PACKAGE = "transformers_common_tests"


def download_source(version: str, folder: Path) -> Path:
    """Downloads the source distribution of Transformers.

    Returns:
        The path of the archive.

    Raises:
        SystemExit: If pip cannot get it; pip's own message stands above.
    """
    command = [sys.executable, "-m", "pip", "download", f"transformers=={version}", "--no-deps", "--quiet"]
    command += ["--no-binary", "transformers", "--dest", str(folder), "--retries", "1", "--disable-pip-version-check"]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            f"pip could not download the source distribution of transformers {version}; expected it on the "
            f"package index. See pip's message above; the command was: {' '.join(command)}"
        )
    return next(folder.glob("*.tar.gz"))


def unpack_tests(archive: Path, folder: Path) -> int:
    """Unpacks `tests/test_*.py` of a source distribution into one flat Python package.

    Returns:
        How many files were unpacked.

    Raises:
        SystemExit: If the distribution holds no such tests.
    """
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    count = 0
    with tarfile.open(archive) as source:
        for member in source:
            path = Path(member.name)
            if member.isfile() and path.parts[1:-1] == ("tests",) and path.match("test_*.py"):
                content = source.extractfile(member)
                assert content is not None  # it is a file
                (folder / path.name).write_bytes(content.read())
                count += 1
    if count == 0:
        raise SystemExit(f"{archive.name} holds no tests/test_*.py; try another version of transformers.")
    return count


def main() -> None:
    """Fetches the tests of the installed version, or says that they are there."""
    version = importlib.metadata.version("transformers")
    stamp = FOLDER / "VERSION"
    if stamp.is_file() and stamp.read_text().strip() == version:
        print(f"The tests of transformers {version} are in {FOLDER}.")
        return
    # Beside the goal, so that the last step is a rename: the folder is complete or it is not there.
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix=f"{FOLDER.name}-") as aside:
        archive = download_source(version, Path(aside))
        fresh = Path(aside) / "fresh"
        count = unpack_tests(archive, fresh / PACKAGE)
        (fresh / "VERSION").write_text(f"{version}\n")
        shutil.rmtree(FOLDER, ignore_errors=True)
        fresh.rename(FOLDER)
    print(f"Unpacked {count} files of transformers {version} into {FOLDER}.")


if __name__ == "__main__":
    main()
