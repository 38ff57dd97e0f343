"""Frames to inputs: bit for bit what the planner does with Pillow, and nothing for sizes that contradict each other."""

import itertools
import threading

import numpy as np
import pytest

import piqi_native

Image = pytest.importorskip("PIL.Image")
images = pytest.importorskip("piqi_planner.images")
if int(pytest.importorskip("PIL").__version__.split(".")[0]) < 13:
    pytest.skip("Pillow before 13 resizes some upright frames in another order of axes", allow_module_level=True)

FITS = ("crop", "stretch", "letterbox")
#: Width and height: up, down, one axis only, odd, extreme.
SIZES = [(640, 480), (480, 640), (224, 224), (225, 223), (57, 31), (31, 57), (1, 1), (2, 700), (1200, 3), (48, 64)]


def picture(width, height, channels, seed=0):
    """Noise with bright and dark areas, so that clipping and rounding show."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
    pixels[: height // 3] = rng.choice(np.array([0, 255], np.uint8), pixels[: height // 3].shape)
    return pixels


def converted(pixels, shape, preprocessing="raw", fit="crop", colour="rgb", format=None, padding=0):
    height, width, channels = pixels.shape
    rows = np.full((height, width * channels + padding), 77, np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    target = np.full((1, *shape), np.nan, np.float32)
    format = format or {1: "grey8", 3: "rgb8"}[channels]
    piqi_native.convert_frame(rows, width, height, rows.shape[1], format, target, preprocessing, fit, colour)
    return target[0]


def expected(pixels, shape, preprocessing="raw", fit="crop"):
    """By the planner's own code."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    fitted = images._fitted(image.convert(images.MODES[shape[2]]), shape[1], shape[0], fit)
    return images.preprocess(np.asarray(fitted, np.uint8).reshape(shape), preprocessing)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_planner(size, fit):
    for source, target, side in itertools.product((1, 3), (1, 3), (64, 97)):
        shape = (side, 64, target)
        pixels = picture(*size, source)
        result = converted(pixels, shape, fit=fit, colour={1: "grey", 3: "rgb"}[target], padding=5)
        np.testing.assert_array_equal(result, expected(pixels, shape, fit=fit), f"{source} to {shape}")


@pytest.mark.parametrize("preprocessing", ["signed", "unit", "raw"])
def test_preprocessing_is_the_planners(preprocessing):
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    result = converted(pixels, (16, 16, 3), preprocessing)
    np.testing.assert_array_equal(result, expected(pixels, (16, 16, 3), preprocessing))


def test_random_sizes():
    rng = np.random.default_rng(1)
    for i in range(150):
        width, height, side_x, side_y = rng.integers(1, 160, 4).tolist()
        fit, channels = FITS[i % 3], int(rng.choice([1, 3]))
        pixels = picture(width, height, channels, i)
        result = converted(pixels, (side_y, side_x, 3), "signed", fit)
        np.testing.assert_array_equal(
            result,
            expected(pixels, (side_y, side_x, 3), "signed", fit),
            f"{width}x{height} to {side_x}x{side_y}, {fit}",
        )


def test_every_grey_of_colour():
    """Pillow's luma, over all reds and greens and some blues."""
    red, green = np.meshgrid(np.arange(256), np.arange(256))
    for blue in (0, 1, 100, 254, 255):
        pixels = np.stack([red, green, np.full_like(red, blue)], 2).astype(np.uint8)
        np.testing.assert_array_equal(converted(pixels, (256, 256, 1), colour="grey"), expected(pixels, (256, 256, 1)))


def test_order_of_colours():
    pixels = picture(50, 40, 3)
    rgb = converted(pixels, (32, 32, 3))
    np.testing.assert_array_equal(converted(pixels, (32, 32, 3), colour="bgr"), rgb[:, :, ::-1])
    np.testing.assert_array_equal(converted(pixels[:, :, ::-1], (32, 32, 3), format="bgr8"), rgb)
    np.testing.assert_array_equal(
        converted(pixels[:, :, ::-1], (32, 32, 3), format="bgr8", colour="bgr"), rgb[:, :, ::-1]
    )
    np.testing.assert_array_equal(
        converted(pixels[:, :, ::-1], (32, 32, 1), format="bgr8", colour="grey"),
        converted(pixels, (32, 32, 1), colour="grey"),
    )


