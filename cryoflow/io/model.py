"""Density of an atomic model (PDB or mmCIF), as the electron microscope sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cryoflow.errors import FormatError, ParameterError

if TYPE_CHECKING:
    import gemmi

__all__ = ["model_centre", "model_to_map", "read_model"]

_FINEST = 0.9  # angstrom: atoms are drawn on a grid at least this fine


def model_to_map(
    path: str | Path,
    *,
    box: int,
    pixel_size: float,
    resolution: float | None = None,
    b_factor: float | None = None,
    centre: bool | tuple[float, float, float] = True,
    assembly: str | None = None,
) -> xr.DataArray:
    """Electron-scattering density of a model, positive, ``map`` (z, y, x) float32 with its centre at ``box // 2``.

    rho(x) = sum_a o_a sum_i a_i (4 pi / (b_i + B_a))^(3/2) exp(-4 pi^2 |x - x_a|^2 / (b_i + B_a)), with the five
    Gaussians (a_i, b_i) of each element and the model's occupancies o and B-factors B. Atoms are drawn on a finer
    grid with an added blur, which is divided out before the Fourier crop, so that no detail is aliased.

    Parameters
    ----------
    box, pixel_size : size of the map in voxels and of a voxel in angstrom.
    resolution : low-pass filter in angstrom, a cosine over two shells; None keeps all up to Nyquist.
    b_factor : A^2, replaces the B-factors of all atoms.
    centre : True moves ``model_centre`` to the centre of the box, (x, y, z) that point (angstrom), False keeps the
        model's own coordinates, with the first voxel at 0.
    assembly : name of a biological assembly to build, "1" say; None takes the atoms as they are listed.

    Raises
    ------
    FormatError : not a readable model, or one without atoms.
    ParameterError : box, pixel size, resolution or assembly out of range, or atoms outside of the box.

    Source: Peng et al. 1996, Acta Cryst. A52, 257 (scattering factors, through gemmi).

    Examples
    --------
    >>> import tempfile, pathlib
    >>> pdb = pathlib.Path(tempfile.mkdtemp()) / "one.pdb"
    >>> line = "ATOM      1  CA  ALA A   1      11.000   2.000   3.000  1.00 20.00           C\\n"
    >>> _ = pdb.write_text(line)
    >>> rho = model_to_map(pdb, box=16, pixel_size=1.5)
    >>> [int(i) for i in np.unravel_index(rho.values.argmax(), rho.shape)]
    [8, 8, 8]
    """
    import gemmi

    where = f"model_to_map({path})"
    if box < 2 or not np.isfinite(pixel_size) or pixel_size <= 0:
        raise ParameterError(where, expected="a box from 2 and a pixel size above 0", found=f"{box}, {pixel_size}")
    if resolution is not None and resolution < 2 * pixel_size:
        raise ParameterError(where, expected=f"a resolution of at least 2 pixels ({2 * pixel_size:g} A)",
                             found=f"{resolution:g} A", remedy="Leave it out for all detail.")  # fmt: skip
    structure = read_model(Path(path), assembly, where)
    model = structure[0]
    origin = np.array(model_centre(path, model)) if centre is True else np.array(centre or (0.0, 0.0, 0.0), float)
    offset = (box // 2 * pixel_size if centre is not False else 0.0) - origin
    low, high, least_b = np.full(3, np.inf), np.full(3, -np.inf), np.inf
    for site in model.all():
        atom = site.atom
        position = np.array(atom.pos.tolist()) + offset
        atom.pos = gemmi.Position(*position)
        if b_factor is not None:
            atom.b_iso = b_factor
        atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        low, high, least_b = np.minimum(low, position), np.maximum(high, position), min(least_b, atom.b_iso)
    if low.min() < 0 or high.max() > (box - 1) * pixel_size:
        need = int(np.ceil(2 * max(-(low - box // 2 * pixel_size).min(), (high - box // 2 * pixel_size).max())
                           / pixel_size)) + 2  # fmt: skip
        raise ParameterError(
            where, expected=f"a model that fits the box of {box * pixel_size:.0f} A",
            found=f"atoms from {low.min():.0f} to {high.max():.0f} A",
            remedy=f"Take a box of at least {need}, or centre it.",
        )  # fmt: skip
    fine, spectrum = _spectrum(model, box, pixel_size, float(least_b))
    grid = np.fft.fftfreq(box, pixel_size)
    s2 = grid[:, None, None] ** 2 + grid[None, :, None] ** 2 + np.fft.rfftfreq(box, pixel_size) ** 2
    spectrum = _crop(spectrum, box) * np.exp(0.25 * fine * s2)
    if resolution is not None:
        shell = np.sqrt(s2) * box * pixel_size
        edge = box * pixel_size / resolution
        spectrum *= 0.5 + 0.5 * np.cos(np.pi * np.clip((shell - edge + 1) / 2, 0, 1))
    import scipy.fft

    density = scipy.fft.irfftn(spectrum, s=(box,) * 3)
    attrs: dict[str, Any] = {
        "pixel_size": float(pixel_size), "source": Path(path).name, "model_centre": [float(v) for v in origin],
    }  # fmt: skip
    return xr.DataArray(np.ascontiguousarray(density, np.float32), dims=("z", "y", "x"), name="map", attrs=attrs)


def read_model(path: Path, assembly: str | None, where: str) -> gemmi.Structure:
    """The atoms of a model file without waters, as listed or as the biological assembly of that name."""
    import gemmi

    if not path.is_file():
        raise FormatError(str(path), expected="a PDB or mmCIF file", found="no such file")
    try:
        structure = gemmi.read_structure(str(path))
    except (ValueError, RuntimeError, OSError) as error:
        raise FormatError(str(path), expected="a PDB or mmCIF file", found=str(error)[:200]) from None
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FormatError(str(path), expected="a model with atoms", found="none")
    structure.setup_entities()
    structure.remove_waters()
    if assembly is not None:
        names = [a.name for a in structure.assemblies]
        if assembly not in names:
            raise ParameterError(where, expected=f"an assembly of {names}", found=repr(assembly))
        structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.Short)
    return structure


def model_centre(path: str | Path, model: gemmi.Model | None = None) -> tuple[float, float, float]:
    """Centre (x, y, z; angstrom) of a model: the mean of its backbone (CA and P) atoms.

    Only residues that all copies of a chain share are counted, so that a residue missing in one of many
    equal chains does not move the centre off the axes of symmetry. A model without backbone: its centre of mass.
    """
    if model is None:
        model = read_model(Path(path), None, "model_centre")[0]
    kinds: list[list[dict[tuple[str, str, str], NDArray[np.float64]]]] = []
    for chain in model:
        atoms: dict[tuple[str, str, str], NDArray[np.float64]] = {
            (str(residue.seqid), residue.name, atom.name): np.array(atom.pos.tolist())
            for residue in chain for atom in residue if atom.name in ("CA", "P") and atom.element.name in ("C", "P")
        }  # fmt: skip
        # the same numbers and names of residues for the most part: copies of one chain
        kind = next((k for k in kinds if len(k[0].keys() & atoms) > 0.5 * min(len(k[0]), len(atoms))), None)
        if kind is not None:
            kind.append(atoms)
        elif atoms:
            kinds.append([atoms])
    points = [chain[key] for chains in kinds for key in sorted(set.intersection(*map(set, chains))) for chain in chains]
    if not points:
        return tuple(float(v) for v in model.calculate_center_of_mass().tolist())  # type: ignore[return-value]
    return tuple(float(v) for v in np.mean(points, axis=0))  # type: ignore[return-value]


def _spectrum(model: gemmi.Model, box: int, pixel_size: float, least_b: float) -> tuple[float, NDArray[Any]]:
    """The added blur in A^2 and the half spectrum of the density drawn on the finer grid, voxel volumes counted."""
    import gemmi
    import scipy.fft

    times = max(1, int(np.ceil(pixel_size / _FINEST)))
    spacing = pixel_size / times
    # the blur that makes the narrowest Gaussian about as wide as the grid resolves (gemmi's rule, ICCBC 1.1)
    blur = max(0.0, 8 * np.pi**2 / 1.1 * spacing**2 - least_b)
    calculator = gemmi.DensityCalculatorE()
    calculator.blur = blur
    calculator.d_min = 2 * spacing
    calculator.rate = 1.0
    calculator.grid.set_unit_cell(gemmi.UnitCell(*(box * pixel_size,) * 3, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(*(box * times,) * 3)
    calculator.add_model_density_to_grid(model)
    density = np.asarray(calculator.grid.array).transpose(2, 1, 0)  # gemmi's arrays are (x, y, z)
    return blur, scipy.fft.rfftn(density) / times**3


def _crop(spectrum: NDArray[Any], box: int) -> NDArray[Any]:
    """The frequencies of a box of the same extent with coarser voxels; its Nyquist plane, if any, is zero."""
    if spectrum.shape[0] == box:
        return spectrum
    half = (box - 1) // 2
    out = np.zeros((box, box, box // 2 + 1), spectrum.dtype)
    keep = np.r_[0 : half + 1, -half:0]
    out[np.ix_(keep, keep, np.arange(half + 1))] = spectrum[np.ix_(keep, keep, np.arange(half + 1))]
    return out
