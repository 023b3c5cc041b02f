"""Where a plain model comes from, so that it can be built again: library, name and arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from torch import nn

from dabnn.errors import ConfigError

Library = Literal["dabnn", "segmentation_models_pytorch", "timm"]


@dataclass(frozen=True)
class Source:
    """A model of a library by name; nothing else is ever built or imported.

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
            ConfigError: If the library has no such model, or refuses the arguments.
        """
        try:
            model: nn.Module = self._factory()(**self.arguments, **{self._classes(): num_classes})
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{self.library} cannot build {self.name!r} with {dict(self.arguments)}: {error}"
            ) from error
        return model

    def _factory(self) -> Any:
        module = import_module("dabnn.models" if self.library == "dabnn" else self.library)
        if self.library == "timm":
            return lambda **arguments: module.create_model(self.name, pretrained=False, **arguments)
        factory = getattr(module, self.name)
        if not (inspect.isclass(factory) and issubclass(factory, nn.Module)):
            raise TypeError(f"{self.name} is no model")
        return factory

    def _classes(self) -> str:
        return "classes" if self.library == "segmentation_models_pytorch" else "num_classes"


def source_of(plain: nn.Module) -> Source:
    """Return the source of a plain model, such as `dabnn.extract_dataset` gives.

    Raises:
        ConfigError: If it is none of dabnn, segmentation-models-pytorch or timm, which keep what is needed.
    """
    library = type(plain).__module__.partition(".")[0]
    if library == "dabnn" and hasattr(plain, "arguments"):
        own: Mapping[str, Any] = plain.arguments  # type: ignore[assignment]
        return Source("dabnn", type(plain).__name__, dict(own))
    if library == "segmentation_models_pytorch" and hasattr(plain, "_hub_mixin_config"):
        config: Mapping[str, Any] = plain._hub_mixin_config  # type: ignore[assignment]
        arguments = {key: value for key, value in config.items() if key != "classes"} | {
            "encoder_weights": None
        }
        return Source("segmentation_models_pytorch", type(plain).__name__, arguments)
    if library == "timm" and getattr(plain, "pretrained_cfg", None):
        cfg: Any = plain.pretrained_cfg
        return Source("timm", cfg["architecture"])
    kind = f"{type(plain).__module__}.{type(plain).__name__}"
    raise ConfigError(
        f"dabnn cannot tell how to build a {kind} again: it knows the models of segmentation-models-pytorch, "
        "timm and dabnn.models. Save its weights with safetensors.torch.save_model"
    )
