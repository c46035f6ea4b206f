"""The table of many countermeasures and its worst cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.records import read_records
from bench.report.countermeasures import countermeasure_tables, worst_case_table
from bench.report.results import columns
from bench.report.tables import Table, noise_tables, summary_table
from bench.report.write import write_all_tables
from bench.store import Store

Add = Callable[..., dict[str, Any]]
UNSEG = "unseg 8/255 mask, 2/255 outside"
RANDOM = "random 8/255 mask, 2/255 outside"
# What a victim gets right under each: the best needs a denoiser, the second best clean images with labels.
ACCURACY = {"none": 0.4, "jpeg": 0.5, "gaussian": 0.45, "early_stop": 0.6, "at": 0.3, "purifier": 0.8}


def table_of(store: Store) -> Table:
    (table,) = countermeasure_tables(columns(store, read_records(store)))
    return table


def by_name(table: Table) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in table.rows if row[0] not in ("by", "drop that is left")}


def below(table: Table, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who is responsible for a worst case, and what is left of the protection then."""
    place = [row[0] for row in table.rows].index(name)
    by, left = table.rows[place + 1 : place + 3]
    assert (by[0], left[0]) == ("by", "drop that is left")
    return by, left


def test_many_countermeasures_are_rows_and_the_summary_has_the_best_of_them(
    store: Store, add_record: Add
) -> None:
    for defense, accuracy in reversed(ACCURACY.items()):
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense)
    found = columns(store, read_records(store))
    table = table_of(store)
    assert table.header == ("countermeasure", "needs", "clean", UNSEG)
    assert table.rows[0][0] == "none"
    rows = by_name(table)
    assert set(rows) == {*ACCURACY, "worst case without clean labels", "worst case", "oracle"}
    assert {name: rows[name][1] for name in ACCURACY} == {
        "none": "",
        "jpeg": "",
        "gaussian": "",
        "early_stop": "clean images with labels",
        "purifier": "clean images of others",
        "at": "up to 5 times the time",
    }
    values = {name: float(rows[name][3]) for name in ACCURACY}
    assert sorted(values, key=lambda name: values[name])[-2:] == ["early_stop", "purifier"]
    assert rows["worst case"][3].startswith(f"{values['purifier']} [")
    by, left = below(table, "worst case")
    assert by[3] == "purifier"
    assert left[3] == f"{100 * (1 - values['purifier'] / float(rows['none'][2])):.0f} %"
    assert rows["oracle"][3] == rows["none"][2]
    assert summary_table(found).header == (
        "training images",
        "unetplusplus, none, mIoU",
        "unetplusplus worst case",
    )
    assert countermeasure_tables(found[:-1]) == []


def test_who_has_no_clean_labels_has_a_worst_case_of_his_own(store: Store, add_record: Add) -> None:
    for defense, accuracy in {**ACCURACY, "early_stop": 0.85}.items():
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense)
    table = table_of(store)
    assert below(table, "worst case without clean labels")[0][3] == "purifier"
    assert below(table, "worst case")[0][3] == "early_stop"


def test_the_worst_cases_of_all_victims_are_one_table(store: Store, add_record: Add) -> None:
    for defense, accuracy in ACCURACY.items():
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense)
    add_record(0.7, "random")
    found = columns(store, read_records(store))
    table = worst_case_table(found)
    assert table is not None
    assert table.title == "Worst cases on shapes 64 px, profile cpu"
    rows = {row[1]: row for row in table.rows}
    assert set(rows) == {"clean", RANDOM, UNSEG}
    (many,) = countermeasure_tables(found)
    for label in ("clean", RANDOM, UNSEG):
        column = many.header.index(label)
        expected = [row[column] for row in many.rows if row[0].startswith("worst case")]
        assert [rows[label][3], rows[label][6]] == expected
    assert rows[UNSEG][4] == rows[UNSEG][7] == "purifier"
    assert rows[UNSEG][2].startswith(by_name(many)["none"][many.header.index(UNSEG)])
    # Nobody tried anything against random noise: what is left of its protection is all of it.
    assert rows[RANDOM][4] == "none"
    assert re.search(r"as many countermeasures, .*: 0 to 5 by unetplusplus .*\.$", table.notes[-1])
    assert worst_case_table([column for column in found if column.defense_name == "none"]) is None


