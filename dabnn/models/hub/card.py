"""The model card of a published model: what it is, how good it is, how to use it, on what terms."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from dabnn.models.registry import find_entry
from dabnn.models.stored.info import DatasetInfo, ModelInfo

TAGS = ["dabnn", "semantic-segmentation", "autonomous-driving"]
TASK = "image-segmentation"
METRICS = {"miou": "mean_iou"}
"""What the Hub calls our metrics."""
TERMS = "LICENSE"
"""Name of the file with the terms of the weights."""


def model_card(info: ModelInfo, repo: str = "") -> str:
    """Return the text of a ``README.md`` with the metadata that the Hub reads.

    Args:
        info: What is known of the model.
        repo: Its repository ``org/name``, for the code that loads it; else its alias in the zoo.
    """
    build = info.build
    title = info.name or (build.source.name if build is not None else "A dataset-aware model")
    entry = find_entry(info.name)
    source = repo or ("FOLDER" if entry is None else entry.alias)
    first = next(iter(info.datasets))
    parts = [
        f"---\n{_metadata(info, title).to_yaml()}\n---",
        f"# {title}",
        _summary(info),
        _table(info),
        f"## Use\n\n```python\n{_code(source, first)}\n```",
        f"Input images are RGB in [0, 1], normalised with mean {list(info.mean)} and standard deviation "
        f"{list(info.std)}; `dabnn.preprocess` does it, and scales them to the height of the images of the "
        "dataset, where the table says it: at other sizes the network is worse.",
    ]
    if info.recipe:
        parts.append(f"## Training\n\n{info.recipe}")
    if info.notes:
        parts.append(f"## Notes\n\n{info.notes.strip()}")
    if info.licence:
        parts.append(f"## Terms\n\n{info.licence}")
    return "\n\n".join(parts) + "\n"


def _summary(info: ModelInfo) -> str:
    parts = [f"One network for {len(info.datasets)} datasets, made with dabnn."]
    if info.build is not None:
        source = info.build.source
        arguments = ", ".join(f"{name} {value}" for name, value in source.arguments.items())
        parts.append(f"It is a {source.name} of {source.library.replace('_', '-')} ({arguments}).")
        counts = f"norms ({len(info.build.norms)}) and classifiers ({len(info.build.classifiers)})"
        parts.append(f"Its {counts} have a branch for each dataset, everything else is shared.")
    if info.paper:
        parts.append(f"After: {info.paper}. These are not the paper's weights.")
    return " ".join(parts)


def _metadata(info: ModelInfo, title: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=name,
            dataset_name=name,
            dataset_split=dataset.split or None,
            metric_type=METRICS.get(metric, metric),
            metric_name=f"{metric} %",
            metric_value=round(value, 2),
        )
        for name, dataset in info.datasets.items()
        for metric, value in dataset.metrics.items()
    ]
    return ModelCardData(
        library_name="dabnn",
        pipeline_tag=TASK,
        tags=TAGS,
        license="other" if info.licence else None,
        license_name="see-card" if info.licence else None,
        license_link=TERMS if info.licence else None,
        model_name=title if results else None,
        eval_results=results or None,
    )


def _table(info: ModelInfo) -> str:
    datasets = info.datasets.values()
    metrics = dict.fromkeys(metric for dataset in datasets for metric in dataset.metrics)
    columns = {
        "dataset": list(info.datasets),
        "classes": [str(len(dataset.classes)) for dataset in datasets],
        "image size": [_size(dataset) for dataset in datasets],
        **{f"{name} %": [_value(dataset, name) for dataset in datasets] for name in metrics},
        "measured on": [dataset.split for dataset in datasets],
        "terms of the data": [dataset.licence for dataset in datasets],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [columns, ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _size(dataset: DatasetInfo) -> str:
    return "" if dataset.size is None else f"{dataset.size[1]}x{dataset.size[0]}"


def _value(dataset: DatasetInfo, metric: str) -> str:
    return f"{dataset.metrics[metric]:.1f}" if metric in dataset.metrics else ""


def _code(name: str, dataset: str) -> str:
    return (
        "import dabnn\n\n"
        f'model = dabnn.from_pretrained("{name}")\n'
        f'images = dabnn.preprocess(model, "street.jpg", dataset="{dataset}")\n'
        f'with dabnn.use_dataset(model, "{dataset}"):\n'
        "    logits = model(images)\n"
        f'plain = dabnn.from_pretrained("{name}", dataset="{dataset}")  # a plain network'
    )
