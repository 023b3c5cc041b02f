"""Where a plain model comes from, so that it can be built again: library, name and arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Literal

import timm
from torch import nn

from dabnn.errors import ConfigError

Library = Literal["dabnn", "segmentation_models_pytorch", "timm"]

WORD = re.compile(r"[\w.+-]*")
"""What a string of a config may look like: no address and no folder, which libraries would load from."""
BACKBONES = {"dabnn": "backbone", "segmentation_models_pytorch": "encoder_name"}
"""Argument that names a model inside the model."""
ENCODER_ARGUMENTS = ("output_stride",)
"""What encoders of segmentation-models-pytorch take besides the arguments of its classes."""


@dataclass(frozen=True)
class Source:
    """A model of a library by name.

    It may come from a stranger: only classes and model names of the three libraries are built, never with
    weights, and no argument can name a file or an address.

    Attributes:
        library: Whose model it is.
        name: Class in `dabnn.models` or in segmentation-models-pytorch, or name of a timm model.
        arguments: Keyword arguments but the number of classes.
    """

    library: Library
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, num_classes: int) -> nn.Module:
        """Return the plain model without pretrained weights.

        Raises:
            ConfigError: If the library has no such model, or an argument is not allowed or refused.
        """
        factory = self._factory()
        self._check_arguments(factory)
        arguments: dict[str, Any] = {**self.arguments, "num_classes": num_classes}
        if self.library == "segmentation_models_pytorch":
            arguments["classes"] = arguments.pop("num_classes")
            arguments["encoder_weights"] = None  # left out, it would download some
        try:
            model: nn.Module = factory(**arguments)
        except Exception as error:  # whatever a library makes of wrong arguments
            raise ConfigError(
                f"{self.library} cannot build {self.name!r} with {dict(self.arguments)}: {error!r}"
            ) from error
        return model

    def _factory(self) -> Any:
        if self.library == "timm":
            if not _is_timm(self.name):
                raise ConfigError(f"the installed timm has no model {self.name!r}")
            return partial(timm.create_model, self.name, pretrained=False)
        module = import_module("dabnn.models" if self.library == "dabnn" else self.library)
        factory = getattr(module, self.name, None)
        if not (inspect.isclass(factory) and issubclass(factory, nn.Module)):
            raise ConfigError(f"{self.library} has no model {self.name!r}")
        return factory

    def _check_arguments(self, factory: Any) -> None:
        if self.library == "timm":
            loading = inspect.signature(timm.create_model).parameters  # where weights come from
            named = [key for key in self.arguments if key not in loading and "pretrained" not in key]
        else:
            named = [*inspect.signature(factory).parameters, *ENCODER_ARGUMENTS]
        refused = [key for key in self.arguments if key not in named]
        if self.arguments.get("encoder_weights") is not None:
            refused.append("encoder_weights")
        if self.library in BACKBONES:
            backbone = str(self.arguments.get(BACKBONES[self.library], ""))
            if not _is_known(backbone, self.library):
                refused.append(f"{BACKBONES[self.library]}={backbone!r}")
        refused += [repr(text) for text in _strings(self.arguments) if not WORD.fullmatch(text)]
        if refused:
            raise ConfigError(f"{self.library} is not asked for {self.name!r} with {', '.join(refused)}")


def _is_timm(name: str) -> bool:
    """Return whether timm has an architecture of that name; a tag after a dot would name weights."""
    return "." not in name and bool(timm.is_model(name))


def _is_known(backbone: str, library: str) -> bool:
    if library == "dabnn" or backbone.startswith("tu-"):
        return _is_timm(backbone.removeprefix("tu-"))
    from segmentation_models_pytorch.encoders import encoders

    return backbone in encoders


def _strings(value: Any) -> Iterator[str]:
    """Yield every string inside plain values, keys too.

    Raises:
        ConfigError: If there is something else than JSON holds.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_strings(key), *_strings(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise ConfigError(f"an argument {value!r} cannot be written to a config")


def source_of(plain: nn.Module) -> Source:
    """Return the source of a plain model, such as `dabnn.extract_dataset` gives.

    Raises:
        ConfigError: If it is none of dabnn, segmentation-models-pytorch or timm, which keep what is needed.
    """
    library = type(plain).__module__.partition(".")[0]
    if library == "dabnn" and hasattr(plain, "arguments"):
        own: Mapping[str, Any] = plain.arguments  # type: ignore[assignment]
        return Source("dabnn", type(plain).__name__, _without_tag(own, "dabnn"))
    if library == "segmentation_models_pytorch" and hasattr(plain, "_hub_mixin_config"):
        config: Mapping[str, Any] = plain._hub_mixin_config  # type: ignore[assignment]
        arguments = {key: value for key, value in config.items() if key != "classes"}
        arguments["encoder_weights"] = None
        arguments = _without_tag(arguments, "segmentation_models_pytorch")
        return Source("segmentation_models_pytorch", type(plain).__name__, arguments)
    if library == "timm" and getattr(plain, "pretrained_cfg", None):
        return _source_in_timm(plain)
    kind = f"{type(plain).__module__}.{type(plain).__name__}"
    raise ConfigError(
        f"dabnn cannot tell how to build a {kind} again: it knows the models of segmentation-models-pytorch, "
        "timm and dabnn.models. Save its weights with safetensors.torch.save_model; to load them, build and "
        "convert the model as before and call dabnn.load_state_dict"
    )


def _source_in_timm(plain: nn.Module) -> Source:
    cfg: Any = plain.pretrained_cfg
    if not hasattr(plain, "_model_args"):  # it would be built again without them
        raise ConfigError(
            f"timm {timm.__version__} has not kept the arguments that this {cfg['architecture']} was built "
            "with: build it with timm.create_model of timm >= 1.0.31"
        )
    given: Mapping[str, Any] = plain._model_args  # type: ignore[assignment]
    return Source("timm", cfg["architecture"], {k: v for k, v in given.items() if k != "num_classes"})


def _without_tag(arguments: Mapping[str, Any], library: Library) -> dict[str, Any]:
    """Return arguments whose backbone is an architecture alone: its tag names weights."""
    key = BACKBONES[library]
    return {**arguments, key: str(arguments[key]).partition(".")[0]}
