"""Finds the jsons and image folders of datasets in COCO's layout and its relatives.

annotations/instances_{train,val}2017.json   {train,val}2017/     COCO
annotations/NWPU_instances_{train,val}.json  imgs/                NWPU VHR-10 and SSDD, as RSPrompter has them
annotations/WHU_building_{train,val}.json    imgs/{train,val}/image/   WHU, as RSPrompter has it
annotations/{train,val}.json                 images/{train,val}/  your own
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from bench.datasets.base import Split
from bench.datasets.layout import first_few, plural
from bench.errors import DatasetError

ANNOTATIONS = "annotations"
PROBED = 8
"""Images of a json that are looked for when its image folder is searched."""

OTHER_KINDS = re.compile(r"panoptic|stuff|captions|keypoints|image_info|trainval", re.IGNORECASE)
"""Jsons that hold no instances, or no one split."""


def find_json(root: Path, split: Split, kind: str, option: str | None) -> Path:
    """The json of a split.

    Args:
        root: The dataset's folder.
        split: `train` or `val`.
        kind: `instances` or `panoptic`.
        option: What the user named, relative to `root`; None: search.

    Raises:
        DatasetError: There is none, or more than one that it could be.
    """
    if option is not None:
        path = root / option
        if not path.is_file():
            near = first_few(_relative(root, _jsons(root))) or "no json"
            raise DatasetError(f"{path} is missing (option {split}_json); {root} holds {near}")
        return path
    found = _jsons(root)
    candidates = [path for path in found if split in path.stem.lower() and _is_kind(path, kind)]
    named = [path for path in candidates if kind in path.stem.lower()]
    candidates = named or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise DatasetError(
            f"{root} has {plural(len(candidates), 'json')} for {split}: "
            f"{first_few(_relative(root, candidates))}; choose one by option {split}_json"
        )
    held = first_few(_relative(root, found)) or "no json at all"
    raise DatasetError(
        f"no {kind} json for {split} in {root / ANNOTATIONS}, which has {held}; "
        f"put {kind}_{split}.json there, or name one by option {split}_json"
    )


def find_images(root: Path, split: Split, json: Path, names: Iterable[str], option: str | None) -> Path:
    """The folder below which the `file_name`s of a json lie.

    Args:
        root: The dataset's folder.
        split: `train` or `val`.
        json: The json.
        names: Its file names.
        option: What the user named, relative to `root`; None: search.

    Raises:
        DatasetError: The images are in none of the usual places.
    """
    if option is not None:
        if not (root / option).is_dir():
            raise DatasetError(f"{root / option} is no folder (option {split}_images); correct the option")
        return root / option
    probed = list(names)[:PROBED]
    # The most specific part of `instances_train2017` and `WHU_building_train`.
    tail = json.stem.split("_")[-1]
    folders = [
        folder
        for part in (tail, split)
        for folder in (part, f"images/{part}", f"imgs/{part}", f"imgs/{part}/image", f"{part}/images")
    ]
    folders += ["images", "imgs", "JPEGImages", ""]
    for folder in dict.fromkeys(folders):
        if any(existing(root / folder, name) for name in probed):
            return root / folder
    raise DatasetError(
        f"the images of {json} are not found: {probed[0]} is neither in {', '.join(dict.fromkeys(folders[:6]))} "
        f"nor in images, imgs or {root} itself; name the folder by option {split}_images"
    )


def find_segments(root: Path, split: Split, json: Path, option: str | None) -> Path:
    """The folder of the PNGs of a panoptic json, which is called like it.

    Raises:
        DatasetError: There is none.
    """
    if option is not None:
        if not (root / option).is_dir():
            raise DatasetError(f"{root / option} is no folder (option {split}_segments); correct the option")
        return root / option
    for folder in (json.with_suffix(""), root / json.stem):
        if folder.is_dir():
            return folder
    raise DatasetError(
        f"no folder {json.stem} with the PNGs of {json} in {root} or beside the json; unpack it there, or name it "
        f"by option {split}_segments"
    )


def existing(folder: Path, file_name: str) -> Path | None:
    """The file of a `file_name`, whose accents may be composed otherwise on disk than in the json."""
    for form in (None, "NFC", "NFD"):
        path = folder / (unicodedata.normalize(form, file_name) if form else file_name)
        if path.is_file():
            return path
    return None


def locate(root: Path) -> Path:
    """`root`, or the folder one level higher or lower that holds the annotations."""
    if not root.is_dir():
        return root
    if root.name == ANNOTATIONS and _jsons_in(root):
        return root.parent
    if _jsons(root):
        return root
    try:
        inside = [child for child in sorted(root.iterdir()) if _jsons_in(child / ANNOTATIONS)]
    except OSError:
        return root
    return inside[0] if len(inside) == 1 else root


def _is_kind(path: Path, kind: str) -> bool:
    return kind in path.stem.lower() if kind == "panoptic" else not OTHER_KINDS.search(path.stem)


def _jsons(root: Path) -> list[Path]:
    return _jsons_in(root / ANNOTATIONS) + _jsons_in(root)


def _jsons_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.glob("*.json") if p.is_file() and not p.name.startswith("."))
    except OSError:
        return []


def _relative(root: Path, paths: Iterable[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]
