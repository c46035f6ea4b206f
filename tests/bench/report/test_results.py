from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from bench.errors import ArtifactCorrupt
from bench.records import RECORD_FILE, read_record, read_records
from bench.report import gate
from bench.report.render import to_csv, to_latex, to_markdown, to_text
from bench.report.results import columns
from bench.report.tables import (
    Table,
    detail_table,
    mixing_table,
    noise_tables,
    summary_table,
)
from bench.report.write import write_all_tables
from bench.store import Store

Add = Callable[..., dict[str, Any]]


def test_rows_stand_in_the_order_clean_controls_protectors(store: Store, add_record: Add) -> None:
    for name, budget in (("unseg", "mask"), ("random", "mask"), ("none", "uniform"), ("random", "uniform")):
        add_record(0.9 if name == "none" else 0.5, name, budget=budget)
    (column,) = columns(store, read_records(store))
    assert [row.label for row in column.rows] == [
        "clean",
        "random 8/255 uniform",
        "random 8/255 mask, 2/255 outside",
        "unseg 8/255 mask, 2/255 outside",
    ]
    assert [row.role for row in column.rows] == ["clean", "control", "control", "protector"]


def test_mean_and_paired_drop_over_seeds(store: Store, add_record: Add) -> None:
    clean = [add_record(0.9, seed=s)["scores"]["val"]["mIoU"] for s in range(3)]
    protected = [add_record(0.4, "unseg", seed=s)["scores"]["val"]["mIoU"] for s in range(3)]
    (column,) = columns(store, read_records(store))
    first, last = column.rows
    assert first.score.value == pytest.approx(sum(clean) / 3)
    assert last.drop.value == pytest.approx((sum(protected) - sum(clean)) / 3)
    assert last.drop.low < last.drop.value < last.drop.high < 0
    assert last.seeds == (0, 1, 2)
    assert last.seconds == 20.0


def test_a_table_says_where_one_key_stood_for_several_sets_of_images(store: Store, add_record: Add) -> None:
    def told(table: Table) -> list[str]:
        return [note for note in table.notes if "same images" in note]

    for seed in (0, 1):  # another seed is another generator, and is meant to be
        add_record(0.9, seed=seed)
        add_record(0.4, "unseg", seed=seed, psnr=36.5 + seed / 4)
        add_record(0.5, "random", seed=seed)
    (column,) = columns(store, read_records(store))
    assert told(detail_table(column)) == told(summary_table([column])) == []
    add_record(0.9, victim="deeplabv3")
    add_record(0.3, "unseg", victim="deeplabv3", psnr=36.5001)
    add_record(0.5, "random", victim="deeplabv3", psnr=37.0 + 1e-13)  # as another processor sums
    found = columns(store, read_records(store))
    assert [told(detail_table(column)) for column in found] == [[], []]
    (note,) = told(summary_table(found))
    assert note.startswith("unseg 8/255 mask, 2/255 outside: ") and "2 times" in note
    assert "PSNR 36.5000 to 36.5001 dB" in note
    add_record(0.9, victim="deeplabv3", seed=1)
    add_record(0.3, "unseg", victim="deeplabv3", seed=1, psnr=36.7503)
    (note,) = told(summary_table(columns(store, read_records(store))))
    # Each set of images that should be one has a span of its own: between seeds nothing was to be the same.
    assert "2 times" in note and "(PSNR 36.5000 to 36.5001 dB, 36.7500 to 36.7503 dB)" in note


def test_images_that_were_not_the_same_with_a_part_of_them_clean_are_told(
    store: Store, add_record: Add
) -> None:
    add_record(0.9)
    add_record(0.4, "unseg")
    add_record(0.6, "unseg", clean_ratio=0.2, psnr=36.0)
    (column,) = columns(store, read_records(store))
    for table in (detail_table(column), mixing_table(column)):
        (note,) = [note for note in table.notes if "same images" in note]
        assert note.startswith("unseg 8/255 mask, 2/255 outside: ") and "2 times" in note


def test_a_seed_without_clean_twin_is_no_part_of_the_drop(store: Store, add_record: Add) -> None:
    add_record(0.9, seed=0)
    one = add_record(0.4, "unseg", seed=0)["scores"]["val"]["mIoU"]
    two = add_record(0.5, "unseg", seed=1)["scores"]["val"]["mIoU"]
    (column,) = columns(store, read_records(store))
    clean, row = column.rows
    assert row.score.value == pytest.approx((one + two) / 2)
    assert row.drop.value == pytest.approx(one - clean.score.value)


