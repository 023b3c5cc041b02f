from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import dabnn
from dabnn.data import TOY_DATASETS, ToyStreets, load_space
from dabnn.data.images import read_image
from dabnn.deploy import predict
from dabnn.deploy.predict import Ids, _values, predict_images, segment
from dabnn.errors import CheckpointError, ConfigError, DataError
from dabnn.evaluation import predict_logits
from dabnn.evaluation.views import choose_views
from dabnn.experiments.saved import load_model
from dabnn.models.stored.folder import info_of

HEIGHT, WIDTH = 64, 128
"""Of the toy scenes that the runs were trained on."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "photo.jpg", (333, 217))


def save(path: Path, size: tuple[int, int]) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_images_of_any_size_become_overlays(cdcl_run: Path, photo: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", (40, 20))

    files = predict_images(load_model(cdcl_run), [photo, other], tmp_path / "out" / "here", "sunvale")

    assert list(files) == [tmp_path / "out/here/photo_overlay.png", tmp_path / "out/here/other_overlay.png"]
    assert set(files.values()) == {"sunvale"}
    first, second = files
    with Image.open(first) as picture:
        assert picture.width == 333
        assert picture.height > 217
    with Image.open(second) as picture:
        assert picture.width >= 40


def test_the_branch_and_the_legend_are_those_of_the_dataset(
    cdcl_run: Path, photo: Path, tmp_path: Path
) -> None:
    pictures = {
        name: read_image(file)
        for name in TOY_DATASETS
        for file in predict_images(load_model(cdcl_run), [photo], tmp_path / name, name)
    }

    for name, picture in pictures.items():
        colors = {tuple(pixel) for pixel in picture[217:].reshape(-1, 3).tolist()}
        assert set(ToyStreets(name).palette) <= colors
    assert (pictures["northport"][:217] != pictures["oldtown"][:217]).any()


def test_a_run_of_one_dataset_needs_no_name(single_run: Path, photo: Path, tmp_path: Path) -> None:
    (file,) = predict_images(load_model(single_run), [photo], tmp_path)

    assert file.exists()


def test_without_a_name_each_image_gets_the_branch_it_is_most_like(
    cdcl_run: Path, photo: Path, tmp_path: Path
) -> None:
    """The branch that an image is most like is made so: its statistics are those of the image."""
    model = load_model(cdcl_run)
    images = dabnn.preprocess(model, photo)[..., :192, :320]  # this model takes multiples of 16
    images = torch.cat([images, images.flip(3)])
    for name in TOY_DATASETS:
        for dataset in TOY_DATASETS:
            blank = images if dataset == name else torch.zeros_like(images)
            dabnn.recalibrate_batch_norm(model, [{"image": blank}], dataset=dataset)
        dabnn.save_pretrained(model, tmp_path / name)
        (used,) = predict_images(load_model(tmp_path / name), [photo], tmp_path / "out").values()
        assert used == name


class Seen:
    """Notes the size of the images that the network gets."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[-2:]))
        return predict_logits(model, images)


def test_images_are_segmented_at_the_height_of_the_training_images_and_drawn_at_their_own(
    single_run: Path, tmp_path: Path
) -> None:
    large, small = save(tmp_path / "large.png", (1024, 512)), save(tmp_path / "small.png", (30, 32))
    seen = Seen()
    files = predict_images(
        load_model(single_run), [large, small], tmp_path / "out", ids="train", predict=seen
    )

    assert seen.sizes == [(HEIGHT, WIDTH), (HEIGHT, 60)]
    assert [read_image(file).shape[:2] for file in files] == [(512, 1024), (32, 30)]
    seen = Seen()
    predict_images(load_model(single_run), [large], tmp_path / "out", full_size=True, predict=seen)
    assert seen.sizes == [(512, 1024)]


def test_a_large_copy_of_a_training_image_is_segmented_as_the_image_is(
    single_run: Path, tmp_path: Path
) -> None:
    scene = ToyStreets("oldtown", "val")[0]["image"].permute(1, 2, 0).numpy()
    Image.fromarray(scene).save(tmp_path / "scene.png")
    Image.fromarray(scene).resize((4 * WIDTH, 4 * HEIGHT), Image.Resampling.BILINEAR).save(
        tmp_path / "big.png"
    )
    images = [tmp_path / "scene.png", tmp_path / "big.png"]
    own, big = (
        np.array(Image.open(f))
        for f in predict_images(load_model(single_run), images, tmp_path / "o", ids="train")
    )

    assert (big[2::4, 2::4] == own).mean() > 0.95


