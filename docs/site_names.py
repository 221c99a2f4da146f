"""What is public in keras_kd, and what the API pages show of it."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import types
import typing
from typing import Any

import keras_kd

#: Methods that Keras and the parts of the library call, not users.
PLUMBING = (
    "before_evaluation",
    "before_training",
    "build",
    "compile_from_config",
    "compute_mask",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_compile_config",
    "get_config",
    "get_metrics_result",
    "load_own_variables",
    "make_test_function",
    "make_train_function",
    "output_names",
    "prepared",
    "save_own_variables",
    "test_step",
    "train_step",
)

#: Helpers of the library that stand in a module which is public for something else.
INTERNAL = {
    "keras_kd.schedules.Adjustable",
    "keras_kd.schedules.Unsaved",
    "keras_kd.schedules.at",
    "keras_kd.schedules.finite",
    "keras_kd.schedules.first",
    "keras_kd.schedules.plain",
    "keras_kd.schedules.to_config",
}

_DIRECTIVE = re.compile(r"^\.\. auto(module|class|function|family):: (\S+)$(?!\n   :no-members:)", re.MULTILINE)


def public_modules() -> list[types.ModuleType]:
    """Return keras_kd, the modules that it names, and the packages that it takes names from."""
    # With those that are imported when they are first used.
    froms = [node for node in ast.walk(ast.parse(inspect.getsource(keras_kd))) if isinstance(node, ast.ImportFrom)]
    named = [f"keras_kd.{alias.name}" for node in froms if node.module == "keras_kd" for alias in node.names]
    modules = [importlib.import_module(name) for name in named if "._" not in name]
    sources = [importlib.import_module(str(node.module)) for node in froms if node.module != "keras_kd"]
    packages = [module for module in sources if hasattr(module, "__path__")]
    return list({module.__name__: module for module in [keras_kd, *modules, *packages]}.values())


@functools.cache
def public_names() -> dict[str, Any]:
    """Return every public class and function of the library by its full names, the shortest first."""
    found = {}
    for module in public_modules():
        gathers = hasattr(module, "__path__")
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if value.__module__ == module.__name__ or gathers and value.__module__.startswith("keras_kd."):
                found[f"{module.__name__}.{name}"] = value
    return {name: found[name] for name in sorted(found, key=lambda name: name.count(".")) if name not in INTERNAL}


def family(name: str) -> list[str]:
    """Return what a package offers of one of its files, by full names, in the order of the file."""
    package, own = importlib.import_module(name.rpartition(".")[0]), vars(importlib.import_module(name))
    offered = {key for key, value in own.items() if getattr(value, "__module__", "") == name and hasattr(package, key)}
    return [f"{package.__name__}.{key}" for key in own if key in offered]


@functools.cache
def documented_names(folder: pathlib.Path) -> set[str]:
    """Return the full names that the API pages in a folder show."""
    shown: set[str] = set()
    for page in sorted(folder.glob("*.md")):
        for kind, name in _DIRECTIVE.findall(page.read_text()):
            inside = {each for each in public_names() if each.rpartition(".")[0] == name}
            shown |= inside if kind == "module" else set(family(name)) if kind == "family" else {name}
    return shown


def undocumented(folder: pathlib.Path) -> list[str]:
    """Return the public names of what no API page shows."""
    names = public_names()
    shown = [names[name] for name in documented_names(folder) if name in names]
    return [name for name, value in names.items() if not any(value is each for each in shown)]


def undocumented_results(folder: pathlib.Path) -> list[str]:
    """Return the public classes of the library that something on an API page returns and that are on none."""
    shown = [functools.reduce(getattr, name.split(".")[1:], keras_kd) for name in documented_names(folder)]
    returned = {each for value in shown for each in _returned(value)}
    ours = [each for each in returned if re.match(r"keras_kd\.(?!_)", getattr(each, "__module__", ""))]
    return sorted(f"{each.__module__}.{each.__name__}" for each in ours if not any(each is other for other in shown))


def _returned(value: Any) -> list[Any]:
    """Return the types in what a function returns, or in what each method and property of a class does."""
    if isinstance(value, property):
        value = value.fget
    if inspect.isclass(value):
        members = [member for name, member in vars(value).items() if name[0] != "_" and name not in PLUMBING]
        return [each for member in members for each in _returned(member)]
    return _types_in(typing.get_type_hints(value).get("return")) if inspect.isfunction(value) else []


def _types_in(hint: Any) -> list[Any]:
    parts = hint if isinstance(hint, list) else typing.get_args(hint)  # the arguments of a Callable are a list
    return [*([] if isinstance(hint, list) else [hint]), *(each for part in parts for each in _types_in(part))]
