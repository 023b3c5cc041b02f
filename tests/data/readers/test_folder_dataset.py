from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision.tv_tensors import Image, Mask

from dabnn.data import FolderDataset
from dabnn.errors import DataError

CLASSES = {"classes": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]], "ignore_index": 255}


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """Three images in train, one in val; the label of sample "b" is palette, the others grey."""
    root = tmp_path / "town"
    for folder in ("images/train", "images/val", "labels/train", "labels/val"):
        (root / folder).mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    for split, stem, suffix in (
        ("train", "b", "jpg"),
        ("train", "a", "png"),
        ("train", "c", "JPEG"),
        ("val", "d", "jpg"),
    ):
        save_image(root / f"images/{split}/{stem}.{suffix}")
        save_label(root / f"labels/{split}/{stem}.png", palette=stem == "b")
    return root


def save_image(path: Path, size: tuple[int, int] = (48, 32)) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(path)


def save_label(
    path: Path, *, value: int = 1, palette: bool = False, size: tuple[int, int] = (48, 32)
) -> None:
    ids = np.zeros((size[1], size[0]), dtype=np.uint8)
    ids[0, 0], ids[1, 0] = value, 255
    label = PILImage.fromarray(ids)
    if palette:
        label = label.convert("P")
        label.putpalette([9, 9, 9] * 256)
    label.save(path)


def test_reads_samples_in_order_of_their_names(town: Path) -> None:
    dataset = FolderDataset(town, "train")

    assert len(dataset) == 3
    assert [image.stem for image, _ in dataset.pairs] == ["a", "b", "c"]
    assert dataset.name == "town"
    assert dataset.classes == ("road", "sky")
    assert dataset.palette == ((128, 64, 128), (70, 130, 180))
    assert dataset.ignore_index == 255
    assert FolderDataset(str(town), "val", name="other").name == "other"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_sample_has_rgb_bytes_and_class_ids(town: Path, index: int) -> None:
    sample = FolderDataset(town, "train")[index]

    assert isinstance(sample["image"], Image)
    assert isinstance(sample["mask"], Mask)
    assert sample["image"].shape == (3, 32, 48)
    assert sample["image"].dtype == sample["mask"].dtype == torch.uint8
    assert sample["mask"][:3, 0].tolist() == [1, 255, 0]


def test_image_has_the_pixels_of_the_file(town: Path) -> None:
    with PILImage.open(town / "images/train/a.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)

    assert torch.equal(FolderDataset(town, "train")[0]["image"], expected)


@pytest.mark.parametrize("index", [-1, 3])
def test_index_outside_the_dataset(town: Path, index: int) -> None:
    with pytest.raises(IndexError, match="'town' has samples 0 to 2"):
        FolderDataset(town, "train")[index]


def test_any_ignore_index_of_the_files_becomes_255(town: Path) -> None:
    (town / "classes.json").write_text(json.dumps(CLASSES | {"ignore_index": 200}))
    for path in (town / "labels" / "val").iterdir():
        ids = np.array(PILImage.open(path))
        PILImage.fromarray(np.where(ids == 255, 200, ids).astype(np.uint8)).save(path)

    dataset = FolderDataset(town, "val")

    assert dataset.ignore_index == 255
    assert sorted(dataset[0]["mask"].unique().tolist()) == [0, 1, 255]
    with pytest.raises(DataError, match=r"label ids \[255\].*200 for void"):
        FolderDataset(town, "train")[0]


def test_image_of_more_than_eight_bits_is_refused_since_decoders_clip_it(town: Path) -> None:
    deep = np.full((32, 48), 40000, dtype=np.uint16)
    PILImage.fromarray(deep).save(town / "images" / "train" / "a.png")

    with pytest.raises(DataError, match=r"a\.png has more than 8 bits"):
        FolderDataset(town, "train")[0]


def test_a_part_of_a_split_is_cut_in_the_order_of_names(town: Path) -> None:
    def stems(split: str) -> list[str]:
        return [image.stem for image, _ in FolderDataset(town, split).pairs]

    assert stems("train[:67%]") == ["a", "b"]
    assert stems("train[67%:]") == ["c"]
    assert stems("train[34%:67%]") == ["b"]
    assert stems("train[:]") == stems("train")
    for split in ("train[80%:20%]", "train[:120%]", "train[:2]", "train[", ""):
        with pytest.raises(DataError, match="must be a sub-folder or a part of one"):
            FolderDataset(town, split)


def test_unknown_split_names_the_available_ones(town: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'test': available are train, val"):
        FolderDataset(town, "test")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.classes.json does not exist"):
        FolderDataset(tmp_path / "nowhere", "train")


def test_split_without_images(town: Path) -> None:
    (town / "images/empty").mkdir()
    with pytest.raises(DataError, match=r"images.empty holds no \.jpg"):
        FolderDataset(town, "empty")


def test_image_without_label(town: Path) -> None:
    (town / "labels/train/b.png").unlink()
    with pytest.raises(DataError, match=r"images without a label in .*labels.train: b\.jpg"):
        FolderDataset(town, "train")


def test_labels_folder_missing_names_a_few_files_only(town: Path) -> None:
    for number in range(9):
        save_image(town / f"images/train/z{number}.jpg")
    with pytest.raises(DataError, match=r"z0\.jpg, z1\.jpg, z2\.jpg, z3\.jpg, z4\.jpg and 4 more"):
        FolderDataset(town, "train")


def test_label_without_image(town: Path) -> None:
    save_label(town / "labels/train/lonely.png")
    with pytest.raises(DataError, match=r"labels without an image in .*images.train: lonely\.png"):
        FolderDataset(town, "train")


def test_two_images_of_one_name(town: Path) -> None:
    save_image(town / "images/train/a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png"):
        FolderDataset(town, "train")


def test_other_files_are_left_alone(town: Path) -> None:
    (town / "images/train/Thumbs.db").write_bytes(b"x")
    (town / "images/train/._a.png").write_bytes(b"x")
    (town / "labels/train/.DS_Store").write_bytes(b"x")
    assert len(FolderDataset(town, "train")) == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"classes": []}, "'classes' must be a list of names"),
        ({"classes": ["road", 1]}, "'classes' must be a list of names"),
        ({"classes": ["road", "road"]}, "'classes' has a name twice"),
        ({"palette": [[0, 0, 0]]}, "for each of the 2 classes"),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, r"in 0\.\.255"),
        ({"palette": [[0, 0, 0], [0, 0]]}, r"\[red, green, blue\]"),
        ({"ignore_index": 1}, r"'ignore_index' must be in 2\.\.255"),
        ({"ignore_index": None}, r"'ignore_index' must be in 2\.\.255"),
    ],
)
def test_wrong_classes_json(town: Path, change: dict[str, object], problem: str) -> None:
    (town / "classes.json").write_text(json.dumps(CLASSES | change))
    with pytest.raises(DataError, match=rf"classes\.json: .*{problem}"):
        FolderDataset(town, "train")