def test_a_photograph(data_dir):
    path = next((p for p in sorted(data_dir.rglob("*")) if p.suffix.lower() in images.SUFFIXES), None)
    if path is None:
        pytest.skip("the reference data has no picture")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    for fit in FITS:
        result = converted(pixels, (224, 224, 3), "signed", fit)
        np.testing.assert_array_equal(result, images.load_image(path, (224, 224, 3), "signed", fit))


def test_any_buffer():
    pixels = picture(8, 8, 3)
    target = np.zeros((1, 8, 8, 3), np.float32)
    for source in (pixels.tobytes(), bytearray(pixels.tobytes()), memoryview(pixels.tobytes()), pixels.reshape(-1)):
        target[:] = 0
        piqi_native.convert_frame(source, 8, 8, 24, "rgb8", target, "raw", "exact", "rgb")
        np.testing.assert_array_equal(target[0], pixels)


def test_threads_do_not_disturb_each_other():
    work = [(picture(40 + 7 * i, 90 - 5 * i, 3, i), (20 + i, 30, 3)) for i in range(6)]
    failures = []

    def run(pixels, shape):
        reference = expected(pixels, shape, "unit", "letterbox")
        results = (converted(pixels, shape, "unit", "letterbox") for _ in range(50))
        failures.extend(pixels.shape for result in results if not np.array_equal(result, reference))

    threads = [threading.Thread(target=run, args=item) for item in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def arguments(**changes):
    values = {
        "source": bytes(192),
        "width": 8,
        "height": 8,
        "stride": 24,
        "format": "rgb8",
        "destination": np.zeros((1, 4, 4, 3), np.float32),
        "preprocessing": "raw",
        "fit": "crop",
        "colour": "rgb",
    }
    return values | changes


def read_only():
    array = np.zeros((1, 4, 4, 3), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width must be from 1 to 32768, got 0"),
        ({"height": -1}, "height must not be negative, got -1"),
        ({"stride": 23}, "stride must be at least a row's 24 bytes, got 23"),
        ({"source": bytes(191)}, "need more than the 191 bytes"),
        ({"stride": 1 << 62}, "need more than"),
        ({"format": "yuyv"}, "format must be one of rgb8, bgr8, grey8, got 'yuyv'"),
        ({"preprocessing": "half"}, "preprocessing must be one of signed, unit, raw, got 'half'"),
        ({"fit": "pad"}, "fit must be one of crop, stretch, letterbox, exact, got 'pad'"),
        ({"colour": "hsv"}, "colour must be one of rgb, bgr, grey, got 'hsv'"),
        ({"fit": "exact"}, r"expected 4x4 pixels \(fit exact\), got 8x8"),
        ({"destination": np.zeros((1, 4, 4, 3))}, r"float32 array \[1, H, W, 3\], got float64 \(1, 4, 4, 3\)"),
        ({"destination": np.zeros((2, 4, 4, 3), np.float32)}, r"got float32 \(2, 4, 4, 3\)"),
        ({"destination": np.zeros((1, 4, 4, 1), np.float32)}, r"got float32 \(1, 4, 4, 1\)"),
        ({"destination": np.zeros((1, 4, 8, 3), np.float32)[:, :, ::2]}, "C-contiguous"),
        ({"destination": read_only()}, "writeable"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(piqi_native.FrameError, match=message):
        piqi_native.convert_frame(**arguments(**changes))


def test_a_source_without_bytes_is_refused():
    for source in (None, 7, "text", np.zeros((8, 48), np.uint8)[:, ::2]):
        with pytest.raises((TypeError, BufferError, ValueError)):
            piqi_native.convert_frame(**arguments(source=source))
