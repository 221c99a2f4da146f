"""Import a part of a package when it is first used: half of the time of `import keras_kd`."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, later: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package whose names are imported when they are first used.

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

    return getattr_, dir_
