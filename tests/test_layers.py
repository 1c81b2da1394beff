"""The packages import each other in one direction; CONTRIBUTING.md draws it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hf_contour"
# Package -> those that it may import, besides the files at the root and itself.
ALLOWED = {
    "cli": {"training", "evaluation", "inference", "hub", "data", "metrics", "io"},
    "training": {"evaluation", "data", "metrics", "io"},
    "inference": {"evaluation", "data", "metrics", "io"},
    "hub": {"evaluation", "data", "metrics", "io"},
    "evaluation": {"data", "metrics", "io"},
    "metrics": {"data", "io"},
    "data": {"io"},
    "io": set(),
}
# What the files at the root may import of the packages: nothing, but for the two that start them.
ROOT = {"__init__": {"hub"}, "__main__": {"cli"}}


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("hf_contour.")}


def test_imports_run_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).with_suffix("").parts
        is_root = len(place) == 1 and place[0] != "io"
        allowed = ROOT.get(place[0], set()) if is_root else ALLOWED[place[0]] | {place[0]}
        wrong += [f"{path.relative_to(PACKAGE)} imports {name}" for name in imported(path) & set(ALLOWED) - allowed]
    assert wrong == []


def test_data_and_metrics_know_no_model():
    for package in ("data", "metrics"):
        for path in (PACKAGE / package).rglob("*.py"):
            assert not {name for name in imported(path) if name.startswith("modeling_")}, path
