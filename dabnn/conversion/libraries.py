"""What dabnn knows about the models of timm, segmentation-models-pytorch and torchvision.

Nothing here imports these libraries: a model is recognised by the module that defines its class.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

from torch import nn

from dabnn.conversion.classifiers import LINEAR, last_linear, width_of
from dabnn.errors import ClassifierNotFoundError, DabnnError

_SMP_SAVERS = ("save_pretrained", "push_to_hub")

# Modules whose last linear layer gives the classes, by the package that defines the model; the first
# match counts. SMP's optional classification_head is not among them: it stays shared.
_CLASSIFIER_ROOTS = {
    "dabnn.models": ("classifier", "auxiliary"),
    "segmentation_models_pytorch": ("segmentation_head",),
    "torchvision.models.segmentation.lraspp": ("classifier.low_classifier", "classifier.high_classifier"),
    "torchvision.models.segmentation": ("classifier", "aux_classifier"),
    "torchvision.models": ("fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"),
}


def find_classifiers(model: nn.Module) -> list[str]:
    """Return the paths of the linear or convolution layers that produce the classes.

    Known are every SMP architecture (``segmentation_head``; the optional ``classification_head`` stays
    shared), timm models (some have several classifiers), torchvision's segmentation and
    classification models, and those of `dabnn.models`. Auxiliary heads follow the main one.

    Raises:
        ClassifierNotFoundError: For other models, and for models without a classifier.
    """
    if _defined_in(model, "torchvision.models.detection"):
        raise ClassifierNotFoundError(
            "torchvision detection models are converted by their norms only: leave num_classes out"
        )
    if _defined_in(model, "timm"):
        paths = _timm_classifiers(model)
    else:
        known = (roots for package, roots in _CLASSIFIER_ROOTS.items() if _defined_in(model, package))
        paths = [path for root in next(known, ()) if (path := last_linear(model, root))]
    if paths:
        return paths
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if getattr(model, "num_classes", None) == 0:
        raise ClassifierNotFoundError(
            f"this {kind} was built without a classifier (num_classes=0): build it with one, or leave "
            "num_classes out to convert its norms only"
        )
    raise ClassifierNotFoundError(
        f"no classifier is known for {kind}; pass classifier='path.to.layer' (candidate: "
        f"{last_linear(model, '')!r}), or leave num_classes out to share the classifier"
    )


def set_num_classes(module: nn.Module, classifiers: Collection[nn.Module]) -> None:
    """Make a module of an extracted model state the number of classes that its classifiers have.

    SMP rebuilds a model from its configuration; other models, and some classifiers, keep the number in
    ``num_classes``.

    Args:
        module: Any module of the model; changed in place.
        classifiers: The classifiers of the model that came out of a switch.
    """
    config = vars(module).get("_hub_mixin_config")
    if isinstance(config, dict) and _defined_in(module, "segmentation_models_pytorch"):
        if path := last_linear(module, "segmentation_head"):
            config["classes"] = width_of(module.get_submodule(path))
        if config.get("aux_params") and (path := last_linear(module, "classification_head")):
            config["aux_params"] = {**config["aux_params"], "classes": width_of(module.get_submodule(path))}
    elif "num_classes" in vars(module):
        widths = {width_of(layer) for layer in module.modules() if layer in classifiers}
        if len(widths) == 1:  # several classifiers may differ: then none is *the* number
            module.num_classes = widths.pop()  # type: ignore[assignment]


def block_plain_saving(model: nn.Module) -> None:
    """Make SMP's inherited savers raise: they would write a file that SMP cannot load back."""
    if _defined_in(model, "segmentation_models_pytorch"):
        for saver in _SMP_SAVERS:
            vars(model)[saver] = _refuse_plain_saving


def allow_plain_saving(model: nn.Module) -> None:
    """Undo `block_plain_saving`."""
    for saver in _SMP_SAVERS:
        vars(model).pop(saver, None)


def _refuse_plain_saving(*args: Any, **kwargs: Any) -> NoReturn:
    raise DabnnError(
        "segmentation-models-pytorch cannot load a dataset-aware model back. Save the plain model of one "
        "dataset with dabnn.extract_dataset(model, dataset).save_pretrained(...), or all datasets with "
        "dabnn.save_pretrained(model, path)"
    )


def _defined_in(model: nn.Module, package: str) -> bool:
    return any(f"{cls.__module__}.".startswith(f"{package}.") for cls in type(model).__mro__)


def _timm_classifiers(model: nn.Module) -> list[str]:
    """Join what timm's two sources say: each one alone misses some auxiliary heads.

    The configuration lacks the distillation head of two LeViT models, ``get_classifier`` lacks VOLO's
    auxiliary head and often returns a module around the layer that is meant.
    """
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    roots = [named] if isinstance(named, str) else list(named)
    paths = [path for root in roots if (path := last_linear(model, root))]
    heads = model.get_classifier() if hasattr(model, "get_classifier") else ()  # type: ignore[operator]
    layers = {
        id(layer)
        for head in (heads if isinstance(heads, tuple | list) else [heads])
        if isinstance(head, nn.Module)
        for layer in head.modules()
        if isinstance(layer, LINEAR) and width_of(layer) == getattr(model, "num_classes", None)
    }
    paths += [path for path, layer in model.named_modules() if id(layer) in layers]
    return list(dict.fromkeys(paths))