def test_what_a_method_adds_is_counted_from_random_noise_of_its_own_budget(
    store: Store, add_record: Add
) -> None:
    add_record(0.9)
    uniform = add_record(0.8, "random", budget="uniform")["scores"]["val"]["mIoU"]
    mask = add_record(0.6, "random")["scores"]["val"]["mIoU"]
    tile = add_record(0.4, "random", options={"tile": 4})["scores"]["val"]["mIoU"]
    unseg = add_record(0.3, "unseg")["scores"]["val"]["mIoU"]
    lsp = add_record(0.5, "lsp", budget="uniform")["scores"]["val"]["mIoU"]
    (column,) = columns(store, read_records(store))
    beyond = {row.label: row.beyond.value if row.beyond else None for row in column.rows}
    assert beyond == {
        "clean": None,
        "random 8/255 uniform": None,
        "random 8/255 mask, 2/255 outside": None,
        "random 8/255 mask, 2/255 outside, one 4x4 tile": pytest.approx(tile - mask),
        "lsp 8/255 uniform": pytest.approx(lsp - uniform),
        "unseg 8/255 mask, 2/255 outside": pytest.approx(unseg - mask),
    }


def test_what_is_mixed_with_clean_images_stands_beside_those_alone(store: Store, add_record: Add) -> None:
    def score(record: dict[str, Any]) -> float:
        return record["scores"]["val"]["mIoU"]

    add_record(0.9)
    (column,) = columns(store, read_records(store))
    assert mixing_table(column) is None
    whole = score(add_record(0.2, "unseg"))
    alone = {share: score(add_record(0.4 + share, clean_ratio=share)) for share in (0.2, 0.4)}
    mixed = {share: score(add_record(0.45 + share, "unseg", clean_ratio=share)) for share in (0.2, 0.4)}
    add_record(0.5, "random", clean_ratio=0.4)  # no control of the other share
    (column,) = columns(store, read_records(store))
    rows = {(row.protector, row.clean_ratio): row for row in column.rows}
    unseg = "unseg 8/255 mask, 2/255 outside"
    for share in (0.2, 0.4):
        row = rows[unseg, share]
        assert row.over_clean_only.value == pytest.approx(mixed[share] - alone[share])
        assert row.over_clean_only.low <= row.over_clean_only.value <= row.over_clean_only.high
        assert rows["clean", share].role == "control" and rows["clean", share].over_clean_only is None
    assert rows[unseg, 0.2].beyond is None and rows[unseg, 0.4].beyond is not None
    assert rows[unseg, 0.0].over_clean_only is None and rows["clean", 0.0].role == "clean"
    table = mixing_table(column)
    assert table.header == (
        "clean images",
        "alone",
        "with the rest: random 8/255 mask, 2/255 outside",
        f"with the rest: {unseg}",
    )
    assert [row[0] for row in table.rows] == ["0 %", "20 %", "40 %", "100 %"]
    assert table.rows[0][1] == "--" and table.rows[0][3].startswith(f"{100 * whole:.1f}")
    assert table.rows[1][1].startswith(f"{100 * alone[0.2]:.1f}") and table.rows[1][2] == "--"
    assert f"(+{100 * (mixed[0.2] - alone[0.2]):.1f} [" in table.rows[1][3]
    assert table.rows[3][1:3] == (table.rows[3][1], "--") and table.rows[3][1] != "--"
    assert "clean only, 20 % of the images" in to_csv([column])
    assert any("Clean images mixed in" in text for text in (to_text(table), to_markdown(table)))


def test_rows_of_one_protector_are_told_apart_by_their_options(store: Store, add_record: Add) -> None:
    add_record(0.9)
    add_record(0.5, "unseg", options={"phases": 24, "generator": {"depth": 2}, "batch_size": 8})
    add_record(0.5, "unseg", options={"phases": 12, "generator": {"depth": 3}, "batch_size": 8})
    (column,) = columns(store, read_records(store))
    assert sorted(row.label for row in column.rows[1:]) == [
        "unseg 8/255 mask, 2/255 outside (depth 2, phases 24)",
        "unseg 8/255 mask, 2/255 outside (depth 3, phases 12)",
    ]


def test_noise_stands_beside_what_its_budget_explains(store: Store, add_record: Add) -> None:
    def noise(share: float) -> dict[str, Any]:
        return {
            "mean_abs_inside": 7.9,
            "mean_abs_outside": None,
            "spectrum": [3.0, 1.0, 0, 0, 0, 2.0, 2.0, 2.0],
            "tile_share": {"1": 0.1, "2": 0.2, "4": share, "8": share},
        }

    add_record(0.9)
    add_record(0.7, "random", noise=noise(0.0))
    add_record(0.5, "unseg", noise=noise(0.97))
    (column,) = columns(store, read_records(store))
    (table,) = noise_tables([column])
    assert [row[0].split()[0] for row in table.rows] == ["random", "unseg"]
    unseg = next(row for row in column.rows if row.role == "protector")
    explained = (unseg.drop.value - unseg.beyond.value) / unseg.drop.value
    assert table.rows[1][1:] == ("7.9/--", "2.00", "0.00", "2.00", "10 %", "97 %", f"{100 * explained:.0f} %")
    assert table.rows[0][-1] == "--" and 0.2 < explained < 0.8
    assert "Noise on shapes 64 px" in to_markdown(table)


def test_columns_do_not_mix_profiles_defenses_or_victims(store: Store, add_record: Add) -> None:
    add_record(0.9)
    add_record(0.9, profile="gpu")
    add_record(0.9, defense="jpeg")
    add_record(0.9, victim="deeplabv3")
    assert len(columns(store, read_records(store))) == 4


