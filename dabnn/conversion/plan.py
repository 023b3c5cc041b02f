"""What a conversion would do: the sites it finds, and the modules it skips and why."""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn.conversion.checks import check_classifier, check_model, check_sites
from dabnn.conversion.libraries import find_classifiers
from dabnn.errors import ClassifierNotFoundError, ConversionError, DabnnWarning, NoBatchNormFoundError
from dabnn.selection import DatasetSelection

HeadFactory = Callable[[nn.Module, int], nn.Module]

BATCH_NORMS: tuple[type[nn.Module], ...] = (_BatchNorm,)

EXCLUDED = "excluded by skip="
NOT_CHOSEN = "not among norm_types"
NOT_BATCH_NORM = "running statistics, but not a batch norm"


@dataclass(frozen=True)
class Site:
    """One module that a conversion looked at.

    Attributes:
        path: Its path in the model; empty for the root.
        module: Name of its class.
        aliases: Further paths under which the same instance is used.
        reason: Why it is skipped; empty for sites that are converted.
    """

    path: str
    module: str
    aliases: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """The outcome of `dabnn.plan_conversion`; printing it gives a readable summary.

    Attributes:
        dataset_names: Names of the datasets, in branch order.
        norms: Batch norms that get one branch per dataset.
        classifiers: Classifiers that get one branch per dataset.
        skipped: Norms that stay shared, with the reason.
        num_classes: Classes per dataset, or None when the classifier stays shared.
    """

    dataset_names: tuple[str, ...]
    norms: tuple[Site, ...]
    classifiers: tuple[Site, ...]
    skipped: tuple[Site, ...]
    num_classes: tuple[int, ...] | None

    def __str__(self) -> str:
        kinds = Counter(site.module for site in self.norms)
        datasets = f"{len(self.dataset_names)} datasets ({', '.join(self.dataset_names)})"
        lines = [
            f"{len(self.norms)} batch norms for {datasets}: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        ]
        lines += [
            f"classifier {site.path}: classes {list(self.num_classes or ())}" for site in self.classifiers
        ]
        lines += [f"skipped {site.path} ({site.module}): {site.reason}" for site in self.skipped]
        return "\n".join(lines)


def plan_conversion(
    model: nn.Module,
    n_datasets: int | None = None,
    *,
    dataset_names: Sequence[str] | None = None,
    num_classes: Sequence[int] | None = None,
    classifier: str | Sequence[str] | None = None,
    head_factory: HeadFactory | None = None,
    skip: str | Sequence[str] = (),
    norm_types: Sequence[type[nn.Module]] = BATCH_NORMS,
) -> ConversionReport:
    """Report what `dabnn.convert_to_dataset_aware` would do with the same arguments; touch nothing.

    Args: see `dabnn.convert_to_dataset_aware`.

    Returns:
        The sites found and skipped.

    Raises:
        ConversionError: If the model cannot be converted as it is.
        NoBatchNormFoundError: If it holds no batch norm to convert.
        ClassifierNotFoundError: If ``num_classes`` is given and the classifier is not found.
        ValueError: If the arguments contradict each other.
    """
    check_model(model)
    names = resolve_names(n_datasets, dataset_names)
    classes = _check_num_classes(num_classes, len(names), classifier, head_factory)
    classifiers = _classifier_sites(model, classifier, classes, head_factory) if classes else ()
    patterns, types = [skip] if isinstance(skip, str) else list(skip), tuple(norm_types)
    norms, skipped = _norm_sites(model, patterns, types, classifiers)
    shared_on_purpose = bool(classifiers) and any(site.reason == EXCLUDED for site in skipped)
    if not norms and not shared_on_purpose:
        raise NoBatchNormFoundError(_nothing_found(model, skipped))
    sites = {site.path: model.get_submodule(site.path) for site in (*norms, *classifiers)}
    check_sites(model, sites)
    return ConversionReport(names, norms, classifiers, skipped, classes)


def resolve_names(n_datasets: int | None, dataset_names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the dataset names; ``dataset_0``, ``dataset_1`` ... when only a number is given.

    Raises:
        ValueError: If neither is given, they contradict each other, or names are empty or not unique.
    """
    if dataset_names is not None:
        if n_datasets is not None and n_datasets != len(dataset_names):
            raise ValueError(
                f"n_datasets={n_datasets}, but {len(dataset_names)} names: {list(dataset_names)}"
            )
        return DatasetSelection(dataset_names).names
    if not isinstance(n_datasets, int) or isinstance(n_datasets, bool) or n_datasets < 1:
        raise ValueError(f"give n_datasets >= 1 or dataset_names, got n_datasets={n_datasets!r}")
    return tuple(f"dataset_{i}" for i in range(n_datasets))


def _check_num_classes(
    num_classes: Sequence[int] | None,
    n_datasets: int,
    classifier: str | Sequence[str] | None,
    head_factory: HeadFactory | None,
) -> tuple[int, ...] | None:
    if num_classes is None:
        if classifier is not None or head_factory is not None:
            raise ValueError("classifier and head_factory need num_classes, one number per dataset")
        return None
    if (
        not isinstance(num_classes, Sequence)
        or isinstance(num_classes, str)
        or len(num_classes) != n_datasets
    ):
        raise ValueError(
            f"num_classes={num_classes!r} must be a list of {n_datasets} numbers, one for each dataset"
        )
    for number in num_classes:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"num_classes must be positive integers, got {list(num_classes)}")
    return tuple(num_classes)


def _classifier_sites(
    model: nn.Module,
    classifier: str | Sequence[str] | None,
    num_classes: Sequence[int],
    head_factory: HeadFactory | None,
) -> tuple[Site, ...]:
    if classifier is None:
        paths = find_classifiers(model)
    else:
        paths = [classifier] if isinstance(classifier, str) else list(classifier)
    sites = []
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise ClassifierNotFoundError(f"classifier {path!r} is not a module of the model") from None
        if module is model:
            raise ClassifierNotFoundError("the whole model cannot be its own classifier; name a layer of it")
        if head_factory is None:
            check_classifier(path, module, num_classes)
        sites.append(Site(path, type(module).__name__))
    return tuple(sites)


def _norm_sites(
    model: nn.Module, skip: list[str], types: tuple[type[nn.Module], ...], classifiers: tuple[Site, ...]
) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, types) or _has_statistics(module):
            paths.setdefault(id(module), []).append(path)
            modules[id(module)] = module
    _check_skip(skip, [path for found in paths.values() for path in found])
    heads = [site.path for site in classifiers]
    norm_paths = [path for key, module in modules.items() if isinstance(module, types) for path in paths[key]]
    norms: list[Site] = []
    skipped: list[Site] = []
    for key, module in modules.items():
        first, *aliases = paths[key]
        inside = [any(_inside(path, parent) for parent in (*heads, *norm_paths)) for path in paths[key]]
        if all(inside):
            continue  # belongs to a branch as a whole
        if any(inside):
            raise ConversionError(
                f"the {type(module).__name__} {paths[key]} is used inside a norm or classifier that gets "
                "branches and outside of it as well; give each place a norm of its own"
            )
        excluded = any(_matches(path, skip) for path in paths[key])
        reason = EXCLUDED if excluded else _reason_to_skip(model, first, module, types)
        site = Site(first, type(module).__name__, tuple(aliases), reason)
        (skipped if reason else norms).append(site)
    if norms:  # else the error will name all that is skipped
        _warn_about_statistics(model, skipped)
    return tuple(norms), tuple(skipped)


def _has_statistics(module: nn.Module) -> bool:
    return any(name.startswith("running_") and buffer is not None for name, buffer in module._buffers.items())


def _inside(path: str, parent: str) -> bool:
    return path.startswith(f"{parent}.") if parent else path != ""


def _check_skip(skip: list[str], norm_paths: list[str]) -> None:
    for pattern in skip:
        if not any(_matches(path, [pattern]) for path in norm_paths):
            raise ValueError(
                f"skip={pattern!r} matches no norm; there are {norm_paths[:3]} and {len(norm_paths)} in all"
            )


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _reason_to_skip(
    model: nn.Module, path: str, module: nn.Module, types: tuple[type[nn.Module], ...]
) -> str:
    if not isinstance(module, types):
        if type(module).__name__.startswith("Frozen"):
            return "frozen statistics"
        return NOT_CHOSEN if isinstance(module, _BatchNorm) else NOT_BATCH_NORM
    if any(parent.startswith("torch.ao.nn.intrinsic") for parent in _parent_modules(model, path)):
        return "part of a fused quantisation module"
    if not any(True for _ in (*module.parameters(), *module.buffers())):
        return "holds neither statistics nor parameters"
    return ""


def _parent_modules(model: nn.Module, path: str) -> Iterator[str]:
    parts = path.split(".")
    for depth in range(len(parts)):
        yield type(model.get_submodule(".".join(parts[:depth]))).__module__


def _warn_about_statistics(model: nn.Module, skipped: Sequence[Site]) -> None:
    stateful = [site for site in skipped if site.reason == NOT_BATCH_NORM]
    if stateful:
        warnings.warn(
            f"{len(stateful)} modules of {type(model).__name__} keep running statistics but are no batch "
            f"norms and stay shared by all datasets, first {stateful[0].path!r} ({stateful[0].module})",
            DabnnWarning,
            stacklevel=4,
        )


def _nothing_found(model: nn.Module, skipped: Sequence[Site]) -> str:
    if skipped:
        reasons = Counter(f"{site.module} ({site.reason})" for site in skipped)
        return f"{type(model).__name__}: every norm is skipped: " + ", ".join(
            f"{n} {r}" for r, n in reasons.items()
        )
    others = Counter(type(m).__name__ for m in model.modules() if "norm" in type(m).__name__.lower())
    seen = ", ".join(f"{count} {kind}" for kind, count in others.items()) or "no norm at all"
    return (
        f"{type(model).__name__} holds no batch normalisation (it has {seen}), so there are no statistics to "
        "keep per dataset; choose a backbone with batch norm, or name other norms with norm_types="
    )
