"""The demo: what stands behind the page, and the page itself in a browser."""

import os
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
    draw_garment(1).image.save(tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"<html>not found</html>")
    rows = table(load_classifier(folders["classifier"]), [str(tmp_path / name) for name in ("b.png", "a.jpg")])
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

    draw_garment(2, size=(128, 96)).image.save(tmp_path / "shirt.png")
    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    screenshots = Path(os.environ.get("HF_CONTOUR_SCREENSHOTS", tmp_path))
    wait = WebDriverWait(browser, START)

    def one(selector):
        return wait.until(lambda it: it.find_elements(By.CSS_SELECTOR, selector))[0]

    def shows(selector, words):
        wait.until(lambda it: words in it.find_element(By.CSS_SELECTOR, selector).text)

    browser.get(page)
    one("#image input[type=file]").send_keys(str(tmp_path / "shirt.png"))
    shows("#answer", "it would be LABEL_")
    drawn = one("#why img")
    wait.until(lambda it: int(drawn.get_property("naturalWidth")) > 300)
    browser.save_screenshot(str(screenshots / "demo_classify.png"))

    before = one("#figures textarea").get_property("value")
    one("#garments button img").click()
    wait.until(lambda it: it.find_element(By.CSS_SELECTOR, "#figures textarea").get_property("value") != before)

    browser.get(page)
    one("#image input[type=file]").send_keys(str(tmp_path / "broken.png"))
    shows("#answer", "broken.png: an HTML page")

    wait.until(lambda it: it.find_elements(By.CSS_SELECTOR, "button[role=tab]"))[1].click()
    one("#contour_image input[type=file]").send_keys(str(tmp_path / "shirt.png"))
    contours = one("#contours img")
    wait.until(lambda it: int(contours.get_property("naturalWidth")) == 96)
    browser.save_screenshot(str(screenshots / "demo_contours.png"))


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
