"""The demo of hf_contour as a Space; MODEL and EXTRACTOR are folders or repositories on the Hub."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download

from hf_contour.inference.demo import build_demo


def folder(name: str) -> str:
    """A folder as it is, or the repository of that name, fetched."""
    return name if Path(name).is_dir() else snapshot_download(name)


model, extractor = os.environ["MODEL"], os.environ.get("EXTRACTOR")
page = build_demo(folder(model), extractor=folder(extractor) if extractor else None)

if __name__ == "__main__":
    page.launch()
