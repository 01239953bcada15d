"""Annotated number types for records; the ranges are checked when records are read (softadv._typed)."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Interval

from softadv._ranges import MOST_IMAGES

Share = Annotated[float, Interval(ge=0, le=1)]  # a fraction of images
Seconds = Annotated[float, Ge(0)]
Count = Annotated[int, Interval(ge=0, le=MOST_IMAGES)]
Several = Annotated[int, Interval(ge=1, le=MOST_IMAGES)]
