"""What protectors, victims, defenses and datasets have in common: a name, a version, and options with presets."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from bench.errors import SpecError


class PluginOptions(BaseModel):
    """Frozen, strict about names; every field is part of the key.

    Attributes:
        ADDED: Fields that came after results existed; see `bench.spec.plain_options`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ADDED: ClassVar[frozenset[str]] = frozenset()


class Plugin(ABC):
    """Something that a user names, with options.

    Attributes:
        name: Registered name.
        version: Raised whenever outputs change for the same options; part of the key.
        summary: One line for `bench ls`.
        paper: Where the method comes from; may be empty.
        presets: Options by profile, for what the user leaves open; none for a plugin that is the same at all profiles.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    Options: ClassVar[type[PluginOptions]] = PluginOptions
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, options: Any = None) -> None:
        self.options = options or self.Options()

    @classmethod
    def preset(cls, profile: str) -> dict[str, Any]:
        """The options of a profile.

        Raises:
            SpecError: There is no such profile.
        """
        if not cls.presets:
            return {}
        if profile not in cls.presets:
            raise SpecError(f"{cls.name} has no profile '{profile}'; choose one of {', '.join(cls.presets)}")
        return cls.presets[profile]

    @classmethod
    def resolve_options(cls, profile: str, given: dict[str, Any]) -> Any:
        """Fills in what the user left open, by profile. The result, an `Options`, is what enters the key."""
        return cls.Options(**{**cls.preset(profile), **given})
