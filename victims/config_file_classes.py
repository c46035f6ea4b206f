"""Sets the number of classes of any mmseg or mmdet model config, and what depends on it."""

from __future__ import annotations

from typing import Any

from bench.datasets.base import Task
from bench.errors import SpecError
from victims.config_file_reading import type_name, walk

MAIN_HEADS = ("decode_head", "bbox_head", "roi_head", "mask_head", "panoptic_head", "semantic_head")
"""Where a model's own number of classes stands, by turns."""


def set_classes(model: dict[str, Any], task: Task, things: int, stuff: int, name: str) -> None:
    """Adapts a model config in place.

    Every `num_classes` with the value of the main head's becomes the new number; others (the objectness of a
    proposal network, the edges of an auxiliary head) stay. `num_things_classes` and `num_stuff_classes` are set,
    and lists of class weights follow where they are the same for all classes.

    Args:
        model: Its `ConfigDict` or dictionary.
        task: What it is trained for.
        things: Number of thing categories; 0 for label maps.
        stuff: Number of stuff categories (panoptic) or of classes (label maps); 0 otherwise.
        name: Of the config, for messages.

    Raises:
        SpecError: It has no number of classes, or one that does not fit.
    """
    old = class_number(model)
    if old is None:
        raise SpecError(
            f"victim {name!r}: no num_classes is found in the model's heads; it cannot be adapted"
        )
    # Beside a head for stuff, as in Panoptic FPN, the other heads know things alone.
    of_things = {entry.get("num_things_classes") for _, entry in walk(model)}
    classes = things if old in of_things else things + stuff
    # Before any of them is replaced.
    counts = {place: entry.get("num_classes") for place, entry in walk(model, "model")}
    for place, entry in walk(model, "model"):
        if ".rpn_head" in place or place.startswith("model.backbone"):
            continue
        # Weights go by the number that stands beside or above them: set them before it is replaced.
        _set_weights(entry, old, classes, own_count(place, counts), place, name)
        _set_outputs(entry, old, classes, place, name)
        if "num_things_classes" in entry:
            if stuff and task == "panoptic" and entry.get("num_stuff_classes") == 0:
                raise SpecError(f"victim {name!r}: {place} knows no stuff; it cannot be trained for panoptic")
            entry["num_things_classes"] = things
            entry["num_stuff_classes"] = stuff
        if entry.get("num_classes") == old:
            entry["num_classes"] = classes


def class_number(model: dict[str, Any]) -> int | None:
    """The number of classes of a model config, by its main head."""
    for head in MAIN_HEADS:
        for _, entry in walk(model.get(head)):
            if "num_things_classes" in entry:
                return entry["num_things_classes"] + entry["num_stuff_classes"]
            if isinstance(entry.get("num_classes"), int):
                return entry["num_classes"]
    return None


def own_count(place: str, counts: dict[str, Any]) -> int | None:
    """The `num_classes` that stands beside a place or nearest above it."""
    while place:
        if isinstance(counts.get(place), int):
            return counts[place]
        place = place.rpartition(".")[0]
    return None


def _set_weights(
    entry: dict[str, Any], old: int, classes: int, own: int | None, place: str, name: str
) -> None:
    weights = entry.get("class_weight")
    if not isinstance(weights, list | tuple):
        return
    if len(weights) not in (old, old + 1):
        # Those of a head with classes of its own (edges) stay, and those that were written for this dataset.
        own = classes if own in (old, None) else own
        if len(weights) not in (own, own + 1):
            raise SpecError(
                f"victim {name!r}: {place}.class_weight has {len(weights)} weights, and the dataset has {own} classes: "
                "remove class_weight, or write as many"
            )
        return
    of_classes, of_nothing = list(weights[:old]), list(weights[old:])
    if len(set(of_classes)) > 1:
        raise SpecError(
            f"victim {name!r}: {place}.class_weight has {len(weights)} weights for the {old} classes of its dataset, "
            f"yours has {classes}: remove class_weight or write your own, in a config of your own"
        )
    entry["class_weight"] = of_classes[:1] * classes + of_nothing


def _set_outputs(entry: dict[str, Any], old: int, classes: int, place: str, name: str) -> None:
    """mmseg's heads may say how many maps they predict: one for two classes, or one for each class."""
    if "num_classes" not in entry or "out_channels" not in entry or "Mask2Former" in type_name(entry):
        return
    if entry["out_channels"] == 1 and classes != 2:
        raise SpecError(
            f"victim {name!r}: {place} predicts one map for two classes, and the dataset has {classes}: "
            "remove out_channels, or choose the task binary"
        )
    if entry["out_channels"] == old != 1:
        entry["out_channels"] = classes
