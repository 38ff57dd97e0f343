"""Evaluation sets: what is left out, what is refused, and that pixels are decoded once."""

import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from piqi_planner.evaluation import dataset
from piqi_planner.evaluation.dataset import open_evaluation_set
from piqi_planner.images import ImageError, load_image
from piqi_runtime.decode import place

SHAPE = (1, 8, 8, 3)
COUNT = 40


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(folder / f"{i:02}.png")
    write_labels(folder, range(COUNT))
    return folder


def write_labels(folder, numbers):
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{i:02}.png,{i * 2}\n" for i in numbers))


def opened(folder, **options):
    return open_evaluation_set(folder, SHAPE, folder.parent / "cache", **options)


@pytest.mark.parametrize("preprocessing", ["signed", "unit", "raw"])
@pytest.mark.parametrize("fit", ["crop", "stretch", "letterbox"])
def test_frames_are_the_images(folder, preprocessing, fit):
    images = opened(folder, preprocessing=preprocessing, fit=fit)
    assert len(images) == COUNT and images.labels == tuple(range(0, 2 * COUNT, 2)) and images.left_out == ()
    assert images.sizes == ((12, 8),) * COUNT
    frames = pickle.loads(pickle.dumps(images)).frames(3, 4)
    expected = [load_image(path, SHAPE[1:], preprocessing, fit) for path in images.paths[3:7]]
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, expected)
    for first, count in ((-1, 2), (COUNT - 1, 2), (0, 0)):
        with pytest.raises(ImageError, match=rf"frames {first} to .* of {COUNT}"):
            images.frames(first, count)


def test_letterbox_pads_with_grey(tmp_path):
    Image.new("RGB", (16, 8), (255, 0, 0)).save(tmp_path / "wide.png")
    pixels = load_image(tmp_path / "wide.png", (8, 8, 3), "raw", "letterbox")
    assert (pixels[2:6] == [255, 0, 0]).all() and (pixels[:2] == 128).all() and (pixels[6:] == 128).all()
    where = place("letterbox", 16, 8, 8, 8)
    assert (where.width, where.height, where.left, where.top) == (8, 4, 0, 2)
    grey = load_image(tmp_path / "wide.png", (8, 8, 1), "raw", "letterbox")
    assert (grey[:2] == 128).all()


def test_bad_images_are_named_and_left_out(folder, caplog):
    (folder / "05.png").write_bytes(b"")
    whole = (folder / "06.png").read_bytes()
    (folder / "06.png").write_bytes(whole[: len(whole) // 2])
    (folder / "07.png").unlink()
    write_labels(folder, range(COUNT - 1))
    with caplog.at_level(logging.WARNING):
        images = opened(folder, max_bad_share=0.11)
    assert len(images) == COUNT - 4 and len(images.left_out) == 4
    assert [path.stem for path in images.paths[4:6]] == ["04", "08"] and images.labels[4:6] == (8, 16)
    np.testing.assert_array_equal(images.frames(5, 1)[0], load_image(images.paths[5], SHAPE[1:]))
    (record,) = caplog.records
    for text in ("left out 4 of 40 images", "39.png: has no label in", "05.png: is not an image", "07.png: No such"):
        assert text in record.getMessage()
    caplog.clear()
    again = opened(folder, max_bad_share=0.11)
    assert again.left_out == images.left_out and len(caplog.records) == 1
    with pytest.raises(ImageError, match=r"10\.0% of the images cannot be used, at most 5\.0% may: .*39.*05\.png.*06"):
        opened(folder)  # what is known from the cache is judged again


def test_too_many_bad_images_are_refused(folder):
    for i in range(10):
        (folder / f"{i:02}.png").write_bytes(b"no image")
    with pytest.raises(
        ImageError, match=r"labels\.csv: 22\.5% of the images cannot be used, at most 20\.0% may: .*; and 4 more"
    ):
        opened(folder, max_bad_share=0.2)
    assert list((folder.parent / "cache").iterdir()) == []  # nothing half written stays
    write_labels(folder, range(10, 15))
    with pytest.raises(ImageError, match="has no label"):
        opened(folder)


def test_exact_size(folder):
    with pytest.raises(ImageError, match="expected 8x8 pixels, got 12x8"):
        opened(folder, fit="exact")
    images = open_evaluation_set(folder, (1, 8, 12, 3), folder.parent / "cache", fit="exact")
    assert len(images) == COUNT


def test_images_are_decoded_once(folder, monkeypatch):
    first = opened(folder)
    calls = []
    original = dataset.load_pixels
    monkeypatch.setattr(dataset, "load_pixels", lambda *a: calls.append(a) or original(*a))
    second = opened(folder, preprocessing="raw")
    assert not calls and second.content_hash != first.content_hash
    np.testing.assert_allclose(second.frames(0, 2) / 127.5 - 1, first.frames(0, 2), atol=1e-6)
    content = first.pixels_file.read_bytes()
    first.pixels_file.write_bytes(content[:-10])
    third = opened(folder)
    assert len(calls) == COUNT and third.pixels_file.read_bytes() == content
    third.pixels_file.unlink()
    with pytest.raises(ImageError, match="missing or damaged"):
        pickle.loads(pickle.dumps(third)).frames(0, 1)


def test_hash_is_of_what_is_used(folder):
    known = opened(folder)
    assert known.content_hash == opened(folder).content_hash
    hashes = {known.content_hash}
    hashes |= {opened(folder, fit="stretch").content_hash, opened(folder, limit=10).content_hash}
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes())
    hashes.add(opened(folder).content_hash)
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("09.png,18", "09.png,19"))
    hashes.add(opened(folder).content_hash)
    assert len(hashes) == 5


def test_limit_is_evenly_spread(folder):
    assert opened(folder, limit=4).labels == (0, 20, 40, 60)
    assert len(opened(folder, limit=1000)) == COUNT
    for options, message in (
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"max_bad_share": 1.0}, r"max_bad_share must be .* got 1\.0"),
        ({"labels": "a", "annotations": "b"}, "not both"),
        ({"fit": "zoom"}, "fit must be one of crop, stretch, letterbox, exact, got 'zoom'"),
        ({"preprocessing": "mean"}, "preprocessing must be one of"),
    ):
        with pytest.raises(ImageError, match=message):
            opened(folder, **options)
    with pytest.raises(ImageError, match="images fill an input of shape"):
        open_evaluation_set(folder, (1, 8, 8), folder.parent / "cache")


def test_annotated_images(folder):
    content = {
        "images": [{"id": i, "file_name": f"{i:02}.png", "width": 12, "height": 8} for i in range(COUNT)],
        "categories": [{"id": 4, "name": "x"}],
        "annotations": [{"image_id": i, "category_id": 4, "bbox": [i, 0, 2, 2]} for i in range(0, COUNT, 2)],
    }
    content["images"][2]["width"] = 13
    file = folder.parent / "boxes.json"
    file.write_text(json.dumps(content))
    images = opened(folder, annotations=file, fit="letterbox")
    assert images.labels is None and len(images) == images.truth.frames == COUNT - 1
    assert "02.png: has 12x8 pixels, 13x8 in" in images.left_out[0]
    assert images.truth.boxes[images.truth.frame(3), 0].tolist() == [4]  # frame 3 is image 4 now
    content["annotations"][2]["bbox"][2] = 3
    file.write_text(json.dumps(content))
    assert opened(folder, annotations=file, fit="letterbox").content_hash != images.content_hash


def test_images_without_labels(folder):
    (folder / "labels.csv").unlink()
    images = opened(folder)
    assert images.labels is None and images.truth is None and len(images) == COUNT
