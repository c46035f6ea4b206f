from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from bench import spec
from bench.errors import SpecError
from bench.spec import DatasetSpec, Matrix, Spec, identity_of, read_matrices, role_of, validated
from victims.deeplab import DeepLabV3Options


def _all_specs() -> list[type[Spec]]:
    found = [c for _, c in inspect.getmembers(spec, inspect.isclass) if issubclass(c, Spec) and c is not Spec]
    assert len(found) >= 7
    return found


@pytest.mark.parametrize("model", _all_specs(), ids=lambda m: m.__name__)
def test_every_field_is_identity_or_runtime(model: type[Spec]) -> None:
    undeclared = [
        name for name, field in model.model_fields.items() if role_of(field) not in ("identity", "runtime")
    ]
    assert undeclared == []


def test_identity_leaves_out_runtime_fields_at_any_depth(tmp_path: Path) -> None:
    here = Matrix(protectors=["none"], victims=["v"], dataset={"name": "voc", "root": tmp_path})
    there = Matrix(
        protectors=["none"], victims=["v"], dataset={"name": "voc", "root": "elsewhere"}, name="other"
    )
    assert identity_of(here) == identity_of(there)
    assert "root" not in identity_of(here)["dataset"]


def test_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="unknown option 'protectrs': did you mean protectors"):
        validated(Matrix, {"protectrs": ["none"], "victims": ["v"]}, "here")
    with pytest.raises(SpecError, match="unknown option 'epsilom': did you mean epsilon"):
        validated(Matrix, {"protectors": [{"name": "x", "budget": {"epsilom": 1}}], "victims": ["v"]}, "here")


@pytest.mark.parametrize("epsilon", [-1, 256, float("nan")])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(SpecError, match=r"protectors\.0\.budget\.epsilon"):
        validated(
            Matrix, {"protectors": [{"name": "x", "budget": {"epsilon": epsilon}}], "victims": ["v"]}, "here"
        )


def test_a_mistake_of_several_fields_is_told_without_all_that_was_given() -> None:
    with pytest.raises(SpecError) as caught:
        validated(DeepLabV3Options, {"encoder": "efficientnet-lite0", "depth": 50, "iterations": 7}, "here")
    assert str(caught.value) == (
        "here: depth: of the ResNet, and encoder=efficientnet-lite0 has a shape of its own"
    )
    with pytest.raises(SpecError, match=r"^here: depth: .*, not 7$"):
        validated(DeepLabV3Options, {"depth": 7}, "here")


def test_specs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DatasetSpec().name = "other"  # type: ignore[misc]


def test_matrix_file_is_read_and_anchored(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(
        'protectors = ["none", {name = "unseg", fit_on = [{name = "image_mask", root = "photos"}]}]\n'
        'victims = ["unetplusplus"]\nseeds = [0, 1]\n[dataset]\nname = "voc"\nroot = "VOC2012"\n'
    )
    (matrix,) = read_matrices(file)
    assert matrix.name == "small"
    assert matrix.dataset.root == tmp_path / "VOC2012"
    assert matrix.protectors[1].fit_on[0].root == tmp_path / "photos"
    assert matrix.seeds == (0, 1)


def test_a_file_of_several_matrices_shares_what_stands_above_them(tmp_path: Path) -> None:
    file = tmp_path / "table.toml"
    file.write_text(
        'name = "table2"\nprotectors = ["unseg"]\nseeds = [0, 1]\n'
        '[[matrices]]\nvictims = ["mask2former"]\ndataset = {name = "voc", root = "VOC"}\n'
        '[[matrices]]\nvictims = ["dino"]\nseeds = [2]\n'
    )
    first, second = read_matrices(file)
    assert first.name == second.name == "table2"
    assert (first.seeds, second.seeds) == ((0, 1), (2,))
    assert first.dataset.root == tmp_path / "VOC" and second.dataset.name == "shapes"
    assert [m.victims[0].name for m in (first, second)] == ["mask2former", "dino"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protectors = [", "no readable TOML"),
        ('protectors = ["none"]\nvictims = ["v"]\nmatrices = [1]', r"write \[\[matrices\]\]"),
        (
            'protectors = ["none"]\n[[matrices]]\nvictims = ["v"]\n[[matrices]]\nvictim = []',
            "matrix 2: .*did you mean victims",
        ),
        (
            'protectors = ["none"]\n[[matrices]]\nvictims = ["v"]\nname = "x"',
            "name is that of the whole table",
        ),
        ('protectors = ["none"]', "victims"),
        ('protectors = []\nvictims = ["v"]', "at least 1"),
        ('protectors = ["none"]\nvictims = ["v"]\nname = "a/b"', "name"),
    ],
)
def test_bad_matrix_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        read_matrices(file)
    assert str(file) in str(caught.value)
    with pytest.raises(SpecError, match="no matrix file"):
        read_matrices(tmp_path / "absent.toml")


def test_a_list_of_defenses_stands_for_all_that_are_in_it() -> None:
    def specs(*defenses: object) -> list[tuple[str, dict]]:
        values = {"protectors": ["none"], "victims": ["v"], "defenses": list(defenses)}
        return [(d.name, d.options) for d in validated(Matrix, values, "here").defenses]

    def names(*defenses: object) -> list[str]:
        return [name for name, _ in specs(*defenses)]

    assert names("paper") == ["none", "gaussian", "jpeg", "at", "ddc_at"]
    assert names("jpeg", "paper") == ["jpeg", "none", "gaussian", "at", "ddc_at"]
    best = [repr(spec) for spec in specs("best")]
    assert len(best) == len(set(best)) > 8
    assert ("grayscale", {}) in specs("best") and ("grayscale", {"apply_to": "both"}) in specs("best")
    assert names("none", "paper") == names("paper", {"name": "none"}) == names("paper")
    assert names({"name": "jpeg", "options": {"quality": 50}}, "jpeg") == ["jpeg", "jpeg"]
    with pytest.raises(SpecError, match="best is a list of defenses"):
        names({"name": "best", "options": {"quality": 50}})


def test_the_lists_of_defenses_hold_what_there_is() -> None:
    from bench.countermeasures import LISTS, listed
    from bench.registry import load, names

    known = set(names("defense"))
    assert not known & set(LISTS)
    for name in LISTS:
        assert listed(name)[0] == {"name": "none", "options": {}}
        for each in listed(name):
            plugin = load("defense", each["name"])
            assert isinstance(plugin(plugin.Options(**each["options"])), plugin)
