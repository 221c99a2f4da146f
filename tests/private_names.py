"""Private names of other packages in source code, which a new release may remove without notice."""

import ast
import re
from collections.abc import Iterator

PRIVATE = re.compile(r"_[a-zA-Z]\w*")
#: Modules that are not documented, as dotted names.
MODULES = re.compile(r"((keras|keras_tuner)\.src|(tf|tensorflow)\.(python|__internal__))(\.\w+)*")
#: What looks private and is documented.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}


def used(tree: ast.AST) -> set[str]:
    """Return the private attributes that code reads or sets, and the private modules that it imports."""
    found = set(_used(tree)) - DOCUMENTED
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Call(
                ast.Name("getattr" | "hasattr" | "setattr" | "delattr"), [_, ast.Constant(str(name)), *_]
            ) if PRIVATE.fullmatch(name):
                yield name
            case ast.Attribute() if MODULES.fullmatch(name := _dotted(node)):
                yield name
            case ast.Constant(str(name)) if MODULES.fullmatch(name):
                yield name
            case ast.Import(names) | ast.ImportFrom(names=names):
                within = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for name in (within + each.name for each in names):
                    private = MODULES.fullmatch(name) or any(map(PRIVATE.fullmatch, name.split(".")))
                    yield from [name] if private and not name.startswith("keras_kd") else ()


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def named(tree: ast.AST) -> set[str]:
    """Return the private names in strings, and those of methods, which may override another one's."""
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {node.name for each in classes for node in each.body if isinstance(node, ast.FunctionDef)}
    return {name for name in strings | methods if PRIVATE.fullmatch(name)}


def defined(tree: ast.AST) -> set[str]:
    """Return the names of the functions, classes, variables and attributes of its own that code defines."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name) | ast.ClassDef(name) | ast.Name(name, ast.Store()):
                found.add(name)
            case ast.Attribute(ast.Name("self" | "cls"), name, ast.Store()):
                found.add(name)
    return found
