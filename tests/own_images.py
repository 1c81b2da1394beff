"""Small class folders of drawn garments, as a user would have them."""

from pathlib import Path

from hf_contour.data.garments.drawing import draw_garment


def write_class_folders(folder: Path, *, per_class: int = 6, copies: int = 0, seed: int = 3) -> Path:
    """Drawn garments of two classes, and copies of the first of each as JPEG."""
    count = {"men": 0, "women": 0}
    for index in range(20 * per_class):
        sample = draw_garment(index, seed=seed, size=(96, 72))
        name = ("men", "women")[sample.label]
        if count[name] == per_class:
            continue
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        sample.image.save(place / f"{count[name]}.png")
        for copy in range(copies if count[name] == 0 else 0):
            sample.image.save(place / f"copy{copy}.jpg", quality=90 - copy)
        count[name] += 1
    return folder
