"""The model card of a published model: what it is, how good it is, how to use it, on what terms."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from dabnn.models.info import ModelInfo

TAGS = ["dabnn", "semantic-segmentation", "autonomous-driving"]
TASK = "image-segmentation"
TERMS = "LICENSE"
"""Name of the file with the terms of the weights."""


def model_card(info: ModelInfo, repo: str = "") -> str:
    """Return the text of a ``README.md`` with the metadata that the Hub reads.

    Args:
        info: What is known of the model.
        repo: Its repository ``org/name``, for the code that loads it.
    """
    build = info.build
    title = info.name or (build.source.name if build is not None else "A dataset-aware model")
    first = next(iter(info.datasets))
    parts = [
        f"---\n{_metadata(info, title).to_yaml()}\n---",
        f"# {title}",
        _summary(info),
        _table(info),
        f"## Use\n\n```python\n{_code(repo or 'FOLDER', first)}\n```",
        f"Input images are RGB in [0, 1], normalised with mean {list(info.mean)} and standard deviation "
        f"{list(info.std)}; `dabnn.preprocess` does it.",
    ]
    if info.recipe:
        parts.append(f"## Training\n\n{info.recipe}")
    if info.licence:
        parts.append(f"## Terms\n\n{info.licence}")
    return "\n\n".join(parts) + "\n"


def _summary(info: ModelInfo) -> str:
    parts = [f"One network for {len(info.datasets)} datasets, made with dabnn."]
    if info.build is not None:
        counts = f"{len(info.build.norms)} norms and {len(info.build.classifiers)} classifiers"
        parts.append(f"{counts} have a branch for each dataset, everything else is shared.")
    if info.paper:
        parts.append(f"After: {info.paper}.")
    return " ".join(parts)


def _metadata(info: ModelInfo, title: str) -> ModelCardData:
    results = [
        EvalResult(TASK, name, name, metric, round(value, 2), dataset_split=dataset.split or None)
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
    metrics = list(dict.fromkeys(metric for d in info.datasets.values() for metric in d.metrics))
    header = [
        "dataset",
        "classes",
        *(f"{metric} %" for metric in metrics),
        *(["measured on"] if metrics else []),
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for name, dataset in info.datasets.items():
        values = [f"{dataset.metrics[m]:.1f}" if m in dataset.metrics else "" for m in metrics]
        cells = [name, str(len(dataset.classes)), *values, *([dataset.split] if metrics else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _code(name: str, dataset: str) -> str:
    return (
        "import dabnn\n\n"
        f'model = dabnn.from_pretrained("{name}")\n'
        'images = dabnn.preprocess(model, "street.jpg")\n'
        f'with dabnn.use_dataset(model, "{dataset}"):\n'
        "    logits = model(images)\n"
        f'plain = dabnn.from_pretrained("{name}", dataset="{dataset}")  # a plain network'
    )
