from __future__ import annotations

import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.keys import canonical, key_of
from bench.seeds import derive_seed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_order_of_keys_changes_nothing(value: dict) -> None:
    assert key_of(value) == key_of(dict(reversed(value.items())))


@given(values, values)
def test_equal_keys_mean_equal_values(a: object, b: object) -> None:
    assert (key_of(a) == key_of(b)) == (canonical(a) == canonical(b))


def test_golden_keys() -> None:
    # A change of these numbers makes every store unreadable: it must be on purpose.
    assert key_of({"stage": "data", "seed": 0, "epsilon": 8.0}) == "b26eed2efea0b1b2dc6a"
    assert derive_seed(0, "train") == 667075045559183919


def test_unicode_is_normalised() -> None:
    assert key_of("é") == key_of(unicodedata.normalize("NFD", "é"))


def test_one_and_one_point_zero_differ() -> None:
    assert key_of(1) != key_of(1.0) != key_of(True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), b"bytes"])
def test_what_cannot_be_a_key_is_refused(bad: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        key_of({"x": [bad]})


@pytest.mark.parametrize(
    "environment", [{"PYTHONHASHSEED": "1"}, {"LC_ALL": "C", "TZ": "Asia/Tokyo"}, {"PYTHONHASHSEED": "99"}]
)
def test_keys_do_not_depend_on_the_environment(environment: dict[str, str]) -> None:
    value = {"b": [1, 2.5, "ä"], "a": {"x": None, "c": True}}
    code = f"from bench.keys import key_of; print(key_of({value!r}))"
    out = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == key_of(value)


def test_derived_seeds_tell_strings_from_numbers() -> None:
    assert derive_seed("1") != derive_seed(1)
    assert derive_seed("a", "b") != derive_seed("ab")
