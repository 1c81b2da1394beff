"""The demo: what stands behind the page, and the page itself in a browser."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.demo import ContourDrawer, answer, garments, table
from hf_contour.inference.explain import load_classifier

ROOT = Path(__file__).resolve().parents[2]
START = 900  # seconds; importing Gradio takes minutes on a busy machine
# Of each drawn garment, whether it lies within the visible part of the gallery.
GARMENTS_SEEN = """
const seen = document.querySelector("#garments .grid-wrap");
if (!seen) return [];
const box = seen.getBoundingClientRect();
return [...seen.querySelectorAll("img")].map(it => it.getBoundingClientRect()).map(it => it.width > 50
    && it.left >= box.left && it.right <= box.left + seen.clientWidth
    && it.top >= box.top && it.bottom <= box.top + seen.clientHeight);
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {"classifier": tiny_classifier(abstain_threshold=0.99), "extractor": tiny_extractor()}
    for name, model in made.items():
        model.save_pretrained(root / name)
        ContourImageProcessor(size={"height": 64, "width": 64}).save_pretrained(root / name)
    return {name: root / name for name in made}


def test_the_answer_says_that_and_why_there_is_none(folders):
    decided, why, figures = answer(load_classifier(folders["classifier"]), draw_garment(0).image)
    assert decided.startswith("## undecided\nundecided: the highest score 0.")
    assert "lies below the abstain threshold 0.990; it would be LABEL_" in decided
    assert why.width > 300
    assert "without colour" in figures


def test_a_broken_file_costs_only_its_own_row(folders, tmp_path):
    paths = [tmp_path / "0" / "b.png", tmp_path / "1" / "a.jpg"]  # each in a folder of its own, as Gradio keeps them
    for path in paths:
        path.parent.mkdir()
    draw_garment(1).image.save(paths[0])
    paths[1].write_bytes(b"<html>not found</html>")
    rows = table(load_classifier(folders["classifier"]), [str(path) for path in paths])
    assert [row[0] for row in rows] == ["a.jpg", "b.png"]
    assert rows[0][1:3] == ["", None]
    assert rows[0][3].startswith("a.jpg: ")
    assert rows[1][1].startswith("LABEL_")
    assert rows[1][3] == "below the abstain threshold"


def test_contours_are_drawn_black_on_white_at_the_images_size(folders, tmp_path):
    draw_garment(1, size=(50, 70)).image.save(tmp_path / "b.png")
    drawer = ContourDrawer(folders["extractor"])
    soft = np.asarray(drawer.draw(str(tmp_path / "b.png"), 0, False))
    thin = np.asarray(drawer.draw(str(tmp_path / "b.png"), 0.5, True))
    assert soft.shape == thin.shape == (50, 70, 3)
    assert set(np.unique(thin)) <= {0, 255}
    with pytest.raises(ValueError, match="contour_gender model; expected an extractor"):
        ContourDrawer(folders["classifier"])


def test_six_different_garments_can_be_picked():
    assert len({image.tobytes() for image in garments()}) == 6


@pytest.fixture
def page(folders, tmp_path):
    """The address of a running `hf-contour demo`."""
    pytest.importorskip("gradio", exc_type=ImportError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["demo", "--model", folders["classifier"], "--extractor", folders["extractor"], "--port", port]
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "hf_contour", *map(str, words)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        limit = time.monotonic() + START
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


# Asks the page of a guide's block for the scores of an image through its server.
ASKING = """
import json
from gradio_client import Client, handle_file
_, address, _ = page.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
answer = Client(address, verbose=False).predict(handle_file("docs/garment.png"), api_name="/scores")
print(json.dumps([classify("docs/garment.png"), answer]))
"""


@pytest.mark.slow
def test_the_guides_page_of_a_pipeline_answers_as_the_pipeline():
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("Gradio is not installed")
    guide = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(import gradio\n.*?)```", guide, flags=re.DOTALL)
    words = [sys.executable, "-c", block + ASKING]
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=START)
    assert found.returncode == 0, found.stderr
    scores, answer = json.loads(found.stdout.splitlines()[-1])
    assert answer["label"] == scores[0]["label"] == "women"
    expected = [(one["label"], pytest.approx(one["score"])) for one in scores]
    assert [(one["label"], one["confidence"]) for one in answer["confidences"]] == expected


@pytest.fixture
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium and its driver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1100"):
        options.add_argument(flag)
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_in_a_browser_an_image_goes_in_and_label_and_contours_come_out(page, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    folder = tmp_path / "folder"
    folder.mkdir()
    draw_garment(2, size=(128, 96)).image.save(folder / "shirt.png")
    (folder / "broken.png").write_bytes(b"<html>not found</html>")
    screenshots = Path(os.environ.get("HF_CONTOUR_SCREENSHOTS", tmp_path))
    wait = WebDriverWait(browser, START)

    def one(selector):
        return wait.until(lambda it: it.find_elements(By.CSS_SELECTOR, selector))[0]

    def shows(selector, words):
        wait.until(lambda it: words in it.find_element(By.CSS_SELECTOR, selector).text)

    browser.get(page)
    wait.until(lambda it: it.execute_script(GARMENTS_SEEN) == [True] * 6)
    one("#image input[type=file]").send_keys(str(folder / "shirt.png"))
    shows("#answer", "it would be LABEL_")
    drawn = one("#why img")
    wait.until(lambda it: int(drawn.get_property("naturalWidth")) > 300)
    buttons = browser.find_elements(By.CSS_SELECTOR, "#why button[aria-label]")
    assert {it.get_attribute("aria-label") for it in buttons} == {"Download", "Fullscreen"}  # no "Share"
    browser.save_screenshot(str(screenshots / "demo_classify.png"))

    before = one("#figures textarea").get_property("value")
    one("#garments button img").click()
    wait.until(lambda it: it.find_element(By.CSS_SELECTOR, "#figures textarea").get_property("value") != before)

    browser.get(page)
    one("#image input[type=file]").send_keys(str(folder / "broken.png"))
    shows("#answer", "broken.png: an HTML page")

    wait.until(lambda it: it.find_elements(By.CSS_SELECTOR, "button[role=tab]"))[1].click()
    one("#contour_image input[type=file]").send_keys(str(folder / "shirt.png"))
    contours = one("#contours img")
    wait.until(lambda it: int(contours.get_property("naturalWidth")) == 96)
    browser.save_screenshot(str(screenshots / "demo_contours.png"))

    browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")[2].click()
    one("#folder input[type=file]").send_keys(str(folder))
    shows("#table", "below the abstain threshold")
    shown = one("#table").text
    assert shown.index("broken.png: an HTML page") < shown.index("shirt.png")
    browser.save_screenshot(str(screenshots / "demo_folder.png"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_folder_for_a_space_builds_the_page(folders):
    pytest.importorskip("gradio", exc_type=ImportError)
    words = [sys.executable, "-c", "import app; print(type(app.page).__name__)"]
    environment = os.environ | {"MODEL": str(folders["classifier"])}
    found = subprocess.run(
        words, cwd=ROOT / "model_cards" / "demo", env=environment, capture_output=True, text=True, timeout=START
    )
    assert found.stdout.strip().endswith("Blocks"), found.stderr
