"""Inputs of any kind become rows in a stable order, dealt into parts by number of rows."""

import csv
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prediction_images import image_bytes

from hf_contour.image_processing_contour import ImageReadError, open_image
from hf_contour.inference.listing import read_parts, write_listing
from hf_contour.inference.parts import Columns, Item, Part, cell_content, read_part


def listed(
    folder: Path, inputs: list[Any], *, rows_per_part: int = 100, columns: Columns | None = None, **options: Any
) -> tuple[list[Part], list[Item]]:
    columns = columns or Columns()
    listing = folder / "listing"
    listing.mkdir()
    write_listing(listing, [str(one) for one in inputs], rows_per_part=rows_per_part, columns=columns, **options)
    parts = read_parts(listing)
    return parts, [item for part in parts for item in read_part(part, listing, columns)]


def colour_of(item: Item) -> tuple[int, ...]:
    image = open_image(item.source())
    return tuple(image.resize((1, 1)).getpixel((0, 0)))


def test_folders_are_listed_by_name_in_parts_of_so_many_rows(images: Path, tmp_path: Path) -> None:
    parts, items = listed(tmp_path, [images], rows_per_part=10)
    assert [part.num_rows for part in parts] == [10, 10, 3]
    names = [item.id for item in items]
    assert names == sorted(str(path) for path in images.rglob("*.*"))