def test_a_victim_under_few_stands_beside_one_under_many(store: Store, add_record: Add) -> None:
    for victim, tried in (("unetplusplus", [*ACCURACY]), ("deeplabv3", ["none", "jpeg"]), ("dino", ["none"])):
        for defense in tried:
            add_record(0.9, defense=defense, victim=victim)
            add_record(ACCURACY[defense], "unseg", defense=defense, victim=victim)
    found = columns(store, read_records(store))
    assert [table.title.split()[1] for table in countermeasure_tables(found)] == ["unetplusplus", "deeplabv3"]
    assert [name for name in summary_table(found).header if "jpeg" in name] == []
    table = worst_case_table(found)
    assert table is not None
    assert [(row[0].split()[0], row[4]) for row in table.rows if row[1] == UNSEG] == [
        ("unetplusplus", "purifier"),
        ("deeplabv3", "jpeg"),
    ]
    assert re.search(r": 5 by unetplusplus .*, 1 by deeplabv3 .*\.$", table.notes[-1])
    alone = [column for column in found if column.victim == "deeplabv3"]
    assert countermeasure_tables(alone) == [] and worst_case_table(alone) is None


def test_a_countermeasure_has_the_same_name_with_every_victim(store: Store, add_record: Add) -> None:
    tried = [("unetplusplus", "jpeg", {"quality": 10}), ("unetplusplus", "jpeg", {"quality": 50})]
    tried += [("unetplusplus", defense, {}) for defense in ACCURACY if defense != "jpeg"]
    tried += [("deeplabv3", "none", {}), ("deeplabv3", "jpeg", {"quality": 50})]
    for victim, defense, options in tried:
        for accuracy, protector in ((0.9, "none"), (0.4, "unseg")):
            add_record(accuracy, protector, victim=victim, defense=defense, defense_with={"options": options})
    first, second = countermeasure_tables(columns(store, read_records(store)))
    assert {"jpeg (quality=10)", "jpeg (quality=50)"} <= set(by_name(first))
    assert "jpeg (quality=50)" in by_name(second)


def test_images_that_were_not_the_same_under_all_countermeasures_are_told(
    store: Store, add_record: Add
) -> None:
    for number, (defense, accuracy) in enumerate(ACCURACY.items()):
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense, psnr=36.5 + number // 2)
    found = columns(store, read_records(store))
    worst = worst_case_table(found)
    assert worst is not None
    for table in (worst, table_of(store)):
        (note,) = [note for note in table.notes if "same images" in note]
        assert note.startswith(UNSEG) and "3 times" in note and "36.5000 to 38.5000 dB" in note


def test_where_all_need_clean_labels_the_other_worst_case_is_missing(store: Store, add_record: Add) -> None:
    for share in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        add_record(0.9, defense="early_stop", defense_with={"options": {"share": share}})
    table = worst_case_table(columns(store, read_records(store)))
    assert table is not None
    ((_, label, none, *cells),) = table.rows
    assert (label, none, *cells[:3]) == ("clean", "--", "--", "--", "--")
    assert cells[3] != "--" and cells[4].startswith("early_stop")


def test_many_countermeasures_without_the_plain_training_have_a_worst_case_and_no_oracle(
    store: Store, add_record: Add
) -> None:
    for defense in ("jpeg", "gaussian", "median", "at", "purifier", "resize"):
        add_record(0.9, defense=defense)
        add_record(0.5, "unseg", defense=defense)
    found = columns(store, read_records(store))
    assert summary_table(found).header == ("training images", "unetplusplus worst case")
    rows = by_name(table_of(store))
    assert "oracle" not in rows and rows["worst case"][3] != "--"
    assert "drop that is left" not in [row[0] for row in table_of(store).rows]


def test_without_such_a_countermeasure_there_is_one_worst_case(store: Store, add_record: Add) -> None:
    for defense in ("none", "jpeg", "gaussian", "median", "at", "purifier"):
        add_record(0.9, defense=defense)
    assert "worst case without clean labels" not in by_name(table_of(store))


