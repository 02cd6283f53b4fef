"""Parameters of a refinement, checked before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cryoflow.errors import ParameterError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``refine`` was asked for; names and meaning as there."""

    symmetry: str
    diameter: float
    ini_high: float
    classes: int
    poses: Literal["global", "local", "fixed"]
    seed: int
    order: int
    local_order: int
    local_step: float
    shift_range: float
    shift_step: float
    join_halves_to: float
    solvent_fsc: bool
    tau_fudge: float
    limit: int
    max_significant: int
    fraction: float
    padding: int
    scale_correction: bool
    norm_correction: bool

    def check(self, box: int, pixel_size: float) -> None:
        """Raise ``ParameterError`` for values that cannot work with images of ``box`` pixels."""
        width = box * pixel_size
        rules: list[tuple[bool, str, str, str]] = [
            (0 < self.diameter <= width, f"a particle diameter between 0 and the box of {width:.1f} A",
             f"{self.diameter} A", "Give diameter in angstrom, or extract with a larger box."),
            (2 * pixel_size <= self.ini_high <= width / 2,
             f"ini_high between {2 * pixel_size:.2f} and {width / 2:.1f} A", f"{self.ini_high} A", "Use 20 to 60 A."),
            (self.classes >= 1, "at least one class", str(self.classes), ""),
            (self.poses in ("global", "local", "fixed"), "poses global, local or fixed", repr(self.poses), ""),
            (0 <= self.order <= 6, "a HEALPix order of 0 to 6", str(self.order), "2 means 15 degrees."),
            (self.shift_range >= 0 and self.shift_step > 0, "shift_range >= 0 and shift_step > 0, pixels",
             f"{self.shift_range}, {self.shift_step}", ""),
            (self.limit >= 1, "limit of at least one iteration", str(self.limit), ""),
            (0.5 < self.fraction < 1, "fraction between 0.5 and 1", str(self.fraction), "Use 0.999."),
            (self.padding in (1, 2, 3), "padding of 1, 2 or 3", str(self.padding), ""),
        ]  # fmt: skip
        for holds, expected, found, remedy in rules:
            if not holds:
                raise ParameterError("refine", expected=expected, found=found, remedy=remedy)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for provenance and to tell whether a run may be resumed."""
        return asdict(self)
