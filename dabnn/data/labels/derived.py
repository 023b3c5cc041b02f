"""Datasets made of others: in another label space, or several as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import ConcatDataset
from torchvision.tv_tensors import Mask

from dabnn.data.base import Sample, SegmentationDataset
from dabnn.data.labels.maps import LabelMap
from dabnn.data.labels.spaces import LabelSpace
from dabnn.errors import DataError


class JoinedDataset(SegmentationDataset):
    """Datasets of one label space as one, one after the other.

    Args:
        datasets: With the same classes.
        name: Dataset name.

    Raises:
        DataError: There is no dataset, or their classes differ.
    """

    def __init__(self, datasets: Sequence[SegmentationDataset], name: str) -> None:
        if not datasets or len({dataset.classes for dataset in datasets}) > 1:
            names = [dataset.name for dataset in datasets]
            raise DataError(
                f"only datasets with the same classes can be joined, not {names}; relabel them first"
            )
        self.name = name
        self.classes, self.palette = datasets[0].classes, datasets[0].palette
        self._samples: ConcatDataset[Sample] = ConcatDataset(datasets)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index``.

        Raises:
            IndexError: ``index`` is negative or too large.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"dataset '{self.name}' has samples 0 to {len(self) - 1}, not {index}")
        return self._samples[index]


class RelabelledDataset(SegmentationDataset):
    """A dataset in another label space.

    Args:
        dataset: The original; its files are read as before.
        label_map: From its classes to others.
        space: Label space of the result; its classes are the target of the map.
        name: Dataset name; that of the original if left out.

    Raises:
        DataError: The map does not start at the classes of the dataset, or end at those of the space.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        label_map: LabelMap,
        space: LabelSpace,
        *,
        name: str | None = None,
    ) -> None:
        if dataset.classes != label_map.source or space.classes != label_map.target:
            raise DataError(
                f"the map is from {list(label_map.source)} to {list(label_map.target)}, the dataset has "
                f"{list(dataset.classes)} and the label space {list(space.classes)}"
            )
        self.dataset = dataset
        self.label_map = label_map
        self.name = name if name is not None else dataset.name
        self.classes, self.palette = space.classes, space.palette

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def image_size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, as the original says."""
        return self.dataset.image_size(index)

    def __getitem__(self, index: int) -> Sample:
        """Return sample ``index`` with a mask of the new class ids."""
        sample = self.dataset[index]
        mask = self.label_map.relabel(sample["mask"].as_subclass(Tensor))
        return {"image": sample["image"], "mask": Mask(mask)}
