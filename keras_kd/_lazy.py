"""Import a part of a package when it is first used: half of the time of `import keras_kd`."""

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, later: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose names are imported when they are first used.

    Args:
        package: its name.
        later: by name, the module that it is in, or is.
    """
    module = sys.modules[package]

    def getattr_(name: str) -> Any:
        if name not in later:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)
        found = importlib.import_module(later[name])
        if later[name] != f"{package}.{name}":
            found = getattr(found, name)
        setattr(module, name, found)
        return found

    def dir_() -> list[str]:
        return sorted({*vars(module), *later})

    now = [name for name, value in vars(module).items() if _is_own(value, package) and not name.startswith("_")]
    return getattr_, dir_, sorted({*now, *later})


def _is_own(value: Any, package: str) -> bool:
    """Return whether a module, class or function is of a package, rather than what it imports for itself."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", "")
    return name.startswith(package)
