"""Datasets in their official layouts: raw samples where there are any, else fixtures in that layout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image as PILImage

from dabnn.data import CamVid, Cityscapes, FolderDataset, check_dataset, load_space, open_dataset
from dabnn.data.readers.camvid import split_of
from dabnn.data.readers.registry import READERS, splits_of
from dabnn.errors import DataError

RAW = {
    "cityscapes": ("cityscapes-raw-sample", "val", 1, (128, 256)),
    "bdd100k": ("bdd100k-raw-sample", "train", 2, (720, 1280)),
    "camvid": ("camvid-raw-sample", "test", 2, (360, 480)),
    "idd_lite": ("idd-lite-raw-sample/idd20k_lite", "train", 4, (227, 320)),
}


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(values).save(path)


def write_pair(image: Path, label: Path, ids: np.ndarray) -> None:
    """Write a grey image of 6x4 and its label."""
    write(image, np.full((4, 6, 3), 90, np.uint8))
    write(label, ids)


def ids(*values: int) -> np.ndarray:
    """A label of 6x4 that holds the values in turn."""
    return np.resize(np.array(values, np.uint8), (4, 6))


@pytest.mark.data
@pytest.mark.parametrize("kind", RAW)
def test_raw_sample(kind: str, data_root: Path) -> None:
    folder, split, samples, size = RAW[kind]
    dataset = open_dataset(kind, data_root / folder, split)
    assert dataset.name == kind
    report = check_dataset(dataset)
    assert (report.samples, report.sizes, report.problems) == (samples, {size: samples}, [])
    road = "drivable" if kind == "idd_lite" else "road"
    assert report.pixels[road] > 0.1 * sum(report.pixels.values())  # street scenes, and ids in their place


@pytest.mark.data
def test_label_ids_and_train_ids_of_cityscapes_are_the_same_classes(data_root: Path, tmp_path: Path) -> None:
    by_id = Cityscapes(data_root / "cityscapes-raw-sample", "val")
    shutil.copytree(data_root / "cityscapes-raw-sample", tmp_path / "train_ids")
    for label in (tmp_path / "train_ids").rglob("*_labelIds.png"):
        label.unlink()
    by_train_id = Cityscapes(tmp_path / "train_ids", "val")
    same = by_id[0]["mask"] == by_train_id[0]["mask"]
    assert same.float().mean() > 0.99  # the sample's two files were reduced one by one


@pytest.mark.data
def test_images_of_kitti_that_do_not_fit_their_labels_are_found(data_root: Path) -> None:
    report = check_dataset(open_dataset("kitti", data_root / "kitti-semantics-raw-sample", "train"))
    assert report.samples == 0
    assert all("is 1242x375 but its image" in problem for problem in report.problems)


@pytest.mark.data
def test_the_splits_of_camvid_by_frame_are_those_of_its_common_copy(data_root: Path) -> None:
    for split in ("train", "val", "test"):
        frames = [image.stem for image, _ in FolderDataset(data_root / "camvid-320", split).pairs]
        assert {split_of(frame) for frame in frames} == {split}


def test_cityscapes_ids_are_those_of_cityscapes_scripts() -> None:
    space = load_space("cityscapes_label_ids")
    table = space.table()
    for label in cityscapes_labels:
        if label.id >= 0:
            assert table[label.id] == label.trainId, label.name
        if 0 <= label.trainId < 255:
            assert space.classes[label.trainId] == label.name
            assert space.palette[label.trainId] == label.color


def test_label_ids_of_cityscapes_go_before_train_ids_which_serve_where_there_are_none(tmp_path: Path) -> None:
    image = tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    labels = tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png"
    write_pair(image, labels, ids(7, 33, 4))
    write(labels.with_name("ulm_000000_000019_gtFine_labelTrainIds.png"), ids(1, 2))
    assert open_dataset("cityscapes", tmp_path, "val")[0]["mask"].unique().tolist() == [0, 18, 255]
    labels.unlink()
    assert open_dataset("cityscapes", tmp_path, "val")[0]["mask"].unique().tolist() == [1, 2]


def test_bdd100k_of_2018(tmp_path: Path) -> None:
    seg = tmp_path / "seg"
    write_pair(seg / "images/train/0a1b.jpg", seg / "labels/train/0a1b_train_id.png", ids(0, 18, 255))
    dataset = open_dataset("bdd100k", tmp_path, "train")
    assert dataset[0]["mask"].unique().tolist() == [0, 18, 255]


def test_kitti(tmp_path: Path) -> None:
    training = tmp_path / "training"
    for frame in ("000000_10", "000001_10"):
        write_pair(training / f"image_2/{frame}.png", training / f"semantic/{frame}.png", ids(7, 26, 4))
    assert len(open_dataset("kitti", tmp_path, "train[:50%]")) == 1
    assert open_dataset("kitti", tmp_path, "train")[1]["mask"].unique().tolist() == [0, 13, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_idd(tmp_path: Path, suffix: str) -> None:
    write_pair(
        tmp_path / f"leftImg8bit/val/12/0001_leftImg8bit.{suffix}",
        tmp_path / "gtFine/val/12/0001_gtFine_labellevel3Ids.png",
        ids(0, 25, 255),
    )
    dataset = open_dataset("idd", tmp_path, "val")
    assert len(dataset.classes) == 26
    assert dataset[0]["mask"].unique().tolist() == [0, 25, 255]


def test_idd_lite_has_an_instance_label_beside_every_label(tmp_path: Path) -> None:
    labels = tmp_path / "gtFine/val/12"
    write_pair(tmp_path / "leftImg8bit/val/12/024541_image.jpg", labels / "024541_label.png", ids(0, 6, 255))
    write(labels / "024541_inst_label.png", ids(1))
    dataset = open_dataset("idd_lite", tmp_path, "val")
    assert dataset[0]["mask"].unique().tolist() == [0, 6, 255]


def test_ids_of_pascal_context_are_those_of_the_converter() -> None:
    """Its 2008_000002.png holds 0, 55 and 58: a monitor in front of a window."""
    space = load_space("pascal_context")
    assert (space.classes[space.ids[55]], space.classes[space.ids[58]]) == ("tvmonitor", "window")
    assert list(space.classes) == sorted(space.classes)
    assert space.ids == {index + 1: index for index in range(59)}
    assert len(set(space.palette)) == 59
    assert space.palette[space.classes.index("aeroplane")] == (128, 0, 0)  # the colours of PASCAL VOC
    assert space.palette[space.classes.index("tvmonitor")] == (0, 64, 128)


def test_pascal_context(tmp_path: Path) -> None:
    names = ("2008_000002", "2008_000001")
    for name in names:
        image, label = (tmp_path / folder / name for folder in ("JPEGImages", "SegmentationClassContext"))
        write_pair(image.with_suffix(".jpg"), label.with_suffix(".png"), ids(0, 1, 59))
    listed = tmp_path / "ImageSets" / "SegmentationContext" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(names))
    dataset = open_dataset("pascal_context", tmp_path, "train")
    assert [image.stem for image, _ in dataset.pairs] == sorted(names)
    assert len(dataset.classes) == 59
    assert dataset[0]["mask"].unique().tolist() == [0, 58, 255]  # background is void
    listed.write_text("\n".join([*names, "2008_000003"]))
    with pytest.raises(DataError, match=r"names 2 files that are not there, first .*2008_000003.jpg"):
        open_dataset("pascal_context", tmp_path, "train")


@pytest.fixture
def original_camvid(tmp_path: Path) -> Path:
    """The 32 colours of CamVid, one frame for each split."""
    colors = {"Sky": (128, 128, 128), "Tunnel": (64, 0, 64), "Train": (192, 64, 128), "Void": (0, 0, 0)}
    label = np.resize(np.array(list(colors.values()), np.uint8), (4, 6, 3))
    for frame in ("0001TP_006690", "0001TP_008550", "0016E5_07959", "Seq05VD_f00000"):
        image = tmp_path / f"701_StillsRaw_full/{frame}.png"
        write_pair(image, tmp_path / f"LabeledApproved_full/{frame}_L.png", label)
    return tmp_path


def test_the_colours_of_the_original_camvid(original_camvid: Path) -> None:
    lengths = [len(CamVid(original_camvid, split)) for split in ("train", "val", "test")]
    assert lengths == [1, 1, 2]
    dataset = CamVid(original_camvid, "val")
    found = [dataset.classes[i] for i in dataset[0]["mask"].unique().tolist() if i != 255]
    assert found == ["sky", "building", "car"]
    assert dataset[0]["mask"][0, :4].tolist() == [0, 1, 8, 255]


def test_a_colour_that_resampling_made_is_refused(original_camvid: Path) -> None:
    path = original_camvid / "LabeledApproved_full" / "0016E5_07959_L.png"
    write(path, np.full((4, 6, 3), 1, np.uint8))
    with pytest.raises(DataError, match=r"0016E5_07959_L.png has colours .*\(1, 1, 1\)"):
        CamVid(original_camvid, "val")[0]


def test_the_blended_colours_of_one_official_label_file_are_void(original_camvid: Path) -> None:
    label = np.zeros((4, 6, 3), np.uint8)
    label[0, :2] = (128, 128, 128), (26, 26, 26)  # sky, and an edge of it
    path = original_camvid / "LabeledApproved_full" / "Seq05VD_f02610_L.png"
    write_pair(original_camvid / "701_StillsRaw_full" / "Seq05VD_f02610.png", path, label)
    dataset = CamVid(original_camvid, "test")
    (index,) = (i for i, (_, file) in enumerate(dataset.pairs) if file == path)
    assert dataset[index]["mask"][0, :3].tolist() == [0, 255, 255]


def test_a_file_that_is_no_frame_of_the_original_camvid_is_named(original_camvid: Path) -> None:
    label = original_camvid / "LabeledApproved_full" / "0016E5_07959_L.png"
    for stray in ("0016E5_abc", "holiday"):
        image = original_camvid / f"701_StillsRaw_full/{stray}.png"
        write_pair(image, label.with_name(f"{stray}_L.png"), np.zeros((4, 6, 3), np.uint8))
        with pytest.raises(DataError, match=rf"{stray}\.png is no frame of CamVid"):
            CamVid(original_camvid, "train")
        image.unlink()
        label.with_name(f"{stray}_L.png").unlink()


OFFICIAL = [kind for kind in READERS if kind != "folder"]


@pytest.mark.parametrize("kind", OFFICIAL)
def test_a_split_that_there_is_not_is_refused_before_the_files_are_looked_for(
    kind: str, tmp_path: Path
) -> None:
    for split in ("vall", "vall[:50%]"):
        with pytest.raises(DataError, match=r"has no split 'vall'; it has train.*'train\[:80%\]'"):
            open_dataset(kind, tmp_path, split)


@pytest.mark.parametrize("kind", ["cityscapes", "bdd100k", "idd", "idd_lite", "kitti"])
def test_a_split_whose_labels_are_not_public_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels of the split 'test' of \w+ are not public: measure on"):
        open_dataset(kind, tmp_path, "test")


@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_numbers_of_images_are_those_of_splits_with_labels(kind: str) -> None:
    assert tuple(READERS[kind].official) == READERS[kind].splits


@pytest.mark.parametrize("kind", OFFICIAL)
def test_missing_data_gives_the_steps_to_get_it(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no ")) as error:
        open_dataset(kind, tmp_path, "train")
    assert "1. " in str(error.value)
    assert "Terms: " in str(error.value)


def image_and_label(kind: str) -> tuple[str, str]:
    """Where a training image and its label are in the layout of a reader."""
    return {
        "cityscapes": ("leftImg8bit/train/ulm/a_leftImg8bit.png", "gtFine/train/ulm/a_gtFine_labelIds.png"),
        "bdd100k": ("images/10k/train/a.jpg", "labels/sem_seg/masks/train/a.png"),
        "camvid": ("701_StillsRaw_full/0001TP_006690.png", "LabeledApproved_full/0001TP_006690_L.png"),
        "kitti": ("training/image_2/000000_10.png", "training/semantic/000000_10.png"),
        "idd": ("leftImg8bit/train/0/a_leftImg8bit.jpg", "gtFine/train/0/a_gtFine_labellevel3Ids.png"),
        "idd_lite": ("leftImg8bit/train/0/a_image.jpg", "gtFine/train/0/a_label.png"),
        "pascal_context": ("JPEGImages/2008_000001.jpg", "SegmentationClassContext/2008_000001.png"),
    }[kind]


@pytest.mark.parametrize("missing", ["image", "label"])
@pytest.mark.parametrize("kind", OFFICIAL)
def test_a_download_of_images_or_labels_alone_gives_the_steps_to_get_the_rest(
    kind: str, missing: str, tmp_path: Path
) -> None:
    image, label = image_and_label(kind)
    write(tmp_path / (label if missing == "image" else image), ids(0))
    listed = tmp_path / "ImageSets" / "SegmentationContext" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2008_000001")
    with pytest.raises(DataError, match=r"1\. .* Terms: ") as error:
        open_dataset(kind, tmp_path, "train")
    where = Path(image if missing == "image" else label).parts[0]
    assert "no " in str(error.value)
    assert where in str(error.value).partition("To get")[0]


@pytest.mark.data
def test_an_image_without_a_label_is_named(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "idd-lite-raw-sample" / "idd20k_lite", tmp_path / "data")
    (tmp_path / "data/gtFine/train/0/024541_label.png").unlink()
    with pytest.raises(DataError, match=r"without a label .*024541_image.jpg"):
        open_dataset("idd_lite", tmp_path / "data", "train")


def test_unknown_readers_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown dataset 'ade20k'; there are readers for folder, cityscapes"):
        open_dataset("ade20k", tmp_path, "train")


def test_splits(tmp_path: Path) -> None:
    assert splits_of("camvid", tmp_path) == ("train", "val", "test")
    with pytest.raises(DataError, match="has no folder images/<split>/"):
        splits_of("folder", tmp_path)
    (tmp_path / "images" / "night").mkdir(parents=True)
    assert splits_of("folder", tmp_path) == ("night",)
