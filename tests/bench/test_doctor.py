from __future__ import annotations

from pathlib import Path

from bench.doctor import examine


def test_this_environment_is_all_right(tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(tmp_path / "store")}
    assert set(checks) == {"python", "packages", "torch", "operators", "models", "store"}
    assert {c.state for c in checks.values()} <= {"ok", "warn"}
    assert "torch 2" in checks["packages"].text


def test_a_store_that_is_a_file_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    (store,) = (c for c in examine(tmp_path / "store") if c.name == "store")
    assert store.state == "fail"
    assert store.exit_code == 3
    assert "--store" in store.text
