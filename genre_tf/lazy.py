"""Public names of a package, imported when they are first used: a client must not wait for TensorFlow."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def offered(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package, from the module that defines each public name, or that is one."""

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        return module if modules[name] == f"{package}.{name}" else getattr(module, name)

    return get
