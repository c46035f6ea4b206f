"""Canonical JSON and the keys that are made of it."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from typing import Any

KEY_LENGTH = 20
"""Hex digits of a key. 80 bits: no two of a million stages collide by chance."""


def canonical(value: Any) -> str:
    """JSON that is the same for equal values on every machine.

    Keys are sorted, strings NFC-normalised, floats written by `repr` with integral floats as floats, and
    NaN and infinity refused.
    """
    return json.dumps(
        _normal(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def key_of(value: Any) -> str:
    """The key of `value`: the head of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:KEY_LENGTH]


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a key")
        return value
    if isinstance(value, dict):
        return {_normal(str(k)): _normal(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((_normal(v) for v in value), key=canonical)
    raise TypeError(f"{type(value).__name__} cannot be part of a key")
