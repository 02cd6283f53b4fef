"""What cryoSPARC expects in a group of fields, for data that did not come from it: types and neutral values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["complete", "default_dtype", "digests"]

# type, own shape and neutral value of the fields of a group, in cryoSPARC's order; None: always made from the data
_FIELDS: Mapping[str, tuple[str, int, float | bytes | None]] = {
    "blob/path": ("S1", 0, None), "blob/idx": ("u4", 0, None), "blob/shape": ("u4", 2, None),
    "blob/psize_A": ("f4", 0, None), "blob/sign": ("f4", 0, 1.0), "blob/import_sig": ("u8", 0, 0),
    "ctf/type": ("S9", 0, b"imported"), "ctf/exp_group_id": ("u4", 0, 1), "ctf/accel_kv": ("f4", 0, None),
    "ctf/cs_mm": ("f4", 0, None), "ctf/amp_contrast": ("f4", 0, None), "ctf/df1_A": ("f4", 0, None),
    "ctf/df2_A": ("f4", 0, None), "ctf/df_angle_rad": ("f4", 0, None), "ctf/phase_shift_rad": ("f4", 0, 0.0),
    "ctf/scale": ("f4", 0, 1.0), "ctf/scale_const": ("f4", 0, 0.0), "ctf/shift_A": ("f4", 2, 0.0),
    "ctf/tilt_A": ("f4", 2, 0.0), "ctf/trefoil_A": ("f4", 2, 0.0), "ctf/tetra_A": ("f4", 4, 0.0),
    "ctf/anisomag": ("f4", 4, 0.0), "ctf/bfactor": ("f4", 0, 0.0),
    "alignments3D/split": ("u4", 0, 0), "alignments3D/shift": ("f4", 2, 0.0), "alignments3D/pose": ("f4", 3, None),
    "alignments3D/psize_A": ("f4", 0, None), "alignments3D/error": ("f4", 0, 0.0),
    "alignments3D/error_min": ("f4", 0, 0.0), "alignments3D/resid_pow": ("f4", 0, 0.0),
    "alignments3D/slice_pow": ("f4", 0, 0.0), "alignments3D/image_pow": ("f4", 0, 0.0),
    "alignments3D/cross_cor": ("f4", 0, 0.0), "alignments3D/alpha": ("f4", 0, 1.0),
    "alignments3D/alpha_min": ("f4", 0, 0.0), "alignments3D/weight": ("f4", 0, 0.0),
    "alignments3D/pose_ess": ("f4", 0, 0.0), "alignments3D/shift_ess": ("f4", 0, 0.0),
    "alignments3D/class_posterior": ("f4", 0, 1.0), "alignments3D/class": ("u4", 0, 0),
    "alignments3D/class_ess": ("f4", 0, 1.0),
    "location/micrograph_uid": ("u8", 0, None), "location/exp_group_id": ("u4", 0, 1),
    "location/micrograph_path": ("S1", 0, None), "location/micrograph_shape": ("u4", 2, None),
    "location/center_x_frac": ("f4", 0, None), "location/center_y_frac": ("f4", 0, None),
    "location/micrograph_psize_A": ("f4", 0, None),
    "pick_stats/ncc_score": ("f4", 0, 0.0), "pick_stats/power": ("f4", 0, 0.0),
    "pick_stats/template_idx": ("u4", 0, 0), "pick_stats/angle_rad": ("f4", 0, 0.0),
    "alignments2D/split": ("u4", 0, 0), "alignments2D/shift": ("f4", 2, 0.0), "alignments2D/pose": ("f4", 0, 0.0),
    "alignments2D/psize_A": ("f4", 0, None), "alignments2D/class_posterior": ("f4", 0, 1.0),
    "alignments2D/class": ("u4", 0, 0),
    "micrograph_blob/path": ("S1", 0, None), "micrograph_blob/idx": ("u4", 0, 0),
    "micrograph_blob/shape": ("u4", 2, None), "micrograph_blob/psize_A": ("f4", 0, None),
    "micrograph_blob/format": ("S10", 0, b"MRC/1"), "micrograph_blob/is_background_subtracted": ("u4", 0, 0),
    "mscope_params/accel_kv": ("f4", 0, None), "mscope_params/cs_mm": ("f4", 0, None),
    "mscope_params/total_dose_e_per_A2": ("f4", 0, 0.0), "mscope_params/exp_group_id": ("u4", 0, 1),
    "ctf/ctf_fit_to_A": ("f4", 0, None), "ctf/cross_corr_ctffind4": ("f4", 0, None),
}  # fmt: skip


def default_dtype(field: str) -> np.dtype[Any] | None:
    """The type cryoSPARC gives ``field``, without its own shape; None for a field not in the list.

    >>> default_dtype("ctf/tilt_A")
    dtype('float32')
    """
    return np.dtype(_FIELDS[field][0]) if field in _FIELDS else None


def digests(texts: list[str]) -> NDArray[np.uint64]:
    """64-bit identifiers from texts: the same text gives the same number, on every machine.

    >>> digests(["000001@a.mrcs"]).tolist()
    [10379702279436820213]
    """
    raw = b"".join(hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=8).digest() for t in texts)
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def complete(
    kept: dict[str, NDArray[Any]], variables: Mapping[str, NDArray[Any]], optics: Mapping[str, NDArray[Any]],
    uid: NDArray[np.uint64], linked: set[str], source: Iterable[str],
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """``kept`` with what is missing in groups that will be written and that the source did not have.

    ``linked`` are the fields the variables will fill, ``optics`` the columns of the optics groups, ``source`` the
    fields of the source.
    """
    rows = len(uid)
    had = {field.partition("/")[0] for field in source}
    wanted = {field.partition("/")[0] for field in (*linked, *optics, *kept)} - had
    out = dict(kept)
    for field, (dtype, width, neutral) in _FIELDS.items():
        group = field.partition("/")[0]
        if group not in wanted or field in out or field in optics:
            continue
        if field.endswith(("alignments3D/psize_A", "alignments2D/psize_A")) and "blob/psize_A" in optics:
            out[field] = np.asarray(optics["blob/psize_A"], np.float32)
        elif field == "location/micrograph_uid" and field not in linked and "micrograph_name" in variables:
            names = [str(n) for n in variables["micrograph_name"].tolist()]
            known = dict(zip(names, digests(names).tolist(), strict=True))
            out[field] = np.array([known[n] for n in names], np.uint64)
        elif field.endswith("exp_group_id") and "ctf/exp_group_id" in optics:
            out[field] = np.asarray(optics["ctf/exp_group_id"], np.uint32)
        elif field.startswith("mscope_params/") and f"ctf/{field.partition('/')[2]}" in optics:
            out[field] = np.asarray(optics[f"ctf/{field.partition('/')[2]}"], dtype)
        elif neutral is not None and field not in linked:
            out[field] = np.full((rows, width) if width else rows, neutral, dtype)
    return out
