"""What a conversion would do: the sites it finds, and the modules it skips and why."""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn.conversion.checks import check_model, check_sites
from dabnn.conversion.classifiers import HeadFactory, check_classifier
from dabnn.conversion.libraries import find_classifiers
from dabnn.conversion.report import ConversionReport, Site
from dabnn.errors import ClassifierNotFoundError, ConversionError, DabnnWarning, NoBatchNormFoundError
from dabnn.layers.surgery import has_statistics
from dabnn.selection import DatasetSelection

BATCH_NORMS: tuple[type[nn.Module], ...] = (_BatchNorm,)

EXCLUDED = "excluded by skip="
NOT_CHOSEN = "not among norm_types"
NOT_BATCH_NORM = "running statistics, but not a batch norm"


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

    Args:
        model: Any model with batch norms, on any device.
        n_datasets: Number of datasets; may be left out when ``dataset_names`` is given.
        dataset_names: One name per dataset; default ``dataset_0``, ``dataset_1`` ...
        num_classes: One number of classes per dataset, if each shall have its own classifier.
        classifier: Path or paths of the classifier layers, for models dabnn does not know.
        head_factory: ``head_factory(old, num_classes)`` builds a classifier; it is not called.
        skip: Paths of norms that stay shared; shell patterns such as ``encoder.*`` work.
        norm_types: Classes of the norms to convert, subclasses included; default every batch norm.

    Returns:
        The sites found and skipped.

    Raises:
        ConversionError: If the model cannot be converted as it is.
        NoBatchNormFoundError: If it holds no batch norm to convert.
        ClassifierNotFoundError: If ``num_classes`` is given and the classifier is not found.
        ValueError: If the arguments contradict each other.
    """
    plan = make_plan(
        model, n_datasets, dataset_names, num_classes, classifier, head_factory, skip, norm_types
    )
    plan.warn()
    return plan.report


@dataclass(frozen=True)
class Plan:
    """A report, and the modules that it speaks of.

    Attributes:
        report: What is public of it.
        norms: The norms that get branches, by path.
        classifiers: The classifiers that get branches, by path.
        warning: What the user should know, if anything.
    """

    report: ConversionReport
    norms: Mapping[str, nn.Module]
    classifiers: Mapping[str, nn.Module]
    warning: str = ""

    def warn(self) -> None:
        """Give the warning, at the line that called the function which calls this."""
        if self.warning:
            warnings.warn(self.warning, DabnnWarning, stacklevel=3)


def make_plan(
    model: nn.Module,
    n_datasets: int | None,
    dataset_names: Sequence[str] | None,
    num_classes: Sequence[int] | None,
    classifier: str | Sequence[str] | None,
    head_factory: HeadFactory | None,
    skip: str | Sequence[str],
    norm_types: Sequence[type[nn.Module]],
) -> Plan:
    """Do all that `plan_conversion` does, but warn; the arguments and errors are its own."""
    check_model(model)
    names = resolve_names(n_datasets, dataset_names)
    classes = _check_num_classes(num_classes, len(names), classifier, head_factory)
    classifiers = _find_classifiers(model, classifier, classes, head_factory) if classes else {}
    patterns = [skip] if isinstance(skip, str) else list(skip)
    found = _find_norms(model, patterns, tuple(norm_types), list(classifiers))
    norms = {site.path: module for site, module in found.items() if not site.reason}
    skipped = tuple(site for site in found if site.reason)
    shared_on_purpose = bool(classifiers) and any(site.reason == EXCLUDED for site in skipped)
    if not norms and not shared_on_purpose:
        raise NoBatchNormFoundError(_nothing_found(model, skipped))
    check_sites(model, {**norms, **classifiers})
    report = ConversionReport(
        dataset_names=names,
        norms=tuple(site for site in found if not site.reason),
        classifiers=tuple(Site(path, type(module).__name__) for path, module in classifiers.items()),
        skipped=skipped,
        num_classes=classes,
    )
    return Plan(report, norms, classifiers, _about_statistics(model, skipped) if norms else "")


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


def _find_classifiers(
    model: nn.Module,
    classifier: str | Sequence[str] | None,
    num_classes: Sequence[int],
    head_factory: HeadFactory | None,
) -> dict[str, nn.Module]:
    """Return the classifiers by path."""
    if classifier is None:
        paths = find_classifiers(model)
    else:
        paths = [classifier] if isinstance(classifier, str) else list(classifier)
    found = {}
    for path in paths:
        try:
            found[path] = module = model.get_submodule(path)
        except AttributeError:
            raise ClassifierNotFoundError(f"classifier {path!r} is not a module of the model") from None
        if module is model:
            raise ClassifierNotFoundError("the whole model cannot be its own classifier; name a layer of it")
        if head_factory is None:
            check_classifier(path, module, num_classes)
    return found


def _find_norms(
    model: nn.Module, skip: list[str], types: tuple[type[nn.Module], ...], classifiers: Sequence[str]
) -> dict[Site, nn.Module]:
    """Return the norms outside of classifiers: those without a reason to skip them are converted."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, types) or has_statistics(module):
            paths.setdefault(module, []).append(path)
    _check_skip(skip, [path for found in paths.values() for path in found])
    converted = [path for module, found in paths.items() if isinstance(module, types) for path in found]
    parents = (*classifiers, *converted)
    sites = {}
    for module, (first, *aliases) in paths.items():
        if _belongs_to_another(module, (first, *aliases), parents):
            continue
        excluded = any(_matches(path, skip) for path in (first, *aliases))
        reason = EXCLUDED if excluded else _reason_to_skip(model, first, module, types)
        sites[Site(first, type(module).__name__, tuple(aliases), reason)] = module
    return sites


def _belongs_to_another(module: nn.Module, paths: Sequence[str], parents: Sequence[str]) -> bool:
    """Return whether a norm is part of a site that gets branches as a whole.

    Raises:
        ConversionError: If it is, in one place, but not in another.
    """
    inside = [any(_inside(path, parent) for parent in parents) for path in paths]
    if any(inside) and not all(inside):
        raise ConversionError(
            f"the {type(module).__name__} {list(paths)} is used inside a norm or classifier that gets "
            "branches and outside of it as well; give each place a norm of its own"
        )
    return all(inside)


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


def _about_statistics(model: nn.Module, skipped: Sequence[Site]) -> str:
    stateful = [site for site in skipped if site.reason == NOT_BATCH_NORM]
    if not stateful:
        return ""
    return (
        f"{len(stateful)} modules of {type(model).__name__} keep running statistics but are no batch norms "
        f"and stay shared by all datasets, first {stateful[0].path!r} ({stateful[0].module})"
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