def test_gate(store: Store, add_record: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(accuracy: float, **changes: Any) -> gate.Gate:
        return gate.judge([add_record(accuracy, **changes)])

    good = add_record(0.9)
    assert gate.judge([]).state == "invalid"
    assert verdict(0.9).state == "unreferenced"
    # A victim at chance is no clean control, though its score is not zero.
    assert verdict(0.3).state == "invalid"
    assert verdict(0.99, profile="ci").state == "invalid"
    reached = good["scores"]["val"]["mIoU"]
    band = {"mean": reached + 0.05, "sd": 0.001, "n": 3}
    monkeypatch.setattr(gate, "bands", lambda: {gate.reference_key(good): band})
    assert verdict(0.9).state == "valid"  # within three times the least deviation
    assert verdict(0.8).state == "invalid"
    assert verdict(0.8, defense="jpeg").state == "unreferenced"  # the band is that of no defense


def test_invalid_columns_are_marked_everywhere(store: Store, add_record: Add) -> None:
    add_record(0.3)
    add_record(0.3, "unseg")
    (column,) = columns(store, read_records(store))
    table = detail_table(column)
    for text in (to_text(table), to_markdown(table), to_latex(table)):
        assert "INVALID" in text
    assert "(invalid)" in to_markdown(summary_table([column]))
    assert ",invalid," in to_csv([column])


def test_failed_seeds_are_named_and_counted(store: Store, add_record: Add) -> None:
    add_record(0.9, seed=0)
    add_record(0.9, seed=1, status="failed: oom")
    (column,) = columns(store, read_records(store))
    text = to_text(detail_table(column))
    assert "1/2" in text
    assert "seed 1: it broke" in text


def test_worst_case_is_the_best_score_of_any_defense(store: Store, add_record: Add) -> None:
    for defense, accuracy in (("none", 0.4), ("jpeg", 0.8), ("gaussian", 0.5)):
        add_record(0.95, defense=defense)
        add_record(accuracy, "unseg", defense=defense)
    table = summary_table(columns(store, read_records(store)))
    assert table.header[-1] == "unetplusplus worst case"
    row = next(r for r in table.rows if r[0].startswith("unseg"))
    assert row[-1].endswith("(jpeg)")


def test_pretrained_victims_are_told_apart(store: Store, add_record: Add) -> None:
    for init in ("scratch", "imagenet"):
        add_record(0.9, init=init)
    header = summary_table(columns(store, read_records(store))).header
    assert set(header[1:]) == {"unetplusplus, none, mIoU", "unetplusplus from imagenet, none, mIoU"}


def test_variants_of_one_victim_are_told_apart(store: Store, add_record: Add) -> None:
    for variant, accuracy in (("anchor", 0.9), ("query", 0.6)):
        for protector in ("none", "unseg"):
            options = {"variant": variant, "iterations": 1800}
            add_record(accuracy, protector, victim="rsprompter", victim_options=options)
    add_record(0.8, victim="dino", victim_options={"variant": "anchor"})
    found = columns(store, read_records(store))
    assert {column.victim for column in found} == {
        "rsprompter (variant anchor)",
        "rsprompter (variant query)",
        "dino",
    }
    assert all(len(column.rows) == 2 for column in found if column.victim != "dino")
    titles = [detail_table(column).title for column in found]
    assert len(set(titles)) == 3
    assert "rsprompter (variant query) (semantic, init scratch)" in " ".join(titles)
    assert "worst case" not in " ".join(summary_table(found).header)


def test_csv_holds_unrounded_numbers(store: Store, add_record: Add) -> None:
    score = add_record(0.9)["scores"]["val"]["mIoU"]
    (line,) = csv.DictReader(io.StringIO(to_csv(columns(store, read_records(store)))))
    assert float(line["score"]) == pytest.approx(score, abs=1e-12)
    assert line["drop"] == ""
    assert line["seeds"] == "0"


def test_latex_escapes(store: Store, add_record: Add) -> None:
    add_record(0.9)
    add_record(0.5, "third_party")
    add_record(0.5, "third_party", seed=1)
    text = to_latex(detail_table(columns(store, read_records(store))[0]))
    assert r"third\_party" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {line.count("&") for line in body} == {10}


def test_tables_are_a_pure_function_of_records(store: Store, add_record: Add) -> None:
    add_record(0.9)
    add_record(0.5, "unseg")
    first = [p.read_bytes() for p in write_all_tables(store.root, store.root / "a")]
    second = [p.read_bytes() for p in write_all_tables(store.root, store.root / "b")]
    assert first == second
    assert len(first) == 3


def test_a_changed_record_is_refused(store: Store, add_record: Add) -> None:
    key = add_record(0.4, "unseg")["key"]
    path = store.record_folder(key) / RECORD_FILE
    assert read_record(store, key)["key"] == key
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ArtifactCorrupt, match="changed after it was written"):
        read_record(store, key)
    path.write_text("{")
    with pytest.raises(ArtifactCorrupt, match="is no record"):
        read_record(store, key)
