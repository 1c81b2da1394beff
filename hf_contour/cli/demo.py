"""Open a page in the browser that classifies an image and says why, draws contours, and classifies a folder.

    hf-contour demo --model MODEL
    hf-contour demo --model MODEL --extractor EXTRACTOR --port 7860

Needs Gradio: pip install "hf_contour[demo]". The page is served to this machine alone, and sends nothing anywhere.
Ctrl-C ends it. Exit codes: 0 ended, 2 refused.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hf_contour.cli.settings import hide_loading_bar, read_settings
from hf_contour.flags import needed, setting


@dataclass
class DemoArguments:
    """What the page shows, and where it is served."""

    model: str = needed("folder of a classifier")
    extractor: str | None = setting(None, "folder of an extractor, for the tab that draws contours")
    port: int = setting(7860, "port on this machine")
    browser: bool = setting(False, "open the page in the browser")


def main(argv: Sequence[str]) -> int:
    """Serves the page until it is interrupted."""
    arguments = read_settings(DemoArguments, argv, command="demo", description=__doc__)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from hf_contour.inference.demo import build_demo

    hide_loading_bar()
    page = build_demo(arguments.model, extractor=arguments.extractor)
    page.launch(server_name="127.0.0.1", server_port=arguments.port, inbrowser=arguments.browser)
    return 0
