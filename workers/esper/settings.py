"""Settings of processes: fields with a description, set by arguments, the environment and a YAML file, in this order.

A field whose type is another ``Settings`` is a section: its own environment prefix, and a mapping of that name in the
file. Everything that is wrong is said at once, and no value is repeated: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from esper.errors import BadInput, ManifestError


class Settings(BaseSettings):
    """Base of all settings; a subclass sets ``env_prefix`` in its ``model_config``. Made by ``load_settings``."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True, env_ignore_empty=False
    )
    file_values: ClassVar[Mapping[str, Any]] = {}
    """What the file says; only in the class that ``load_settings`` derives for one call."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(cls.file_values))

    @classmethod
    def prefix(cls) -> str:
        """What the names of its environment variables begin with."""
        return str(cls.model_config.get("env_prefix", ""))


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], file: Path | None = None, *, what: str = "settings", **given: Any) -> S:
    """Settings from arguments, the environment and ``file`` (YAML), in this order.

    Raises:
        ManifestError: names each field that is wrong or missing, and never repeats its value.
        BadInput: the file can't be read or is not a mapping.
    """
    values = {} if file is None else _read(file)
    problems: list[str] = []
    made = _made(kind, values, given, problems, "")
    if made is None:
        raise ManifestError(problems, f"{what}{f' ({file})' if file else ''}")
    return made


def sections(kind: type[Settings]) -> dict[str, type[Settings]]:
    """The fields of ``kind`` that are settings of their own, by name."""
    return {
        name: field.annotation
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }


def _made(
    kind: type[S], values: Mapping[str, Any], given: Mapping[str, Any], problems: list[str], path: str
) -> S | None:
    own, given, failed = dict(values), dict(given), set[str]()
    for name, section in sections(kind).items():
        said = own.pop(name, None) or {}
        if name in given:
            continue
        if not isinstance(said, Mapping):
            problems.append(f"{path}{name}: must be a mapping of settings")
            failed.add(name)
            continue
        made = _made(section, said, {}, problems, f"{path}{name}.")
        if made is None:
            failed.add(name)
        else:
            given[name] = made
    # A class for this call only, so that the file's values are seen by no other.
    derived = type(kind.__name__, (kind,), {"file_values": own, "__module__": kind.__module__})
    try:
        settings: S = derived(**given)
    except ValidationError as error:
        problems += _problems(error, kind, path, failed)
        return None
    except SettingsError as error:
        # A list or a mapping in the environment that is not JSON; the error says which, its cause would quote it.
        problems.append(f"{path}{str(error).splitlines()[0]}; it must be JSON")
        return None
    return None if failed else settings


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput(f"settings file {file}: not found") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"settings file {file}: can't be read ({type(error).__name__})") from error
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        # The text of the error would quote the file, which may hold a token.
        raise BadInput(f"settings file {file}: is not a YAML mapping") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise BadInput(f"settings file {file}: is not a YAML mapping of settings")
    return values


def _problems(error: ValidationError, kind: type[Settings], path: str, failed: set[str]) -> Iterator[str]:
    prefix = kind.prefix()
    for item in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        name = where.lower().removeprefix(prefix.lower())
        if name in failed:
            continue  # said already, by the section itself
        said = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            said = f"must be set ({prefix}{name.upper()}, or {path}{name} in the settings file)"
        elif item["type"] == "extra_forbidden":
            said = f"no such setting; there are {', '.join(kind.model_fields)}"
        yield f"{path}{name}: {said}" if name else f"{path.removesuffix('.')}: {said}" if path else said