def test_clean_images_mixed_in_are_rows_too(store: Store, add_record: Add) -> None:
    for defense, accuracy in ACCURACY.items():
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense)
        add_record(accuracy - 0.1, "random", defense=defense)
    add_record(0.7, clean_ratio=0.2)  # the clean fifth alone
    add_record(0.82, "unseg", clean_ratio=0.2)
    table = table_of(store)
    assert table.header == ("countermeasure", "needs", "clean", RANDOM, UNSEG)
    rows = by_name(table)
    alone, mixed = rows["none, 20 % of the images alone"], rows["none, 20 % clean"]
    assert alone[1] == mixed[1] == "20 % of the images clean, with labels"
    # The clean part is the same whatever protects the rest; a mixture that was not run is missing.
    assert alone[2] == alone[3] == alone[4] != "--"
    assert mixed[2:4] == ("--", "--") and float(mixed[4]) > float(rows["purifier"][4])
    by, _ = below(table, "worst case")
    assert by[3:] == ("none, 20 % of the images alone", "none, 20 % clean")
    assert below(table, "worst case without clean labels")[0][3:] == ("purifier", "purifier")


def test_a_victim_that_learned_nothing_is_marked_in_its_row(store: Store, add_record: Add) -> None:
    for defense in ACCURACY:
        add_record(0.3 if defense == "gaussian" else 0.9, defense=defense)
    assert {name for name in by_name(table_of(store)) if "invalid" in name} == {"gaussian (invalid)"}


def test_settings_of_one_countermeasure_are_told_apart(store: Store, add_record: Add) -> None:
    for defense in ACCURACY:
        options = {"defense_with": {"options": {"quality": 10}}} if defense == "jpeg" else {}
        add_record(0.9, defense=defense, **options)
    add_record(0.8, defense="jpeg", defense_with={"options": {"quality": 50}})
    photographs = [{"name": "image_mask", "image_size": 64, "root": "/data/saliency"}]
    add_record(0.7, defense="purifier", defense_with={"fit_on": photographs})
    names = set(by_name(table_of(store)))
    assert {"jpeg (quality=10)", "jpeg (quality=50)", "at"} <= names
    assert {"purifier", "purifier (learned from image_mask 64 px)"} <= names


def test_the_noise_has_one_column_for_a_victim_under_many(store: Store, add_record: Add) -> None:
    noise = {
        "mean_abs_inside": 4.0,
        "mean_abs_outside": 1.0,
        "spectrum": [1.0] * 8,
        "tile_share": {"1": 0.1, "4": 0.9},
    }
    for defense, accuracy in ACCURACY.items():
        add_record(0.9, defense=defense)
        add_record(accuracy, "unseg", defense=defense, noise=noise)
    (table,) = noise_tables(columns(store, read_records(store)))
    assert [name for name in table.header if "explained" in name] == [
        "explained by the budget, unetplusplus, none"
    ]


def test_countermeasures_stand_in_one_order_however_the_records_are_called(
    store: Store, add_record: Add, tmp_path: Path
) -> None:
    settings: dict[str, list[dict[str, Any]]] = {
        "ours": [{}],
        "at": [{"epsilon": 7.65}, {"epsilon": 2.0}],
        "jpeg": [{"quality": 10, "apply_to": "both"}, {"quality": 10, "apply_to": "train"}],
        "none": [{}],
        "grayscale": [{"apply_to": "both"}],
    }
    for name, options in settings.items():
        for each in options:
            add_record(0.9, defense=name, defense_with={"options": each})
    assert [row[0] for row in table_of(store).rows[:7]] == [
        "none",
        "grayscale",
        "jpeg (apply_to=train)",
        "jpeg (apply_to=both)",
        "at (epsilon=2.0)",
        "at (epsilon=7.65)",
        "ours",
    ]
    text = (write_all_tables(store.root, tmp_path)[0]).read_text()
    details = re.findall(r"^\*\*unetplusplus .*?, defense (\w+)", text, re.M)
    assert details == ["none", "grayscale", "jpeg", "jpeg", "at", "at", "ours"]
