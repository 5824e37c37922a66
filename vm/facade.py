# SPDX-License-Identifier: GPL-2.0-only
"""A package whose `__init__` imports what it offers from elsewhere only when it is asked for.

`import pytest` imports every plugin that pytest has, for the few names that each adds to the
package; the guest has most of them switched off. To fetch names when they are asked for (PEP 562)
spares a tenth of all that Python does in the guest before the first test.
"""

import ast

_Path = tuple[str, str]

_ON_DEMAND = """
def __getattr__(name):
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, path = _ON_DEMAND[name]
    first, *others = path.split(".")
    value = getattr(__import__(module, fromlist=(first,)), first)
    for attribute in others:
        value = getattr(value, attribute)
    globals()[name] = value
    return value

def __dir__():
    return sorted({*globals(), *_ON_DEMAND})
"""


def on_demand(module: ast.Module) -> ast.Module:
    """Return the code of an `__init__.py` with the imports of its top level put off.

    That goes for `from module import name` and `name = imported.attribute`. What other code of the
    top level uses is there at once, as ever. A module that has a `__getattr__` already, as some
    versions of pytest do, is returned as it is.
    """
    if any(isinstance(node, ast.FunctionDef) and _is_taken(node.name) for node in module.body):
        return module
    table: dict[str, _Path] = {}
    for node in module.body:
        table |= _fetched(node, table)
    kept: list[ast.stmt] = []
    used: set[str] = set()
    for node in reversed(module.body):
        fetched = _fetched(node, table)
        if not fetched or used & fetched.keys():
            kept.insert(0, node)
            used |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    names = ast.parse(f"_ON_DEMAND = {table!r}")
    return ast.Module([*kept, *names.body, *ast.parse(_ON_DEMAND).body], module.type_ignores)


def _is_taken(name: str) -> bool:
    return name in ("__getattr__", "__dir__")


def _fetched(node: ast.stmt, known: dict[str, _Path]) -> dict[str, _Path]:
    """Return what a statement does nothing but fetch: name → module and path of attributes."""
    match node:
        case ast.ImportFrom(module=str(source), names=names, level=0) if source != "__future__":
            if any(alias.name == "*" for alias in names):
                return {}
            return {alias.asname or alias.name: (source, alias.name) for alias in names}
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Attribute(value=ast.Name(id=base), attr=attribute),
        ) if base in known:
            source, path = known[base]
            return {name: (source, f"{path}.{attribute}")}
    return {}
