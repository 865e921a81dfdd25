"""How image tokens are drawn: the settings, and changes to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from cm3leon.config import check

OF_STREAMS = frozenset(  # settings that make one distribution of the streams; the others draw
    ("guidance", "unconditional", "strategy", "alpha", "k", "amateur_temperature", "guided_expert")
)


@dataclass(frozen=True)
class DecodeConfig:
    """How image tokens are drawn; order: guide or contrast, temperature, top-k, top-p, draw (A34).

    The defaults were chosen on `coco`, `val` for the shipped `scenes-s` (LOG.md).
    """

    guidance: float = 1.75  # classifier-free guidance weight a_c of Eq. 2; 1 is conditional only
    temperature: float = 0.6  # 0: the most likely token
    top_p: float = 1.0
    unconditional: str = "mask"  # its stream's prompt (A32): "mask", "drop" or "bare"
    strategy: str = "guide"  # or "contrast": CD-K (Eq. 3), an alternative to guidance (A40)
    alpha: float = 0.5  # of CD-K: share of the k-th largest probability that a token must reach
    k: int = 8  # of CD-K; 1 is contrastive decoding
    amateur_temperature: float = 1.0  # of CD-K
    guided_expert: bool = False  # of CD-K: the expert is the guided distribution (A40)
    top_k: int | None = None
    STORED: ClassVar[dict] = {"unconditional": "free"}  # settings as files and records call them

    def __post_init__(self):
        check(math.isfinite(self.guidance), "decode.guidance", "be finite", self.guidance)
        check(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "decode.temperature",
            "be finite and not negative",
            self.temperature,
        )
        check(0 < self.top_p <= 1, "decode.top_p", "lie in (0, 1]", self.top_p)
        check(
            self.unconditional in ("mask", "drop", "bare"),
            "decode.unconditional",
            "be 'mask', 'drop' or 'bare'",
            self.unconditional,
        )
        strategies = ("guide", "contrast")
        check(
            self.strategy in strategies,
            "decode.strategy",
            "be 'guide' or 'contrast'",
            self.strategy,
        )
        check(0 < self.alpha <= 1, "decode.alpha", "lie in (0, 1]", self.alpha)
        check(self.k >= 1, "decode.k", "be at least 1", self.k)
        amateur = self.amateur_temperature
        check(
            math.isfinite(amateur) and amateur > 0,
            "decode.amateur_temperature",
            "be finite and positive",
            amateur,
        )
        check(self.top_k is None or self.top_k >= 1, "decode.top_k", "be at least 1", self.top_k)

    @property
    def streams(self) -> int:
        """Forward passes a token: two unless the unconditional stream has no part in the result."""
        return 1 if self.strategy == "guide" and self.guidance == 1 else 2

    @property
    def sampling(self) -> dict:
        """The settings that turn one distribution into a token, by name: the temperature, and what
        is not at its default, which leaves all as it is. A new setting is one of them, unless
        `OF_STREAMS` names it: an engine that does not know it leaves the draw to torch.
        """
        found = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in OF_STREAMS and getattr(self, field.name) != field.default
        }
        return {"temperature": self.temperature} | found


GREEDY = DecodeConfig(guidance=1.0, temperature=0.0)  # of text, where nothing else is said


@dataclass(frozen=True)
class EditGuidance:
    """Three streams and two weights instead of `decode.guidance` (`sampling.guide_edit`).

    `image` strengthens the codes before the hidden ones, `text` the caption; 1 and 1 are the
    conditional stream alone, and `text` alone is guidance by that weight.
    """

    image: float = 1.0
    text: float = 1.0

    def __post_init__(self):
        for name in ("image", "text"):
            value = getattr(self, name)
            check(math.isfinite(value), f"{name} guidance", "be finite", value)


@dataclass(frozen=True)
class DecodeChanges:
    """Settings of drawing to change; what is left out stays as the system has it."""

    guidance: float | None = None
    """classifier-free guidance weight; 1 is no guidance"""
    temperature: float | None = None
    """below 1 sharper, 0 the most likely token"""
    top_p: float | None = None
    """nucleus: the most likely tokens that together have this probability"""
    top_k: int | None = None
    """the most likely tokens, so many"""
    unconditional: str | None = None
    """prompt of the unconditional stream: mask, drop or bare"""
    strategy: str | None = None
    """guide, or contrast: CD-K"""
    alpha: float | None = None
    """of CD-K: share of the k-th largest probability that a token must reach"""
    k: int | None = None
    """of CD-K; 1 is contrastive decoding"""
    amateur_temperature: float | None = None
    """of CD-K"""
    guided_expert: bool | None = None
    """of CD-K: the expert is the guided distribution"""

    @property
    def given(self) -> dict:
        """Name -> value of what is to change."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
