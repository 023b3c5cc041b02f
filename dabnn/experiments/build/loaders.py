"""Build the loaders of an experiment."""

from __future__ import annotations

from dabnn.data import SeededLoader, SegmentationDataset, eval_transform, train_transform
from dabnn.experiments.config import Config


def build_train_loader(config: Config, dataset: SegmentationDataset, seed: int) -> SeededLoader:
    """Return the shuffled, augmented loader; its batches depend on the seed and the dataset alone."""
    images = config.images
    transform = train_transform(
        images.crop,
        scale=images.scale,
        flip=images.flip,
        jitter=images.jitter,
        mean=images.mean,
        std=images.std,
        ignore_index=dataset.ignore_index,
    )
    return SeededLoader(
        dataset,
        config.training.batch_size,
        transform=transform,
        seed=seed,
        num_workers=config.training.workers,
    )


def build_eval_loader(config: Config, dataset: SegmentationDataset, *, shuffle: bool = False) -> SeededLoader:
    """Return the loader of whole images, one by one since sizes may differ; in file order or shuffled."""
    transform = eval_transform(mean=config.images.mean, std=config.images.std)
    return SeededLoader(dataset, 1, transform=transform, shuffle=shuffle, drop_last=False)
