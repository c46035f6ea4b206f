"""Unusual files: what is read, what is kept, what is noted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from protect_support import damaged, mask_of, photo, save, write_photos

from bench.datasets.imageio import read_rgb
from bench.errors import DatasetError
from bench.protect.output import Extras, encode
from bench.protect.prompts import ObjectPrompt
from bench.protect.sources import Folder, Photo, load_photo, photo_hashes, photo_pixels


def loaded(path: Path, mask: Path, keep_alpha: bool = True):
    return load_photo(Photo(path.name, path, path.with_name("out.png"), mask), keep_alpha)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save(tmp_path / "mask.png", mask_of(photo()))


def variants(folder: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Files of many kinds, and what is to be noted of them."""
    image = Image.fromarray(photo())
    grey = image.convert("L")
    files: dict[str, tuple[Path, tuple[str, ...]]] = {}

    def add(name: str, picture: Image.Image, *notes: str, **options) -> None:
        picture.save(folder / name, **options)
        files[name] = folder / name, notes

    add("plain.jpg", image)
    add("plain.png", image)
    add("plain.bmp", image)
    add("plain.webp", image, lossless=True)
    add("plain.tif", image)
    add("cmyk.jpg", image.convert("CMYK"), "converted from CMYK")
    add("palette.png", image.quantize(32), "converted from a palette")
    add("grey.png", grey, "converted from grey")
    add("black.png", grey.convert("1"), "converted from black and white")
    add(
        "16bit.png",
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257),
        "reduced from 16 bits",
        "converted from grey",
    )
    add("alpha.png", image.convert("RGBA"))
    add("grey_alpha.png", image.convert("LA"), "converted from grey")
    exif = Image.Exif()
    exif[0x0112] = 6
    add(
        "turned.jpg",
        image.transpose(Image.Transpose.ROTATE_90),
        "turned as its EXIF orientation says",
        exif=exif,
    )
    add(
        "turned.png",
        image.transpose(Image.Transpose.ROTATE_90),
        "turned as its EXIF orientation says",
        exif=exif,
    )
    add("frames.tif", image, "the first of several frames", save_all=True, append_images=[image])
    return files


def test_every_kind_of_file_is_read_upright_and_what_was_converted_is_noted(
    tmp_path: Path, mask: Path
) -> None:
    for name, (path, notes) in variants(tmp_path).items():
        got = loaded(path, mask)
        assert got.image.shape == (40, 56, 3), name
        assert got.image.dtype == np.uint8
        assert set(got.notes) == set(notes), name
        assert np.array_equal(got.image, read_rgb(path))
        assert photo_pixels(Photo(name, path, path)) == 40 * 56


def test_an_alpha_channel_is_kept_in_png_and_dropped_with_a_note_in_jpeg(tmp_path: Path, mask: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
    upright = np.dstack([photo(), alpha])
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    got = loaded(tmp_path / "a.png", mask)
    assert np.array_equal(got.extras.alpha, alpha)
    encode(tmp_path / "out.png", got.image, "png", got.extras)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), upright)
    assert np.array_equal(read_rgb(tmp_path / "out.png"), photo())
    got = loaded(tmp_path / "a.png", mask, keep_alpha=False)
    assert got.extras.alpha is None
    assert "alpha channel dropped" in got.notes
    palette = Image.fromarray(photo()).quantize(8)
    palette.info["transparency"] = 3
    palette.save(tmp_path / "p.png", transparency=3)
    alpha = loaded(tmp_path / "p.png", mask).extras.alpha
    assert np.array_equal(alpha == 0, np.asarray(palette) == 3)


def test_a_colour_profile_is_kept_where_it_still_describes_the_colours(tmp_path: Path, mask: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo()).save(tmp_path / "a.jpg", icc_profile=profile)
    Image.fromarray(photo()).convert("L").save(tmp_path / "b.jpg", icc_profile=profile)
    kept, dropped = loaded(tmp_path / "a.jpg", mask), loaded(tmp_path / "b.jpg", mask)
    assert kept.extras.colour_profile == profile
    assert kept.notes == ()
    assert dropped.extras.colour_profile is None
    assert "ICC profile dropped" in dropped.notes
    for codec, name in (("png", "o.png"), ("jpeg95", "o.jpg")):
        encode(tmp_path / name, kept.image, codec, kept.extras)
        assert Image.open(tmp_path / name).info["icc_profile"] == profile


