"""The public surface of dabnn is written down; a change of it must be on purpose.

After such a change: ``python tests/test_public_api.py`` writes ``api_surface.json`` anew.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import dabnn

ROOT = Path(__file__).parents[1]
SURFACE = Path(__file__).with_name("api_surface.json")
REGENERATE = (
    "the public surface changed; if on purpose, see the top of this file, and note it in CHANGELOG.md"
)
HEAVY = (
    "timm",
    "segmentation_models_pytorch",
    "torchvision",
    "accelerate",
    "huggingface_hub",
    "torchmetrics",
    "matplotlib",
    "torch._dynamo",
)


def current_surface() -> dict[str, str]:
    """Every public name with its signature, and those of the public methods of classes."""
    surface = {}
    for module in public_modules():
        prefix = module.__name__.removeprefix("dabnn").removeprefix(".")
        for name in module.__all__:
            place = f"{prefix}.{name}".removeprefix(".")
            surface |= {f"{place}{part}": text for part, text in described(getattr(module, name)).items()}
    return surface


def described(public: Any) -> dict[str, str]:
    """The signature of a function, or those of a class and its public methods; of other values the type."""
    if not callable(public):
        return {"": type(public).__name__}
    found = {"": signature(public)}
    if inspect.isclass(public):
        for method, function in vars(public).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                found[f".{method}"] = signature(function)
    return found


def public_modules() -> list[ModuleType]:
    """Every module with an ``__all__``, the face first."""
    names = ["dabnn", *(info.name for info in pkgutil.walk_packages(dabnn.__path__, "dabnn."))]
    modules = [import_module(name) for name in names if name.split(".")[-1] != "__main__"]
    return [module for module in modules if hasattr(module, "__all__")]


def signature(function: Callable[..., Any]) -> str:
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(function)))
    except ValueError:  # a type alias, or a class that is written in C
        return type(function).__name__


def test_the_public_surface_is_the_one_written_down() -> None:
    assert current_surface() == json.loads(SURFACE.read_text()), REGENERATE


def test_all_is_sorted_and_complete() -> None:
    names = [name for name in dabnn.__all__ if name != "__version__"]
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    public = {n for n, v in vars(dabnn).items() if not n.startswith("_") and _is_ours(v)}
    assert public <= set(dabnn.__all__)
    assert set(dabnn.__all__) <= set(dir(dabnn))


def _is_ours(value: object) -> bool:
    module = getattr(value, "__module__", "") or ""
    return module.startswith("dabnn") and not inspect.ismodule(value)


def test_everything_public_is_documented() -> None:
    for module in public_modules():
        for name in module.__all__:
            public = getattr(module, name)
            if inspect.isclass(public) or inspect.isfunction(public):
                assert inspect.getdoc(public), f"{module.__name__}.{name}"


def test_an_unknown_name_is_reported_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'dabnn' has no attribute 'convert_to_bn'"):
        _ = dabnn.convert_to_bn


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dabnn.__version__


def test_importing_dabnn_loads_none_of_the_libraries_it_works_with() -> None:
    """Torch itself aside, they load on use: the import stays light and optional parts optional."""
    program = (
        f"import sys, torch; before = set(sys.modules); import dabnn; loaded = set(sys.modules) - before; "
        f"print([name for name in {HEAVY} if name in loaded])"
    )
    environment_root = Path(dabnn.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=environment_root
    )
    assert result.stdout.strip() == "[]"


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(current_surface(), indent=1) + "\n")
