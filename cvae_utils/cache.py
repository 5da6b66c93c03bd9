"""What is made once and kept, under a key that notices edits of the code that makes it.

    key = key_of(size, seed, code=[make_slices])      what goes in, and what makes it
    folder = kept(place, "slices", key, make_slices)   place/slices-<key>, made unless it is there

The key changes with every definition that `code` can reach through names and imports, wherever in
the package it stands, and with nothing else: an edit of a loss trains anew, one of a docstring, a
comment, the text of an error or a figure does not.
"""

import ast
import contextlib
import functools
import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from cvae_utils.files import complete_file, complete_folder, read_json, short_hash, write_json

PACKAGE = Path(__file__).resolve().parent
#: Modules that do not count: how things are written and found is not what they are, and of
#: profiles the values are given as an input.
NOT_MAKERS = {f"{PACKAGE.name}.{name}" for name in ("cache", "files", "profiles")}

#: The package's sources when it was imported: keys tell of the code that runs here, and not of what
#: has been edited since.
SOURCES = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")
           if path.stem.isidentifier()}  # not what editors and file systems put beside them


def kept_at(folder: Path, name: str, key: str, ending: str = "") -> Path:
    """Where `kept` and `kept_json` (ending ".json") put it."""
    return folder / f"{name}-{key}{ending}"


def kept(folder: Path, name: str, key: str, make: Callable[[Path], None],
         ending: str = "") -> Path:
    """The path folder/name-key: what lies there, else what `make` has just put there.

    make: called with a temporary path, an empty folder or, with an ending such as ".json", a file;
    it appears under its name only when complete. A file takes the place of those of the same name
    with other keys; folders of other keys stay.
    """
    path = kept_at(folder, name, key, ending)
    if not path.exists():
        with complete_file(path) if ending else complete_folder(path, replace=False) as partial:
            make(partial)
        if ending:
            _drop_others(path, name, key, ending)
    return path


def kept_json(folder: Path, name: str, key: str, make: Callable[[], object]):
    """The same for a value that JSON can hold: what `make` returns, as it comes back from a file,
    the first time, too. A damaged file is made again."""
    path = kept_at(folder, name, key, ".json")
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_json(path)
    value = make()
    write_json(path, value)
    _drop_others(path, name, key, ".json")
    return json.loads(json.dumps(value, sort_keys=True))  # the file may be gone by now


def _drop_others(path: Path, name: str, key: str, ending: str) -> None:
    """Remove the files that were kept under this name with other keys."""
    for old in path.parent.glob(f"{name}-{'[0-9a-f]' * len(key)}{ending}"):
        if old != path:
            old.unlink(missing_ok=True)


def key_of(*inputs, code: Iterable[Callable]) -> str:
    """12 hex digits of what something is made from (JSON-able) and of the code that makes it."""
    return short_hash([inputs, _code_here(*code)])


@functools.cache
def _code_here(*makers: Callable) -> str:
    return code_of(*makers)


def code_of(*makers: Callable, package: Path = PACKAGE) -> str:
    """12 hex digits of the code that these functions and classes of the package can reach.

    Names are followed from definition to definition, through the imports of the package's modules;
    a class counts with all its methods. What is only handed over as an argument is reached if its
    class is named in an annotation. Docstrings, comments, the arguments of raised errors and
    NOT_MAKERS do not count. package: where the modules are read from; another copy in tests.
    """
    todo = [(maker.__module__, maker.__qualname__.partition(".")[0]) for maker in makers]
    found: dict[tuple, list[str]] = {}
    while todo:
        module, name = place = todo.pop()
        if place in found or module in NOT_MAKERS or not module.startswith(f"{PACKAGE.name}."):
            continue
        path = package.joinpath(*module.split(".")[1:]).with_suffix(".py")
        source = SOURCES.get(path) or path.read_text(encoding="utf-8")
        definitions, imports = _parsed(source)
        if name in imports and name not in definitions:
            todo.append(imports[name])
            continue
        if name == "*":  # a module that is handed over as a whole
            todo += [(module, each) for each in definitions]
        found[place], named = _definition(source, module, name)
        todo += named
    return short_hash(sorted([*place, *dumps] for place, dumps in found.items() if dumps))


@functools.cache  # several keys reach one and the same
def _definition(source: str, module: str, name: str) -> tuple[list, list[tuple[str, str]]]:
    """What a module defines under a name, as `_dump` writes it, and what that names: `_named`."""
    definitions, imports = _parsed(source)
    nodes = definitions.get(name, ())
    return [_dump(node) for node in nodes], [
        place for node in nodes for place in _named(node, module, definitions, imports)]


def _dump(node) -> list | str:
    """A syntax tree in lists: as ast.dump, which is another in every version of Python, because
    versions add fields that are empty."""
    if isinstance(node, list):
        return [_dump(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    return [type(node).__name__, *([name, _dump(value)] for name, value in fields.items())]


def _named(node: ast.AST, module: str, definitions: dict, imports: dict) -> list[tuple[str, str]]:
    """(module, name) of the definitions that a definition of `module` names."""
    imports = imports | _imports(node)
    qualified = {id(part.value): part.attr for part in ast.walk(node)
                 if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)}
    named = []
    for part in ast.walk(node):
        if not isinstance(part, ast.Name):
            continue
        if part.id in imports:
            source, name = imports[part.id]
            named.append((source, qualified.get(id(part), "*") if name == "*" else name))
        elif part.id in definitions:
            named.append((module, part.id))
    return named


@functools.lru_cache(maxsize=256)
def _parsed(source: str) -> tuple[dict[str, list[ast.AST]], dict]:
    """Definitions of a module, {name: nodes}, and what it imports from the package."""
    tree = _Plain().visit(ast.parse(source))
    definitions: dict[str, list[ast.AST]] = {}
    for node in tree.body:
        targets = (node.targets if isinstance(node, ast.Assign) else
                   [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else ())
        names = [node.name] if hasattr(node, "name") else [
            part.id for target in targets for part in ast.walk(target)
            if isinstance(part, ast.Name)]
        for name in names:
            definitions.setdefault(name, []).append(node)
    return definitions, _imports(tree)


def _imports(tree: ast.AST) -> dict[str, tuple[str, str]]:
    """{name here: (module, name there)} of what a tree imports from the package; "*" is the module.
    """
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            for alias in node.names:
                is_module = _is_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = (
                    (f"{node.module}.{alias.name}", "*") if is_module else
                    (node.module, alias.name))
    return found


@functools.cache
def _is_module(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec(name) is not None
    return False


class _Plain(ast.NodeTransformer):
    """Leaves out what does not change a result: docstrings, and what errors say."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=error, cause=None)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if (isinstance(body, list) and body and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
                and isinstance(body[0].value.value, str)):
            node.body = body[1:]
        return node
