# SPDX-License-Identifier: GPL-2.0-only
"""From parsed JSON or TOML to frozen dataclasses, checked against their type hints."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from vm.errors import ConfigError

T = TypeVar("T")


def decode(kind: type[T], value: object, where: str) -> T:
    """Build the dataclass `kind` from `value`, a mapping as json or tomllib return it.

    Keys that `kind` does not have are ignored, so that files of newer versions stay readable;
    keys that are absent take the field's default. Raises ConfigError, with `where` and the
    path of the offending value in it, for anything else that does not fit.
    """
    built: T = _decode(kind, value, where)
    return built


def _decode(hint: Any, value: object, where: str) -> Any:
    origin = get_origin(hint)
    if origin is UnionType:
        return _decode_optional(hint, value, where)
    if origin is tuple:
        return _decode_tuple(get_args(hint), value, where)
    if origin is Mapping:
        return _checked(dict, value, where)
    if is_dataclass(hint):
        return _decode_dataclass(hint, _checked(dict, value, where), where)
    if issubclass(hint, StrEnum):
        return _decode_enum(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    return _checked(hint, value, where)


def _checked(kind: type[T], value: object, where: str) -> T:
    # bool is an int to isinstance(), but `"cpus": true` is a mistake all the same.
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: expected {kind.__name__}, found {value!r:.60}")


def _decode_optional(hint: Any, value: object, where: str) -> Any:
    if value is None:
        return None
    (kind,) = (argument for argument in get_args(hint) if argument is not type(None))
    return _decode(kind, value, where)


def _decode_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _checked(list, value, where)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise ConfigError(f"{where}: expected {len(kinds)} values, found {len(items)}")
    pairs = zip(kinds, items, strict=True)
    return tuple(_decode(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(pairs))


def _decode_enum(hint: type[StrEnum], value: object, where: str) -> StrEnum:
    name = _checked(str, value, where)
    if name not in list(hint):
        raise ConfigError(f"{where}: expected one of {', '.join(hint)}, found {name!r:.60}")
    return hint(name)


def _decode_dataclass(hint: Any, values: dict[str, object], where: str) -> Any:
    hints = get_type_hints(hint)
    present = [field for field in fields(hint) if _present(field, values, where)]
    return hint(
        **{
            field.name: _decode(hints[field.name], values[field.name], f"{where}: {field.name}")
            for field in present
        }
    )


def _present(field: Field[Any], values: Mapping[str, object], where: str) -> bool:
    if field.name in values:
        return True
    if field.default is MISSING and field.default_factory is MISSING:
        raise ConfigError(f"{where}: {field.name} is missing")
    return False
