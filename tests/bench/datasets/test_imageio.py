"""Every kind of pixel file, with the rule that the module documents for it."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from bench.datasets import imageio
from bench.errors import DatasetError

FEW = settings(deadline=None, max_examples=30)
shapes_2d = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=17)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a file ü.png"


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_grey_png(path, samples: np.ndarray, bits: int) -> None:
    """A grey PNG with few bits per sample, which Pillow cannot write. One row of whole bytes each."""
    height, width = samples.shape
    rows = []
    for row in samples:
        packed = "".join(f"{value:0{bits}b}" for value in row)
        rows.append(b"\0" + bytes(int(packed[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(packed), 8)))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(rows))
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@FEW
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20).map(lambda s: (*s, 3))))
def test_png_round_trip(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp("png") / "x.png"
    imageio.write_png(path, pixels)
    assert np.array_equal(imageio.read_rgb(path), pixels)
    assert imageio.image_size(path) == pixels.shape[:2]
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], pixels)


@FEW
@given(indices=arrays(np.uint8, shapes_2d))
def test_label_round_trip(indices, tmp_path_factory):
    path = tmp_path_factory.mktemp("label") / "x.png"
    imageio.write_label_png(path, indices)
    assert np.array_equal(imageio.read_label_png(path), indices)
    # The colours are VOC's: a viewer and the devkit show what they always show.
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), imageio.voc_palette()[indices])
    imageio.write_png(path, indices)
    assert np.array_equal(imageio.read_label_png(path), indices)


@FEW
@given(ids=arrays(np.int32, shapes_2d, elements=st.integers(0, 2**24 - 1)))
def test_segment_id_round_trip(ids, tmp_path_factory):
    path = tmp_path_factory.mktemp("ids") / "x.png"
    imageio.write_id_png(path, ids)
    assert np.array_equal(imageio.read_id_png(path), ids)
    blue, green, red = np.moveaxis(cv2.imread(str(path)).astype(int), -1, 0)
    assert np.array_equal(red + 256 * green + 256 * 256 * blue, ids)


def test_voc_palette_is_the_devkits():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(imageio.voc_palette()[index]) for index in known} == known


@FEW
@given(grey=arrays(np.uint8, shapes_2d))
def test_mask_is_threshold_zero_one_or_refused(grey, tmp_path_factory):
    path = tmp_path_factory.mktemp("mask") / "x.png"
    imageio.write_png(path, grey)
    if grey.max() > 127:
        assert np.array_equal(imageio.read_binary_mask(path), grey > 127)
    elif grey.max() > 1:
        with pytest.raises(DatasetError, match="grey values up to"):
            imageio.read_binary_mask(path)
    else:
        assert np.array_equal(imageio.read_binary_mask(path), grey == 1)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "P01", "RGB", "LA", "RGBA", "CMYK", "16", "16low", "L2", "JPEG", "TIFF"]
)
def test_mask_of_every_kind(mode, tmp_path, tools):
    mask = tools.blob(3)
    grey = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    path = tmp_path / "mask.png"
    if mode == "P01":
        tools.save_palette(path, mask)
        with Image.open(path) as image:
            image.putpalette([0, 0, 0, 9, 9, 9])
            image.save(path)
    elif mode == "16":
        Image.fromarray(np.where(mask, 65535, 0).astype(np.uint16)).save(path)
    elif mode == "16low":
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint16)).save(path)
    elif mode == "L2":
        raw_grey_png(path, mask.astype(int), 2)
    elif mode == "JPEG":
        path = tmp_path / "mask.jpg"
        grey.convert("RGB").save(path, quality=60)
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image))) > 2
    elif mode in ("CMYK", "TIFF"):
        path = tmp_path / "mask.tif"
        grey.convert("CMYK" if mode == "CMYK" else "L").save(path)
    else:
        grey.convert(mode).save(path)
    assert np.array_equal(imageio.read_binary_mask(path), mask)


def test_inverted_palette_follows_the_colours(path, tools):
    """Two-colour converters put white first as often as black."""
    mask = tools.blob(1)
    image = Image.fromarray(np.where(mask, 0, 1).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path)
    assert np.array_equal(imageio.read_binary_mask(path), mask)


def test_empty_mask_is_an_image_without_object(path):
    imageio.write_png(path, np.zeros((4, 5), np.uint8))
    assert not imageio.read_binary_mask(path).any()


def test_masks_that_cannot_be_told_are_refused(tmp_path, tools):
    mask = tools.blob(0)
    white = np.full((*mask.shape, 4), 255, np.uint8)
    white[..., 3] = np.where(mask, 255, 0)
    Image.fromarray(white).save(tmp_path / "alpha.png")
    red = np.zeros((*mask.shape, 3), np.uint8)
    red[mask, 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    Image.fromarray(np.where(mask, 1, 0).astype(np.uint8)).save(tmp_path / "one.jpg", quality=100)
    Image.fromarray(mask.astype(np.float32)).save(tmp_path / "float.tif")
    for name, message in (
        ("alpha.png", "alpha"),
        ("red.png", "colour"),
        ("one.jpg", "0 and 1 in a PNG"),
        ("float.tif", "32-bit"),
    ):
        with pytest.raises(DatasetError, match=message) as caught:
            imageio.read_binary_mask(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_rgb_of_every_mode(mode, tmp_path, tools):
    suffix = {"CMYK": ".tif", "YCbCr": ".jpg"}.get(mode, ".png")
    path = tmp_path / f"x{suffix}"
    source = Image.fromarray(tools.photo(0)).convert(mode)
    source.save(path)
    image = imageio.read_rgb(path)
    assert image.dtype == np.uint8 and image.shape == (tools.height, tools.width, 3)
    assert image.flags.writeable
    if mode != "YCbCr":
        assert np.array_equal(image, np.asarray(source.convert("RGB")))


def test_alpha_is_dropped_not_blended(path):
    pixels = np.full((3, 3, 4), 200, np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(path)
    assert (imageio.read_rgb(path) == 200).all()
    assert (cv2.imread(str(path)) == 200).all()


def test_sixteen_bits_keep_the_high_byte(path):
    values = np.array([[0, 255, 256, 65535, 0x1234]], np.uint16)
    Image.fromarray(values).save(path)
    assert imageio.read_rgb(path)[0, :, 0].tolist() == [0, 0, 1, 255, 0x12]
    cv2.imwrite(str(path), np.stack([values] * 3, -1))
    assert imageio.read_rgb(path)[0, :, 0].tolist() == [0, 0, 1, 255, 0x12]


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DatasetError, match="32-bit"):
        imageio.read_rgb(tmp_path / "f.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_orientation_is_applied_alike(orientation, suffix, tmp_path, tools):
    """Images, labels, masks and sizes turn together, and as OpenCV turns them."""
    path = tmp_path / f"x{suffix}"
    quadrants = np.zeros((16, 32), np.uint8)
    quadrants[:8, :16] = 255
    Image.fromarray(quadrants).convert("RGB").save(path, exif=exif(orientation), quality=95)
    image = imageio.read_rgb(path)
    assert imageio.image_size(path) == image.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    Image.fromarray(quadrants).save(path, exif=exif(orientation))
    assert np.array_equal(imageio.read_binary_mask(path), image[..., 0] > 127)
    if suffix == ".png":
        assert np.array_equal(imageio.read_label_png(path) > 0, image[..., 0] > 127)
    else:
        assert np.array_equal(cv2.imread(str(path))[..., 0] > 127, image[..., 0] > 127)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bit_grey_labels_are_not_stretched(bits, path):
    indices = np.arange(24).reshape(3, 8) % 2**bits
    raw_grey_png(path, indices, bits)
    assert np.array_equal(imageio.read_label_png(path), indices)


def test_sixteen_bit_labels(path):
    Image.fromarray(np.array([[0, 20, 255]], np.uint16)).save(path)
    assert imageio.read_label_png(path).tolist() == [[0, 20, 255]]
    Image.fromarray(np.array([[0, 20, 300]], np.uint16)).save(path)
    with pytest.raises(DatasetError, match="300"):
        imageio.read_label_png(path)


def test_labels_in_colour_or_lossy_are_refused(tmp_path, tools):
    Image.fromarray(tools.photo(0)).save(tmp_path / "c.png")
    with pytest.raises(DatasetError, match="colours instead of indices"):
        imageio.read_label_png(tmp_path / "c.png")
    Image.fromarray(tools.photo(0)[..., 0]).save(tmp_path / "l.jpg")
    with pytest.raises(DatasetError, match="blurs"):
        imageio.read_label_png(tmp_path / "l.jpg")
    with pytest.raises(DatasetError, match="RGB PNG"):
        imageio.read_id_png(tmp_path / "l.jpg")


READERS = (imageio.read_rgb, imageio.read_label_png, imageio.read_binary_mask, imageio.read_id_png)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "folder"])
def test_unreadable_files_name_their_path(reader, suffix, damage, tmp_path, tools):
    path = tmp_path / f"broken{suffix}"
    buffer = io.BytesIO()
    Image.fromarray(tools.photo(0)[..., 0]).save(buffer, "PNG" if suffix == ".png" else "JPEG")
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("<html>quota exceeded</html>")
    elif damage == "truncated":
        path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(DatasetError) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flipped_byte_in_png_is_found(path, tools):
    imageio.write_png(path, tools.photo(0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match="cannot read image"):
        imageio.read_rgb(path)


def test_one_pixel_and_size_without_decoding(path, tools):
    imageio.write_png(path, np.full((1, 1, 3), 7, np.uint8))
    assert imageio.read_rgb(path).tolist() == [[[7, 7, 7]]]
    imageio.write_png(path, tools.photo(0))
    path.write_bytes(path.read_bytes()[:60])
    assert imageio.image_size(path) == (tools.height, tools.width)


def test_jpeg95_is_quality_95_with_420_chroma(tmp_path, tools):
    path = tmp_path / "x.jpg"
    imageio.write_jpeg95(path, tools.photo(0))
    reference = io.BytesIO()
    Image.fromarray(tools.photo(0)).save(reference, "JPEG", quality=95)
    assert path.read_bytes() == reference.getvalue()
    with Image.open(path) as image:
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]
