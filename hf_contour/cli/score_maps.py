"""Score edge maps of any program by the boundary benchmark of BSDS500: ODS, OIS, AP and R50.

    hf-contour score-maps path/to/maps --data path/to/bsds500 --split test
    hf-contour score-maps maps.parquet --data path/to/bsds500 --no_nms --output scores.json

The maps are a folder of NAME.png (grey, strong edges bright) or NAME.npy (0..1), NAME the image's, or a Parquet file
with the columns image_id and boundary_map_npy; each as large as its image. Soft maps are thinned to their crests
first, as the benchmark does for all; --no_nms for maps that are thin already. The data is whatever
`hf-contour train` takes for contours. About two seconds an image and core. Exit codes: 0 done, 2 refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_contour.cli.settings import command_line, read_settings
from hf_contour.flags import needed, setting
from hf_contour.metrics.boundary import MAX_DIST


@dataclass
class MapScoringArguments:
    """Which maps to score, and against what."""

    maps: str = needed("folder of maps, or Parquet file", positional=True)
    data: str = needed("data set with contour maps: BSDS folder, folder, Parquet or Hub id")
    split: str = setting("test", "its split")
    id_column: str = setting("image_id", "column of the images' names; where there is none, their file names")
    nms: bool = setting(True, "reduce soft maps to their crests first")
    max_dist: float = setting(MAX_DIST, "largest distance of a match, in diagonals")
    num_processes: int = setting(1, "processes that match")
    output: str | None = setting(None, "JSON file for scores and protocol")


def main(argv: Sequence[str]) -> int:
    """Scores, and prints the figures."""
    arguments = read_settings(MapScoringArguments, argv, command="score-maps", description=__doc__)
    from hf_contour.data.sources import load_source
    from hf_contour.metrics.boundary.curves import edge_scores
    from hf_contour.metrics.boundary.edge_maps import count_edge_maps, maps_in_folder, maps_in_parquet
    from hf_contour.metrics.boundary.scores import protocol

    path = Path(arguments.maps)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; expected a folder of maps, or a Parquet file.")
    maps = maps_in_folder(path) if path.is_dir() else maps_in_parquet(path, id_column=arguments.id_column)
    settings = {"nms": arguments.nms, "max_dist": arguments.max_dist}
    counts = count_edge_maps(
        maps,
        load_source(arguments.data, split=arguments.split),
        id_column=arguments.id_column,
        num_processes=arguments.num_processes,
        **settings,
    )
    scores = edge_scores(counts)
    figures = {name: getattr(scores, name) for name in ("ods", "ois", "ap", "r50")}
    shown = [f"{name.upper()} {'-' if value is None else format(value, '.4f')}" for name, value in figures.items()]
    print(f"{len(counts)} images: {', '.join(shown)}; ODS at threshold {scores.ods_point.threshold}")
    if arguments.output:
        content = {"scores": figures, "protocol": protocol(**settings), "command": command_line("score-maps", argv)}
        output = Path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0