def test_litter_is_left_out_and_links_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("a.jfif", "dir.jpg/b.JPG", ".hidden.jpg", "._a.jpg", ".ipynb_checkpoints/a.jpg", "@eaDir/a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes(0, "jpeg"))
    (folder / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").write_bytes(image_bytes(1))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "dir.jpg" / "circle").symlink_to(folder)
    _, items = listed(tmp_path, [folder])
    assert [item.id.removeprefix(f"{folder}/") for item in items] == ["a.jfif", "dir.jpg/b.JPG", "link/c.png"]


def test_odd_names_are_found_and_read(tmp_path: Path) -> None:
    """Patterns, other encodings, and names of as many characters as a disk takes."""
    folder = tmp_path / "a[1] {b} * ? :: c"
    folder.mkdir()
    names = [b"caf\xe9.png", b"[x].png", b"a*b?.png", b"x" * 245 + b".png"]
    for number, name in enumerate(names):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(image_bytes(number))
    _, items = listed(tmp_path, [folder])
    assert len(items) == 4
    assert all(open_image(item.source()).mode == "RGB" for item in items)
    assert rf"{folder}/caf\xe9.png" in [item.id for item in items]
    assert all(item.id.encode("utf-8") for item in items)


def test_a_folder_without_images_or_an_absent_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"texts holds no image .*; it holds 1 \.txt"):
        listed(tmp_path, [tmp_path / "texts"])
    with pytest.raises(FileNotFoundError, match=r"gone\.png is not there"):
        write_listing(tmp_path / "listing", ["gone.png"], rows_per_part=1, columns=Columns())


def test_the_output_within_an_input_folder_is_left_out(images: Path, tmp_path: Path) -> None:
    outside = images / "b"
    _, items = listed(tmp_path, [images], outside=outside)
    assert {Path(item.id).parent for item in items} == {images}


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), (",", "latin-1")]
)
def test_csv_rows_are_read_whatever_separator_and_encoding(tmp_path: Path, separator: str, encoding: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(image_bytes(0))
    other = os.fsdecode("é.png".encode("latin-1" if encoding == "latin-1" else "utf-8"))
    (tmp_path / "in" / other).write_bytes(image_bytes(1))
    text = io.StringIO()
    table = csv.writer(text, delimiter=separator)
    table.writerows([["sku", " photo ", "label"], ["x1", "in/0.png", ""], ["x,2", "in/é.png", "-1"], ["x3", "", ""]])
    (tmp_path / "table.csv").write_bytes(text.getvalue().encode(encoding))
    _, items = listed(tmp_path, [tmp_path / "table.csv"], columns=Columns(image="photo", id="sku"))
    assert [item.id for item in items] == ["x1", "x,2", "x3"]
    assert all(open_image(item.source()) for item in items[:2])
    with pytest.raises(ImageReadError, match="x3: there is no image"):
        items[2].source()


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("photo,sku\na.png,1\n")
    with pytest.raises(ValueError, match=r"no column 'image'; its columns are \['photo', 'sku'\].*--image_column"):
        listed(tmp_path, [tmp_path / "table.csv"])
    pq.write_table(pa.table({"photo": [b"x"]}), tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=r"no column 'image'; its columns are \['photo'\]"):
        write_listing(tmp_path / "listing", [str(tmp_path / "table.parquet")], rows_per_part=1, columns=Columns())


def test_parquet_rows_by_row_groups_whatever_a_cell_holds(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(image_bytes(0))
    contents = [image_bytes(seed) for seed in range(7)]
    struct = [{"bytes": content, "path": None} for content in contents[:5]] + [{"bytes": None, "path": "0.png"}, None]
    pq.write_table(pa.table({"image": struct, "label": [None] * 7}), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(pa.table({"image": contents, "sku": range(7)}), tmp_path / "b.parquet", row_group_size=3)
    pq.write_table(pa.table({"image": [[content] for content in contents]}), tmp_path / "c.parquet")
    parts, items = listed(tmp_path, [tmp_path / "a.parquet"], rows_per_part=4)
    assert [(part.start, part.stop, part.num_rows) for part in parts] == [(0, 2, 4), (2, 4, 3)]
    assert [item.id for item in items] == [f"{tmp_path}/a.parquet#{number}" for number in range(7)]
    assert [item.source() for item in items[:5]] == contents[:5]
    assert items[5].source() == f"{tmp_path}/0.png"
    with pytest.raises(ImageReadError, match=r"a\.parquet#6: there is no image"):
        items[6].source()
    (tmp_path / "second").mkdir()
    _, items = listed(tmp_path / "second", [tmp_path / "b.parquet"], columns=Columns(id="sku"))
    assert [(item.id, item.source()) for item in items] == [(str(n), contents[n]) for n in range(7)]
    (tmp_path / "third").mkdir()
    _, items = listed(tmp_path / "third", [tmp_path / "c.parquet"])
    assert [item.source() for item in items] == contents


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_tars_are_parts_and_a_damaged_one_says_so_in_a_row(tmp_path: Path) -> None:
    members = {"0.jpg": image_bytes(0, "jpeg"), "0.cls": b"1", "x/1.png": image_bytes(1), "x/._1.png": b""}
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", members)
    write_tar(tmp_path / "shards" / "b.tar.gz", members, "w:gz")
    whole = (tmp_path / "shards" / "a.tar").read_bytes()
    (tmp_path / "shards" / "c.tar").write_bytes(whole[: len(image_bytes(0, "jpeg")) + 700])
    parts, items = listed(tmp_path, [tmp_path / "shards"])
    assert [part.kind for part in parts] == ["tar"] * 3
    assert [item.id.removeprefix(f"{tmp_path}/shards/") for item in items[:4]] == [
        "a.tar::0.jpg",
        "a.tar::x/1.png",
        "b.tar.gz::0.jpg",
        "b.tar.gz::x/1.png",
    ]
    assert items[3].source() == image_bytes(1)
    with pytest.raises(ImageReadError, match=r"c\.tar: a damaged tar"):
        items[-1].source()


def test_addresses_of_other_file_systems(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/shop/b/1.png", image_bytes(1))
    system.pipe("/shop/0.png", image_bytes(0))
    system.pipe("/shop/.hidden.png", b"")
    (tmp_path / "0.png").write_bytes(image_bytes(0))
    inputs = ["memory://shop", f"file://{tmp_path}/0.png", "memory://shop/*.png", "memory://gone.png"]
    _, items = listed(tmp_path, inputs[:3])
    names = ["memory:///shop/0.png", "memory:///shop/b/1.png", inputs[1], "memory:///shop/0.png"]
    assert [item.id for item in items] == names
    assert [item.source() for item in items] == [image_bytes(seed) for seed in (0, 1, 0, 0)]
    with pytest.raises(FileNotFoundError, match=r"memory://gone\.png is not there"):
        write_listing(tmp_path / "listing", inputs[3:], rows_per_part=1, columns=Columns())
    with pytest.raises(ImageReadError, match=r"memory://lost\.png: cannot be fetched"):
        Item("memory://lost.png", "memory://lost.png").source()


def test_a_data_set_is_read_without_its_labels(tmp_path: Path) -> None:
    """Labels that are blank, unknown or -1 are no business of a prediction."""
    rows = [{"bytes": image_bytes(seed), "path": None} for seed in range(5)]
    (tmp_path / "set").mkdir()
    table = pa.table({"photo": rows, "label": [None, -1, None, 0, 7], "sku": list("abcde")})
    pq.write_table(table, tmp_path / "set" / "test.parquet")
    columns = Columns(image="photo", id="sku")
    parts, items = listed(tmp_path, [], data=str(tmp_path / "set"), columns=columns)
    assert [part.kind for part in parts] == ["data"]
    assert [(item.id, item.source()) for item in items] == [(name, rows[n]["bytes"]) for n, name in enumerate("abcde")]


def test_cells_are_taken_from_where_the_table_lies() -> None:
    text = "iVBORw0KGgo//w" * 50
    assert cell_content("a/b.png", "/data/t.csv") == "/data/a/b.png"
    assert cell_content("/a.png", "/data/t.csv") == "/a.png"
    assert cell_content("a.png", "s3://bucket/x/t.csv") == "s3://bucket/x/a.png"
    assert cell_content("s3://b/a.png", "/data/t.csv") == "s3://b/a.png"
    assert cell_content(text, "/data/t.csv") == text
    assert cell_content("data:image/png;base64,iVBO", "/data/t.csv") == "data:image/png;base64,iVBO"


def test_images_as_text(tmp_path: Path) -> None:
    import base64

    content = image_bytes(3)
    text = base64.encodebytes(content).decode()
    assert Item("x", text).source() == content
    assert Item("x", f"data:image/png;base64,{text}").source() == content
    assert open_image(Item("x", content).source()).size == Image.open(io.BytesIO(content)).size
