"""Settings as fields of dataclasses, and the flags of a command from them; quick, since torch is not imported."""

import argparse
import difflib
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def setting(
    default: Any, text: str, *, least: float | None = None, most: float = math.inf, neutral: bool = False, **more: Any
) -> Any:
    """A field of the settings of a command.

    Args:
        default: its value where none is given; `MISSING` where one must be.
        text: for `--help`.
        least: lowest value of a number.
        most: highest value of a number.
        neutral: it changes where and how fast a training runs, not what comes out; a resumed run may change it.
        more: `positional=True` for what goes without a name, `choices` of a word.
    """
    metadata = {"help": text, "neutral": neutral, "range": None if least is None else (least, most), **more}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def needed(text: str, **more: Any) -> Any:
    """A field of the settings without a default; see `setting`."""
    return setting(MISSING, text, **more)


def check_least(settings: Any, lowest: Mapping[str, int]) -> None:
    """Refuses settings below the lowest value of each.

    Raises:
        ValueError: Naming the setting.
    """
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} is {getattr(settings, name)}; expected at least {least}.")


class FlagParser(argparse.ArgumentParser):
    """Reads a command line into a dataclass.

    Each field is a flag (`batch_size` is `--batch_size` or `--batch-size`), `metadata["help"]` its help; a field with
    `metadata["positional"]` goes without a name. A boolean is `--cpu` or `--no_cpu`, also `--cpu true`; the word
    `none` stands for nothing where a field may be `None`.

    Args:
        settings: the dataclass.
        prog: the command as it is typed.
        description: what the command does, shown as it is written.
    """

    def __init__(self, settings: type[Any], *, prog: str | None = None, description: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=" ".join(["%(prog)s", *_positional_names(settings), "[SETTINGS]"]),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._settings = settings
        self._hints = get_type_hints(settings)
        for item in fields(settings):
            self._add_field(item)

    def parse_settings(self, argv: Sequence[str]) -> Any:
        """The settings that a command line gives, an instance of the dataclass.

        Raises:
            ValueError: For an unknown flag (the nearest are named), a missing or an impossible value.
        """
        found = self._parse(argv, argparse.Namespace())
        return self._settings(**{name: getattr(found, name) for name in self._hints})

    def parse_given(self, argv: Sequence[str]) -> dict[str, Any]:
        """Only what the command line itself says, by the names of the settings and of further arguments.

        Raises:
            ValueError: As `parse_settings`.
        """
        absent = object()
        found = self._parse(argv, argparse.Namespace(**{action.dest: absent for action in self._actions}))
        return {name: value for name, value in vars(found).items() if value is not absent}

    def _parse(self, argv: Sequence[str], namespace: argparse.Namespace) -> argparse.Namespace:
        words = self._plain(argv)
        flags = {word.split("=")[0] for word in words if word[:2] == "--"}
        for unknown in sorted(flags - set(self._option_string_actions)):
            known = {name[2:] for name in self._option_string_actions if name[:2] == "--"}
            raise ValueError(f"{unknown!r} is no setting; {nearest(unknown[2:], known)}")
        found, remaining = self.parse_known_args(words, namespace)
        if remaining:
            raise ValueError(f"{remaining[0]!r} is one word too many; --help shows examples.")
        return argparse.Namespace(**{name: None if value == [None] else value for name, value in vars(found).items()})

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print together with the usage."""
        raise ValueError(f"{message.removeprefix('argument ')}; --help lists every setting.")

    def _add_field(self, item: Field[Any]) -> None:
        hint, default = self._hints[item.name], item.default
        if default is MISSING and item.default_factory is not MISSING:
            default = item.default_factory()
        options: dict[str, Any] = {"help": _help(item, default)}
        names = [item.name if item.metadata.get("positional") else f"--{item.name}"]
        if hint is bool:
            self.add_argument(
                *names, f"--no_{item.name}", action=_Switch, nargs=0, default=default, help=options["help"]
            )
            return
        options |= _value_options(hint)
        if "choices" in item.metadata:
            options["choices"] = item.metadata["choices"]
        if default is not MISSING:
            options["default"] = default
        if item.metadata.get("positional"):
            if default is not MISSING:
                options["nargs"] = "*" if options.get("nargs") else "?"
        else:
            options |= {"required": default is MISSING, "metavar": item.name.rsplit("_", 1)[-1].upper()}
        self.add_argument(*names, **options)

    def _plain(self, argv: Sequence[str]) -> list[str]:
        """The command line with underscores in its flags, and `--name true` as `--name`."""
        plain: list[str] = []
        for word in argv:
            if plain and word.lower() in _TRUTHS and self._hints.get(plain[-1][2:]) is bool:
                word = f"{plain.pop()}={word}"
            if not word.startswith("--"):
                plain.append(word)
                continue
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if self._hints.get(name) is bool and value.lower() in _TRUTHS:
                plain.append(f"--{name}" if _TRUTHS[value.lower()] else f"--no_{name}")
            else:
                plain.append(f"--{name}{equals}{value}")
        return plain


def _positional_names(settings: type[Any]) -> list[str]:
    return [item.name.upper() for item in fields(settings) if item.metadata.get("positional")]


class _Switch(argparse.Action):
    """`--name` or `--no_name`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no_"))


def nearest(name: str, known: set[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones."""
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"nearest: {', '.join(close)}." if close else "see --help for all of them."


def named_file(name: str, folder: Path, *, kind: str) -> Path:
    """The file of that path, or the YAML file of that name in a folder of the package.

    Raises:
        ValueError: If there is neither; names those of the package.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in shipped:
        raise ValueError(
            f"The {kind} {name} cannot be read: it is no file, and none of the package; "
            f"those are {', '.join(shipped)}."
        )
    return shipped[name]


def _help(item: Field[Any], default: Any) -> str:
    text = str(item.metadata.get("help", "")).replace("%", "%%")
    shown = " ".join(map(str, default)) if isinstance(default, list) else default
    if default in (MISSING, None, False, "", []):
        return text
    return f"{text} (default: {shown})".replace("default: True)", "default: yes)")


def _value_options(hint: Any) -> dict[str, Any]:
    """What argparse has to know of the values of a type."""
    parts = [part for part in get_args(hint) if part is not types.NoneType]
    is_optional = get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint)
    inner = hint if get_origin(hint) not in (Union, types.UnionType) else str if str in parts else parts[0]
    if get_origin(inner) is Literal:
        return {"type": _converter(str, is_optional=is_optional), "choices": get_args(inner)}
    if get_origin(inner) is list:
        return {"type": _converter(get_args(inner)[0], is_optional=is_optional), "nargs": "+"}
    return {"type": _converter(inner, is_optional=is_optional)}


def _converter(kind: Callable[[str], Any], *, is_optional: bool) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        if is_optional and text == "none":
            return None
        try:
            return kind(text)
        except ValueError as error:
            expected = {"int": "a whole number", "float": "a number"}.get(getattr(kind, "__name__", ""), "a value")
            raise argparse.ArgumentTypeError(f"{text!r} came; expected {expected}") from error

    return convert