def test_scales_are_relative_to_the_size_of_the_training_images(single_run: Path, tmp_path: Path) -> None:
    large = save(tmp_path / "large.png", (1024, 512))
    seen: list[tuple[int, ...]] = []
    model = load_model(single_run)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    segment(model, read_image(large), "oldtown", choose_views([0.5, 2.0]))

    assert seen == [(HEIGHT // 2, WIDTH // 2), (2 * HEIGHT, 2 * WIDTH)]


def test_the_branch_is_guessed_at_the_mean_height_of_the_training_images(
    cdcl_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    guess = predict.guess_dataset
    monkeypatch.setattr(
        predict, "guess_dataset", lambda m, x: seen.append(tuple(x.shape[-2:])) or guess(m, x)
    )
    large = save(tmp_path / "large.png", (1024, 512))
    predict_images(load_model(cdcl_run), [large], tmp_path / "out")
    predict_images(load_model(cdcl_run), [large], tmp_path / "out", full_size=True)

    assert seen == [(HEIGHT, WIDTH), (512, 1024)]


@pytest.mark.parametrize(("dataset", "ids"), [("nowhere", None), (None, "train")])
def test_a_wrong_name_is_refused_and_ids_need_one(
    cdcl_run: Path, photo: Path, tmp_path: Path, dataset: str | None, ids: Ids | None
) -> None:
    with pytest.raises(ConfigError, match=r"northport.*oldtown.*sunvale.*--dataset"):
        predict_images(load_model(cdcl_run), [photo], tmp_path / "out", dataset, ids=ids)
    assert not (tmp_path / "out").exists()


def test_ids_are_grey_values_of_classes(single_run: Path, photo: Path, tmp_path: Path) -> None:
    (file,) = predict_images(load_model(single_run), [photo], tmp_path / "out", ids="train")

    model = load_model(single_run)
    (name,) = dabnn.dataset_names(model)
    assert file.name == "photo.png"
    with Image.open(file) as picture:
        assert picture.mode == "L"
        values = np.array(picture)
    assert np.array_equal(values, segment(model, read_image(photo), name))


def test_pictures_are_segmented_from_the_views_that_are_asked_for(
    single_run: Path, photo: Path, tmp_path: Path
) -> None:
    def last_class(model: nn.Module, images: Tensor) -> Tensor:
        logits = predict_logits(model, images)
        logits[:, -1] = torch.inf
        return logits

    (file,) = predict_images(load_model(single_run), [photo], tmp_path, ids="train", predict=last_class)

    (known,) = info_of(load_model(single_run)).datasets.values()
    assert (np.array(Image.open(file)) == len(known.classes) - 1).all()


def test_classes_without_colours_get_some(single_run: Path, photo: Path, tmp_path: Path) -> None:
    model = load_model(single_run)
    model.dabnn_info = None
    dabnn.save_pretrained(model, tmp_path / "model")
    (file,) = predict_images(load_model(tmp_path / "model"), [photo], tmp_path / "out")
    with Image.open(file) as picture:
        assert len(picture.getcolors(100_000)) > 1


def test_classes_of_cityscapes_have_label_ids_and_train_ids() -> None:
    classes = load_space("cityscapes").classes
    assert _values(classes, "label")[[0, 1, 13, 18]].tolist() == [7, 8, 26, 33]
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").trainId2label
    assert _values(classes, "label").tolist() == [labels[k].id for k in range(19)]
    assert _values(classes, "train").tolist() == list(range(19))


def test_label_ids_of_other_classes_are_refused_before_anything_is_written(
    single_run: Path, photo: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"only the classes of Cityscapes have label ids.*--ids train"):
        predict_images(load_model(single_run), [photo], tmp_path / "out", ids="label")
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_images_are_named(single_run: Path, photo: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(photo.read_bytes()[:500])
    text = tmp_path / "text.png"
    text.write_text("no image")

    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((32, 32), 40000, dtype=np.uint16)).save(deep)

    for path in (truncated, text, deep, tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            predict_images(load_model(single_run), [path], tmp_path / "out")


def test_two_images_of_one_name_are_refused(single_run: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = save(tmp_path / "b" / "photo.png", (32, 32))

    with pytest.raises(DataError, match="would both become"):
        predict_images(load_model(single_run), [photo, twin], tmp_path / "out")


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "side.jpg", exif=exif)

    assert read_image(tmp_path / "side.jpg").shape == (40, 20, 3)


def test_the_global_random_state_is_left_alone(single_run: Path, photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    predict_images(load_model(single_run), [photo], tmp_path)

    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("out", [".", "link"])
def test_no_picture_replaces_an_image_that_is_segmented(single_run: Path, tmp_path: Path, out: str) -> None:
    photo = save(tmp_path / "street.png", (64, 32))
    (tmp_path / "link").symlink_to(tmp_path)
    before = photo.read_bytes()

    with pytest.raises(DataError, match=r"street\.png is an image to segment, and would be replaced"):
        predict_images(load_model(single_run), [photo], tmp_path / out, ids="train")

    assert photo.read_bytes() == before


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    single_run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = predict_images(load_model(single_run), [photo], tmp_path / "out")
    before = file.read_bytes()

    def full(picture: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CheckpointError, match="No space left"):
        predict_images(load_model(single_run), [photo], tmp_path / "out")

    assert file.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file.name]
