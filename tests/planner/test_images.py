"""Images from files, whole and broken ones."""

import numpy as np
import pytest
from PIL import Image

from piqi_planner.images import ImageError, load_image, load_image_set


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("file,label,wnid\n" + "".join(f"{i}.png,{i * 2},x\n" for i in range(5)))
    return tmp_path


def pixels(folder, name="0.png"):
    return np.asarray(Image.open(folder / name), np.float32)


def test_labels_and_order(folder):
    images = load_image_set(folder)
    assert images.labels == (0, 2, 4, 6, 8)
    assert [path.name for path in images.paths] == [f"{i}.png" for i in range(5)]
    (folder / "labels.csv").rename(folder / "other.csv")
    assert load_image_set(folder).labels is None
    assert len(load_image_set(folder)) == 5
    assert load_image_set(folder, folder / "other.csv").labels == (0, 2, 4, 6, 8)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [("raw", lambda x: x), ("unit", lambda x: x / 255), ("signed", lambda x: x / 127.5 - 1)],
)
def test_preprocessing(folder, preprocessing, expected):
    image = load_image(folder / "0.png", (8, 8, 3), preprocessing)
    assert image.dtype == np.float32 and image.shape == (8, 8, 3)
    np.testing.assert_allclose(image, expected(pixels(folder)), atol=1e-6)


def test_batches(folder):
    batches = list(load_image_set(folder).batches((1, 8, 8, 3), "raw", batch=2))
    assert [batch.shape for batch in batches] == [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)]
    np.testing.assert_array_equal(batches[1][0], pixels(folder, "2.png"))
    grey = next(load_image_set(folder).batches((1, 8, 8, 1), "raw"))
    np.testing.assert_array_equal(grey[0, :, :, 0], np.asarray(Image.open(folder / "0.png").convert("L")))


def test_sample_is_evenly_spread(folder):
    images = load_image_set(folder)
    assert images.sample(2).labels == (0, 4)
    assert images.sample(5).labels == images.sample(9).labels == images.labels
    with pytest.raises(ImageError, match="at least one image, got 0"):
        images.sample(0)


def test_crop_keeps_the_centre(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (load_image(tmp_path / "wide.png", (8, 8, 3), "raw", "crop") == 200).all()
    stretched = load_image(tmp_path / "wide.png", (8, 8, 3), "raw", "stretch")
    assert stretched.min() == 0 and stretched.max() == 200
    assert load_image(tmp_path / "wide.png", (20, 30, 3)).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"wide\.png: expected 8x8 pixels, got 16x8"):
        load_image(tmp_path / "wide.png", (8, 8, 3), fit="exact")


def test_broken_images(folder):
    whole = (folder / "0.png").read_bytes()
    for name, content in (("empty.png", b""), ("text.png", b"no image"), ("cut.png", whole[: len(whole) // 2])):
        (folder / name).write_bytes(content)
        with pytest.raises(ImageError, match=name.replace(".", r"\.")):
            load_image(folder / name, (8, 8, 3))
    with pytest.raises(ImageError, match=r"absent\.png: No such file"):
        load_image(folder / "absent.png", (8, 8, 3))


def test_images_that_would_fill_the_memory(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    with pytest.raises(ImageError, match=r"huge\.png"):
        load_image(tmp_path / "huge.png", (8, 8, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na,1\n", "needs the columns file and label"),
        ("", "needs the columns file and label"),
        ("file,label\n", "lists no images"),
        ("file,label\na.png,cat\n", r"labels\.csv:2: expected a file and a label >= 0, got 'a\.png', 'cat'"),
        ("file,label\na.png,-1\n", r"labels\.csv:2"),
        ("file,label\na.png\n", r"labels\.csv:2"),
    ],
)
def test_broken_labels(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ImageError, match=message):
        load_image_set(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(ImageError, match="has no images"):
        load_image_set(tmp_path)
    with pytest.raises(ImageError, match="is not a folder"):
        load_image_set(tmp_path / "absent")
    with pytest.raises(ImageError, match=r"absent\.csv: No such file"):
        load_image_set(tmp_path, tmp_path / "absent.csv")


def test_inputs_that_images_do_not_fit(folder):
    for shape in ((1, 8, 8), (1, 8, 8, 5)):
        with pytest.raises(ImageError, match="images fill an input of shape"):
            next(load_image_set(folder).batches(shape))
    with pytest.raises(ImageError, match="preprocessing must be one of signed, unit, raw, got 'mean'"):
        load_image(folder / "0.png", (8, 8, 3), "mean")