def test_the_quick_png_holds_the_same_pixels(tmp_path: Path) -> None:
    encode(tmp_path / "quick.png", photo(), "png", Extras(), quick=True)
    encode(tmp_path / "slow.png", photo(), "png", Extras())
    assert np.array_equal(read_rgb(tmp_path / "quick.png"), photo())
    assert (tmp_path / "quick.png").read_bytes() != (tmp_path / "slow.png").read_bytes()


def test_one_pixel_and_an_empty_mask(tmp_path: Path) -> None:
    image = save(tmp_path / "one.png", photo()[:1, :1])
    mask = save(tmp_path / "mask.png", np.zeros((1, 1), np.uint8))
    got = loaded(image, mask)
    assert got.image.shape == (1, 1, 3)
    assert got.notes == ("the mask is empty",)
    assert not got.annotation.foreground.any()


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    for image, mask, message in damaged(tmp_path).values():
        with pytest.raises(DatasetError, match=message) as error:
            loaded(image, mask)
        assert "\n" not in str(error.value)


def test_an_image_that_would_not_fit_into_memory_is_refused_by_its_header(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image, mask = save(tmp_path / "a.png", photo()), save(tmp_path / "m.png", mask_of(photo()))
    with pytest.raises(DatasetError, match="exceeds limit"):
        loaded(image, mask)


def test_photographs_are_found_with_their_masks_in_sub_folders(tmp_path: Path) -> None:
    images, masks = write_photos(tmp_path, ["b.jpg", "sub/a.jpg", "sub/deep/c.png", "A.JPG", "ä ö.webp"])
    (images / "notes.txt").write_text("no image")
    (images / ".hidden.jpg").write_text("no image")
    (images / ".thumbs").mkdir()
    (images / ".thumbs/t.jpg").write_text("no image")
    folder = Folder(images, masks, {}, tmp_path / "out", ".png")
    found = list(folder)
    assert [item.name for item in found] == ["A.JPG", "b.jpg", "ä ö.webp", "sub/a.jpg", "sub/deep/c.png"]
    assert len(folder) == 5
    assert found[4].target == tmp_path / "out/sub/deep/c.png"
    assert found[3].mask == masks / "sub/a.png"
    assert not any(item.problem for item in found)
    assert folder.photo("sub/a.jpg") == found[3]


def test_output_and_masks_inside_the_image_folder_are_not_searched(tmp_path: Path) -> None:
    images, _ = write_photos(tmp_path, ["a.jpg"])
    save(images / "masks/a.png", mask_of(photo()))
    save(images / "out/a.png", photo())
    folder = Folder(images, images / "masks", {}, images / "out", ".png")
    assert [item.name for item in folder] == ["a.jpg"]
    beside = Folder(images, images, {}, images / "out", ".png")  # masks between the images
    assert "a.jpg" in [item.name for item in beside]


def test_pairs_that_are_ambiguous_or_missing_have_their_problem(tmp_path: Path) -> None:
    images, masks = write_photos(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    save(images / "a.png", photo())
    save(masks / "b.tif", mask_of(photo()))
    (masks / "c.png").unlink()
    (masks / "e.png").unlink()
    prompts = {"d.jpg": (ObjectPrompt(box=(0, 0, 1, 1)),), "x.jpg": (ObjectPrompt(box=(0, 0, 1, 1)),)}
    save(images / "contact_sheet.jpg", photo())
    folder = Folder(images, masks, prompts, tmp_path / "out", ".png")
    found = {item.name: item for item in folder}
    assert "where the contact sheet belongs" in found["contact_sheet.jpg"].problem
    for name in ("a.jpg", "a.png"):
        assert "a.jpg and a.png would be written to one file" in found[name].problem
    assert "b.png and b.tif" in found["b.jpg"].problem
    assert "no mask c.png" in found["c.jpg"].problem
    assert found["d.jpg"].objects
    assert found["d.jpg"].mask is None
    assert folder.nameless == ("x.jpg",)
    with pytest.raises(DatasetError, match="no mask e"):
        load_photo(found["e.jpg"], True)


def test_hashes_follow_image_mask_and_prompt(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.png", photo()), save(tmp_path / "m.png", mask_of(photo()))
    by_mask = photo_hashes(Photo("a", image, image, mask))
    boxes = [photo_hashes(Photo("a", image, image, None, (ObjectPrompt(box=(0, 0, 1, k)),))) for k in (1, 2)]
    assert len({by_mask["annotation_sha256"], *(b["annotation_sha256"] for b in boxes)}) == 3
    save(image, photo(1))
    assert photo_hashes(Photo("a", image, image, mask))["source_sha256"] != by_mask["source_sha256"]
    assert loaded(image, mask).hashes == photo_hashes(Photo("a", image, image, mask))