@pytest.mark.parametrize("text", ["{", "[]", '{"classes": []}', '"words"', ""])
def test_malformed_classes_json(town: Path, text: str) -> None:
    (town / "classes.json").write_text(text)
    with pytest.raises(DataError, match=r"classes\.json is not a JSON object with the keys"):
        FolderDataset(town, "train")


def test_label_of_another_size(town: Path) -> None:
    save_label(town / "labels/val/d.png", size=(24, 16))
    with pytest.raises(DataError, match=r"d\.png is 24x16 but its image .*d\.jpg is 48x32"):
        FolderDataset(town, "val")[0]


def test_label_id_outside_the_classes(town: Path) -> None:
    save_label(town / "labels/val/d.png", value=7)
    with pytest.raises(DataError, match=r"d\.png has label ids \[7\], outside the 2 classes .*'town'"):
        FolderDataset(town, "val")[0]


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(
    "file", ["images/train/a.png", "images/train/b.jpg", "labels/train/a.png", "labels/train/b.png"]
)
def test_truncated_file(town: Path, file: str, kept: float) -> None:
    content = (town / file).read_bytes()
    (town / file).write_bytes(content[: int(len(content) * kept)])
    dataset = FolderDataset(town, "train")

    with pytest.raises(DataError, match=rf"{Path(file).name} cannot be decoded"):
        dataset["ab".index(Path(file).stem)]


def test_label_that_is_a_colour_picture(town: Path) -> None:
    save_image(town / "labels/val/d.png")
    with pytest.raises(DataError, match=r"d\.png is no 8-bit palette or grey PNG"):
        FolderDataset(town, "val")[0]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_grey_label_of_two_bits_is_refused_since_decoders_stretch_its_ids(town: Path) -> None:
    header = struct.pack(">2I5B", 48, 32, 2, 0, 0, 0, 0)  # width, height, bits, grey
    ones = zlib.compress((b"\0" + b"\x55" * 12) * 32)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", ones), png_chunk(b"IEND", b"")]
    (town / "labels/val/d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(DataError, match=r"d\.png is no 8-bit palette or grey PNG"):
        FolderDataset(town, "val")[0]


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "split", "length", "n_classes", "size"),
    [
        ("cityscapes-256", "val", 500, 19, (128, 256)),
        ("camvid-320", "train", 367, 11, (240, 320)),
        ("idd-lite", "dev", 118, 7, (227, 320)),
    ],
)
def test_real_datasets(
    data_root: Path, folder: str, split: str, length: int, n_classes: int, size: tuple[int, int]
) -> None:
    dataset = FolderDataset(data_root / folder, split)

    assert (len(dataset), len(dataset.classes), dataset.name) == (length, n_classes, folder)
    for index in (0, length // 2, length - 1):
        sample = dataset[index]
        assert sample["image"].shape == (3, *size)
        assert sample["mask"].shape == size
