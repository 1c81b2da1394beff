"""A page in the browser: classify an image and see why, draw contours, classify a folder.

build_demo("path/to/classifier", extractor="path/to/extractor").launch()
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError, open_image
from hf_contour.inference.contours import processor_for
from hf_contour.inference.explain import Classifier, explain, load_classifier
from hf_contour.inference.explanation_drawing import contour_image, draw_explanation
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining

NUM_GARMENTS, GARMENT_SIDE = 6, 224
MAX_SIDE = 1024
MAX_FILES = 500
# Of an image that is only looked at: nothing covers its corner, and no button sends it anywhere.
SHOWN = {"interactive": False, "format": "png", "show_label": False, "buttons": ["download", "fullscreen"]}
TABLE_HEADER = ["file", "label", "score", "remark"]
NOTE = (
    "The labels name the section that a garment is sold in, not who wears it. "
    "Images stay on the machine that this page runs on."
)


class ContourDrawer:
    """Draws contours with an extractor's folder, for the second tab.

    Raises:
        ValueError: If the folder holds another kind of model.
    """

    def __init__(self, folder: str | Path) -> None:
        model = load_model(str(folder))
        if not isinstance(model, ContourExtractorForPreTraining):
            raise ValueError(f"{folder} holds a {model.config.model_type} model; expected an extractor's folder.")
        self.model, self.processor = model.eval(), ContourImageProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def draw(self, path: str, threshold: float, thin: bool) -> Image.Image:
        """Contours black on white, of the image's size; soft without a threshold above 0."""
        image = opened(path, self.processor)
        own = processor_for(image, self.processor, MAX_SIDE)
        outputs = self.model(pixel_values=own(image, return_tensors="pt")["pixel_values"])
        sizes = [(image.height, image.width)]
        maps = own.post_process_contours(outputs, sizes, threshold=threshold or None, thin=thin)
        return contour_image(maps[0].float().numpy())


def opened(path: str, processor: ContourImageProcessor) -> Image.Image:
    """The image of an uploaded file, by its own name in messages rather than that of the server's copy."""
    return open_image(path, name=Path(path).name, **processor.opening_whole)


def garments() -> list[Image.Image]:
    """The drawn garments that can be picked."""
    return [draw_garment(index, seed=1, size=(GARMENT_SIDE, GARMENT_SIDE)).image for index in range(NUM_GARMENTS)]


def answer(classifier: Classifier, image: Image.Image) -> tuple[str, Image.Image, str]:
    """The label in Markdown, the explanation as an image, and its lines."""
    explanation = explain(classifier, image)
    score = explanation.scores[explanation.predicted]
    decided = f"## {explanation.predicted} {score:.3f}"
    if explanation.abstained:
        decided = f"## undecided\n{explanation.abstained}; it would be {explanation.predicted}"
    return decided, draw_explanation(explanation), explanation.text


def table(classifier: Classifier, paths: Sequence[str]) -> list[list[Any]]:
    """A row `file, label, score, remark` for each file, in order of names; the remark says why there is no label."""
    # The server keeps each file in a folder of its own, called by its content.
    by_name = sorted(paths, key=lambda path: (Path(path).name, path))
    return [_row(classifier, path) for path in by_name[:MAX_FILES]]


def _row(classifier: Classifier, path: str) -> list[Any]:
    name = Path(path).name
    try:
        image = opened(path, classifier.processor)
    except ImageReadError as error:
        return [name, "", None, str(error)]
    score, index = classifier.probabilities(classifier.logits(classifier.pixel_values(image)))[0].max(dim=0)
    unsure = not classifier.several and score.item() < classifier.model.config.abstain_threshold
    return [
        name,
        classifier.names[int(index)],
        round(score.item(), 4),
        "below the abstain threshold" if unsure else "",
    ]


def build_demo(model: str | Path, *, extractor: str | Path | None = None) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        model: folder of a classifier.
        extractor: folder of an extractor with its single-channel layer; without one there is no second tab.

    Raises:
        ImportError: If Gradio is not installed.
        ValueError: If a folder holds another kind of model.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The demo needs Gradio: pip install "hf_contour[demo]".') from error
    classifier = load_classifier(model)
    drawer = ContourDrawer(extractor) if extractor else None
    with gradio.Blocks(title="hf_contour", analytics_enabled=False) as page:
        gradio.Markdown(f"# {Path(model).resolve().name}\n{NOTE}")
        with gradio.Tab("Classify"):
            _classify_tab(gradio, classifier)
        if drawer:
            with gradio.Tab("Contours"):
                _contour_tab(gradio, drawer)
        with gradio.Tab("Folder"):
            _folder_tab(gradio, classifier)
    return page


def _classify_tab(gradio: Any, classifier: Classifier) -> None:
    drawn = garments()
    with gradio.Row():
        with gradio.Column(scale=1):
            # Not gradio.Image, which opens files itself and turns a broken one into an error without a sentence.
            upload = gradio.File(label="your image", elem_id="image")
            gradio.Markdown("or a drawn garment")
            # No height and no label over the images: all are seen whole. Three columns would not fit.
            gallery = gradio.Gallery(drawn, show_label=False, columns=2, elem_id="garments", buttons=[])
        with gradio.Column(scale=3):
            decided = gradio.Markdown(elem_id="answer")
            why = gradio.Image(elem_id="why", **SHOWN)
            lines = gradio.Textbox(label="in figures", elem_id="figures", lines=6)

    def of_file(path: str) -> tuple[str, Any, str]:
        try:
            return answer(classifier, opened(path, classifier.processor))
        except ValueError as error:
            return str(error), None, ""

    def of_garment(event: gradio.SelectData) -> tuple[str, Any, str]:
        return answer(classifier, drawn[event.index])

    upload.upload(of_file, upload, [decided, why, lines])
    gallery.select(of_garment, None, [decided, why, lines])


def _contour_tab(gradio: Any, drawer: ContourDrawer) -> None:
    with gradio.Row():
        with gradio.Column(scale=1):
            upload = gradio.File(label="your image", elem_id="contour_image")
            threshold = gradio.Slider(0, 0.99, value=0.5, step=0.01, label="threshold; 0 draws the soft map")
            thin = gradio.Checkbox(True, label="thin lines")
        with gradio.Column(scale=3):
            remark = gradio.Markdown()
            contours = gradio.Image(elem_id="contours", **SHOWN)

    def draw(path: str | None, threshold: float, thin: bool) -> tuple[str, Any]:
        if path is None:
            return "", None
        try:
            return "", drawer.draw(path, threshold, thin)
        except ValueError as error:
            return str(error), None

    for changed in (upload.upload, threshold.release, thin.change):
        changed(draw, [upload, threshold, thin], [remark, contours])


def _folder_tab(gradio: Any, classifier: Classifier) -> None:
    folder = gradio.File(label=f"a folder of images, up to {MAX_FILES}", file_count="directory", elem_id="folder")
    rows = gradio.Dataframe(headers=TABLE_HEADER, elem_id="table", interactive=False)
    folder.upload(lambda paths: table(classifier, paths), folder, rows)
