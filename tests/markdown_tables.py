"""Reads tables of Markdown back, so that tests ask for figures and not for strings."""


def read_tables(text: str) -> list[list[dict[str, str]]]:
    """Every table of a text: its rows by the words of the header; columns of one name are numbered from the second."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if header is None:
            header = [
                f"{name} {cells[:k].count(name) + 1}" if name in cells[:k] else name for k, name in enumerate(cells)
            ]
            tables.append([])
        elif set(cells) != {"---"}:
            tables[-1].append(dict(zip(header, cells, strict=True)))
    return tables


def read_table(text: str) -> list[dict[str, str]]:
    """The only table of a text."""
    (table,) = read_tables(text)
    return table
