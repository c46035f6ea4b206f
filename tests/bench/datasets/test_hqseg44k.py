"""HQSeg-44K: its authors' folders, sorted ones, parts of it, and what is missing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from bench.datasets.hqseg44k import TRAIN_SETS, VAL_SETS, HQSeg44K
from bench.errors import DatasetError


@pytest.fixture
def root(tmp_path, tools):
    return tools.make_hqseg44k(tmp_path / "data")


def test_all_sets_are_read(root, tools):
    dataset = HQSeg44K(root)
    dataset.check()
    for split, sets in (("train", TRAIN_SETS), ("val", VAL_SETS)):
        expected = [
            f"{name}/{image_id}"
            for number, name in enumerate(sets)
            for image_id in sorted(tools.ids[number % 4 : number % 4 + 2])
        ]
        assert list(dataset.ids(split)) == expected
    first = dataset.ids("val")[0]
    assert np.array_equal(dataset.annotation("val", first).foreground, tools.blob(0))


def test_protected_images_do_not_take_the_names_of_their_masks(root, tmp_path, tools):
    HQSeg44K(root).write_copy(tmp_path / "copy", tools.png_writer)
    assert (tmp_path / "copy/cascade_psp/ecssd/im").is_dir() and (
        tmp_path / "copy/cascade_psp/ecssd/gt"
    ).is_dir()
    copy = HQSeg44K(tmp_path / "copy")
    copy.check()
    assert copy.ids("train") == HQSeg44K(root).ids("train")


def test_a_part_of_it_needs_the_folders_of_that_part_alone(root):
    shutil.rmtree(root / "cascade_psp")
    options = HQSeg44K.Options(train_sets=("DIS5K-TR",), val_sets=("COIFT",))
    dataset = HQSeg44K(root, options)
    dataset.check()
    assert len(dataset.ids("train")) == 2 and all(i.startswith("COIFT/") for i in dataset.ids("val"))
    with pytest.raises(DatasetError, match=r"fss_all of FSS is missing; .* option train_sets"):
        HQSeg44K(root).check()
    with pytest.raises(ValidationError, match="twice"):
        HQSeg44K.Options(val_sets=("COIFT", "COIFT"))


def test_a_missing_mask_is_named(root, tools):
    (root / "cascade_psp/ecssd" / f"{tools.ids[1]}.png").unlink()
    with pytest.raises(DatasetError, match=r"1 mask of 2 missing in .*ecssd: with space"):
        HQSeg44K(root).check()


def test_a_folder_without_images_is_named(root, tools):
    for path in (root / "cascade_psp/ecssd").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match="ecssd of ECSSD holds no image"):
        HQSeg44K(root).check()
    with pytest.raises(DatasetError, match="does not exist"):
        HQSeg44K(root / "nowhere").check()
