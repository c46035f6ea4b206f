from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import SpecError, UsageError
from bench.protect.manifest import IDENTITY, MANIFEST, Manifest

SOURCE = {"source_sha256": "01" * 32, "annotation_sha256": "02" * 32}


def row(folder: Path, name: str, content: bytes = b"protected") -> dict[str, Any]:
    (folder / f"{name}.png").write_bytes(content)
    return {"image": name, "file": f"{name}.png", "sha256": hashlib.sha256(content).hexdigest(), **SOURCE}


def test_a_line_holds_as_long_as_file_and_source_have_their_hashes(tmp_path: Path) -> None:
    with Manifest(tmp_path, {"epsilon": 8}) as manifest:
        assert not manifest.is_done("a", lambda: SOURCE)
        for name in "abc":
            manifest.append(row(tmp_path, name))
    (tmp_path / "b.png").write_bytes(b"changed")
    (tmp_path / "c.png").unlink()
    with Manifest(tmp_path, {"epsilon": 8}) as manifest:
        assert manifest.is_done("a", lambda: SOURCE)
        assert not manifest.is_done("a", lambda: SOURCE | {"source_sha256": "03" * 32})
        assert not manifest.is_done("a", lambda: SOURCE | {"annotation_sha256": "03" * 32})
        assert not manifest.is_done("b", lambda: SOURCE)
        assert not manifest.is_done("c", lambda: SOURCE)
        assert manifest.file_of("a") == tmp_path / "a.png"


def test_a_line_that_was_cut_off_is_as_good_as_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    with Manifest(tmp_path, {}) as manifest:
        for name in "ab":
            manifest.append(row(tmp_path, name))
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    first = len(whole.splitlines(keepends=True)[0])
    for kept in (
        first,
        first + 1,
        first + 9,
        len(whole) - 40,
        len(whole) - 3,
        len(whole) - 2,
        len(whole) - 1,
    ):
        path.write_bytes(whole[:kept])
        with Manifest(tmp_path, {}) as manifest:
            assert manifest.is_done("a", lambda: SOURCE)
            assert manifest.is_done("b", lambda: SOURCE) == (
                kept == len(whole) - 1
            )  # only the line's end is missing
            manifest.append(row(tmp_path, "b"))
        with Manifest(tmp_path, {}) as manifest:
            assert manifest.is_done("b", lambda: SOURCE)


def test_the_last_line_of_an_image_counts(tmp_path: Path) -> None:
    with Manifest(tmp_path, {}) as manifest:
        manifest.append({"image": "a", "error": "no"})
        manifest.append(row(tmp_path, "a"))
        manifest.append(row(tmp_path, "b"))
        manifest.append({"image": "b", "error": "no"})
    with Manifest(tmp_path, {}) as manifest:
        assert manifest.is_done("a", lambda: SOURCE)
        assert not manifest.is_done("b", lambda: SOURCE)
        assert [r["image"] for r in manifest.rows(["b", "x", "a"])] == ["b", "a"]
        manifest.rewrite(manifest.rows())
        assert manifest.is_done("a", lambda: SOURCE)
        manifest.append(row(tmp_path, "b"))
    rows = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert [r["image"] for r in rows] == ["a", "b", "b"]
    assert "error" in rows[1]
    assert not list(tmp_path.glob(".*"))


def test_another_identity_is_refused_by_what_differs_unless_forced(tmp_path: Path) -> None:
    identity = {"budget": {"epsilon": 8.0, "kind": "mask"}, "codec": "png"}
    with Manifest(tmp_path, identity) as manifest:
        manifest.append(row(tmp_path, "a"))
    other = {"budget": {"epsilon": 4.0, "kind": "mask"}, "codec": "png"}
    with pytest.raises(SpecError, match=r"\(budget.epsilon 8.0 -> 4.0\).*--force"):
        Manifest(tmp_path, other)
    assert json.loads((tmp_path / IDENTITY).read_text()) == identity
    with Manifest(tmp_path, other, force=True) as manifest:
        assert not manifest.is_done("a", lambda: SOURCE)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    for force in (False, True):
        with pytest.raises(UsageError, match="did not write"):
            Manifest(tmp_path, {}, force)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(UsageError, match="is a file"):
        Manifest(tmp_path / "holiday.jpg", {})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Manifest(tmp_path, {}), pytest.raises(UsageError, match="another bench protect"):
        Manifest(tmp_path, {})
    Manifest(tmp_path, {}).__exit__()


def test_a_damaged_statement_counts_as_another_identity(tmp_path: Path) -> None:
    with Manifest(tmp_path, {"codec": "png"}) as manifest:
        manifest.append(row(tmp_path, "a"))
    (tmp_path / IDENTITY).write_text("{")
    with pytest.raises(SpecError, match="codec unset -> png"):
        Manifest(tmp_path, {"codec": "png"})
