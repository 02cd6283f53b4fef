"""What a workflow names outside of itself, found and checked before anything starts."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from cryoflow.catalog import find_reference
from cryoflow.catalog.layout import locate
from cryoflow.catalog.start import split_name
from cryoflow.errors import CryoflowError, ParameterError
from cryoflow.workflow.check_particles import check_particles
from cryoflow.workflow.model import Workflow

__all__ = ["check_files", "micrograph_paths", "needed_bytes"]

MAPS = {".mrc", ".map", ".ccp4"}
MODELS = {".pdb", ".cif", ".ent", ".mmcif"}


def check_files(workflow: Workflow, *, root: Path | str | None = None) -> Workflow:
    """The workflow with every file name made absolute and every file looked at, as far as can be without long work.

    Names are relative to ``root`` (the working folder if not given). Headers of micrographs, stacks, reference and
    masks are read: a truncated stack, a contradicting pixel size or a reference of no use end here, not an hour later.

    Raises
    ------
    ParameterError : a file that does not exist, or values that contradict a file.
    FormatError : a file that is not what it should be.
    """
    base = Path(root) if root is not None else Path()
    if not base.is_dir():
        raise ParameterError("--root", expected="an existing folder", found=str(base))
    changes: dict[str, Any] = {}
    if workflow.micrographs is not None:
        patterns = workflow.micrographs.path
        names = (patterns,) if isinstance(patterns, str) else patterns
        absolute = tuple(_placed(name, base, workflow) for name in names)
        folder = workflow.micrographs.root
        stage = workflow.micrographs.model_copy(update={
            "path": absolute[0] if len(absolute) == 1 else absolute,
            "root": _existing(folder, base, "micrographs.root") if folder else None,
        })  # fmt: skip
        changes["micrographs"] = stage
        _check_micrographs(micrograph_paths(stage.path), workflow)
    if workflow.particles is not None:
        star = _existing(Path(_placed(str(workflow.particles.path), base, workflow)), base, "particles.path")
        folder = workflow.particles.root
        changes["particles"] = workflow.particles.model_copy(
            update={"path": star, "root": _existing(folder, base, "particles.root") if folder else None}
        )
    if workflow.simulate is not None and workflow.simulate.source is not None:
        model = _existing(workflow.simulate.source, base, "simulate.source")
        changes["simulate"] = workflow.simulate.model_copy(update={"source": model})
    if workflow.refine is not None:
        update: dict[str, Any] = {"reference": _reference(workflow.model_copy(update=changes), root, base)}
        if workflow.refine.mask is not None:
            update["mask"] = _existing(workflow.refine.mask, base, "refine.mask")
        changes["refine"] = workflow.refine.model_copy(update=update)
        update = {
            name: _existing(path, base, f"postprocess.{name}")
            for name in ("mask", "mtf")
            if (path := getattr(workflow.postprocess, name)) is not None
        }
        changes["postprocess"] = workflow.postprocess.model_copy(update=update)
        if "mtf" in update:
            from cryoflow.postprocess import read_mtf

            # any box will do: what is looked at is the file
            detector = workflow.postprocess.mtf_pixel_size or 1.0
            read_mtf(update["mtf"], box=16, pixel_size=detector, mtf_pixel_size=detector)
    checked = workflow.model_copy(update=changes)
    _check_headers(checked)
    return checked


def micrograph_paths(path: str | tuple[str, ...]) -> list[Path]:
    """The files that absolute names or patterns stand for, sorted.

    Raises
    ------
    ParameterError : a name without a file, or a pattern without any.
    """
    found: set[Path] = set()
    for name in (path,) if isinstance(path, str) else path:
        whole = Path(name)
        anchor = Path(whole.anchor)
        matches = [whole] if whole.is_file() else list(anchor.glob(str(whole.relative_to(anchor))))
        if not matches:
            raise ParameterError(
                "micrographs.path", expected="existing files", found=f"none for {name}",
                remedy="Give the folder of the data with --root, or the files with --set micrographs.path=PATTERN.",
            )  # fmt: skip
        found.update(matches)
    return sorted(found)


def _placed(name: str, base: Path, workflow: Workflow) -> str:
    """A name or pattern as absolute path; the data of an entry may lie as in the archive, or flat."""
    if workflow.entry is not None and not Path(name).is_absolute():
        found = locate(name, base, split_name(workflow.entry)[0])
        if found is not None:
            return found
    return str(base.resolve() / name)


def _existing(path: Path, base: Path, where: str) -> Path:
    whole = base.resolve() / path
    if not whole.exists():
        raise ParameterError(where, expected="an existing file", found=str(whole))
    return whole


def _reference(workflow: Workflow, root: Path | str | None, base: Path) -> str | None:
    """The reference as an absolute path; None where the simulated truth is the reference."""
    assert workflow.refine is not None
    given = workflow.refine.reference
    if given is None:
        if workflow.simulate is None:
            raise ParameterError(
                "refine.reference", expected="a map (.mrc) or a model (.pdb, .cif) to start from", found="none",
                remedy="Give it in the file or with --set refine.reference=FILE.",
            )  # fmt: skip
        return None
    if given.startswith(("pdb:", "emdb:")):
        found = find_reference(given, Path(root) if root else None, "refine.reference")
        return str(_on_grid(found, workflow) if given.startswith("emdb:") else found)
    path = _existing(Path(given), base, "refine.reference")
    if path.suffix.lower() not in MAPS | MODELS:
        raise ParameterError(
            "refine.reference", expected=f"a map ({', '.join(sorted(MAPS))}) or a model ({', '.join(sorted(MODELS))})",
            found=path.name,
        )  # fmt: skip
    return str(path)


def _on_grid(path: Path, workflow: Workflow) -> Path:
    """A published map on the grid of the particles, kept in the cache: archives have maps of any box and pixel size."""
    from cryoflow.catalog.addresses import cache_folder
    from cryoflow.io import read_header, read_map, write_map
    from cryoflow.simulate.source import regrid

    size, header = _image_size(workflow), read_header(path)
    if size is None or (header.shape == (size[0],) * 3 and abs(header.voxel[0] / size[1] - 1) < 0.01):
        return path
    box, pixel = size
    target = cache_folder() / "references" / f"{path.stem}_{path.stat().st_size}_box{box}_{pixel:.4f}A.mrc"
    if not target.is_file():
        write_map(target, regrid(read_map(path), box=box, pixel_size=pixel), pixel_size=pixel)
    return target


def _check_micrographs(paths: list[Path], workflow: Workflow) -> None:
    """The headers must not contradict the pixel size. Broken files are set aside by name later, unless all are."""
    from cryoflow.io import open_micrographs
    from cryoflow.io.images.mrc import check_pixel_size, read_header

    assert workflow.micrographs is not None
    if workflow.micrographs.root is not None and not any(path.suffix == ".star" for path in paths):
        raise ParameterError(
            "micrographs.root", expected="none: files are where they are", found=str(workflow.micrographs.root)
        )
    headers, errors = [], []
    for path in paths:
        if path.suffix == ".star":
            open_micrographs(path, **workflow.micrographs.model_dump(exclude={"path"}))
        if path.suffix.lower() != ".mrc":
            continue
        try:
            headers.append(read_header(path))
        except (CryoflowError, OSError) as error:
            errors.append(error)
    if errors and len(errors) == len(paths):
        raise ParameterError(
            "micrographs.path",
            expected="at least one file that can be read",
            found=f"{len(errors)} that cannot; {errors[0]}",
        )
    if headers and not workflow.micrographs.trust_given:
        check_pixel_size(headers, workflow.micrographs.pixel_size, "micrographs.pixel_size")
    if headers:
        _check_sizes(workflow, max(min(header.shape[1:]) for header in headers))


def _check_sizes(workflow: Workflow, side: int) -> None:
    """A box, or a particle, that no micrograph of ``side`` pixels can hold."""
    assert workflow.micrographs is not None
    pixel = workflow.micrographs.pixel_size
    if workflow.extract is not None and workflow.extract.box > side:
        raise ParameterError("extract.box", expected=f"at most the micrographs' side, {side} pixels",
                             found=str(workflow.extract.box))  # fmt: skip
    for stage, name in (("pick", "diameter"), ("pick", "max_diameter"), ("extract", "background_diameter")):
        given = getattr(getattr(workflow, stage), name, None)
        if given is not None and given > side * pixel:
            raise ParameterError(
                f"{stage}.{name}", expected=f"at most the micrographs' side, {side * pixel:g} A", found=f"{given:g} A",
                remedy="Lengths are in angstrom: is the pixel size right?",
            )  # fmt: skip


def _image_size(workflow: Workflow) -> tuple[int, float] | None:
    """Box and pixel size (angstrom) of the particles, where they are known before the run."""
    if workflow.particles is not None:
        from cryoflow.io import read_particles

        given = workflow.particles.model_dump(exclude={"path"}, exclude_none=True)
        ds = read_particles(workflow.particles.path, **given)
        if ds.sizes["particle"] == 0:
            raise ParameterError(str(workflow.particles.path), expected="particles", found="none")
        check_particles(workflow, ds)
        return ds.sizes["x"], float(ds["pixel_size"].values[0])
    source = workflow.micrographs or workflow.simulate
    if source is None or workflow.extract is None:
        return None
    box = workflow.extract.rescale or workflow.extract.box
    return box, source.pixel_size * workflow.extract.box / box


def _check_headers(workflow: Workflow) -> None:
    """Reference map and masks must have the box and pixel size of the particles."""
    size = _image_size(workflow)
    if size is None or workflow.refine is None:
        return
    from cryoflow.io import model_to_map, read_header, read_map
    from cryoflow.kernels.masks import checked_mask
    from cryoflow.refinement.settings import Settings

    box, pixel = size
    if workflow.refine.diameter > box * pixel:
        raise ParameterError(
            "refine.diameter", expected=f"at most the box, {box * pixel:g} A ({box} pixels of {pixel:g} A)",
            found=f"{workflow.refine.diameter:g} A", remedy="Is the pixel size right?",
        )  # fmt: skip
    names = [field.name for field in fields(Settings)]
    Settings(**{name: getattr(workflow.refine, name) for name in names}).check(box, pixel)
    maps = {"refine.mask": workflow.refine.mask, "postprocess.mask": workflow.postprocess.mask}
    reference = workflow.refine.reference
    if reference is not None and Path(reference).suffix.lower() in MAPS:
        maps["refine.reference"] = Path(reference)
    elif reference is not None:
        model_to_map(reference, box=box, pixel_size=pixel)  # refuses what is no model, or does not fit the box
    for where, path in maps.items():
        if path is None:
            continue
        header = read_header(path)
        if header.shape != (box, box, box):
            raise ParameterError(
                where, expected=f"the particles' box, {box} voxels a side", found=" x ".join(map(str, header.shape)),
                remedy="Resample it to the box and pixel size of the particles, or give a model.",
            )  # fmt: skip
        if abs(header.voxel[0] / pixel - 1) > 0.01:
            raise ParameterError(
                where, expected=f"the particles' pixel size, {pixel:g} A", found=f"{header.voxel[0]:g} A",
                remedy="Resample it to the box and pixel size of the particles, or correct its header.",
            )  # fmt: skip
        if where.endswith(".mask"):
            checked_mask(read_map(path, pixel_size=pixel), where)


def needed_bytes(workflow: Workflow) -> int:
    """Disk a run may need: its particle images once in the store and once as a stack, and maps. An estimate."""
    size = _image_size(workflow)
    if size is None:
        return 10**7
    box, _ = size
    if workflow.particles is not None:
        count = 0  # the images stay where they are
    elif workflow.simulate is not None:
        count = workflow.simulate.particles_per_micrograph * workflow.simulate.n
    else:
        count = _expected_particles(workflow)
    iterations = 30
    return 10**7 + 2 * 4 * count * box**2 + (8 + 3 * iterations) * 4 * box**3


def _expected_particles(workflow: Workflow) -> int:
    """Particles of well-filled micrographs: 0.7 of the area in squares of the particle's diameter."""
    from cryoflow.io.images.mrc import read_header

    assert workflow.micrographs is not None
    assert workflow.pick is not None
    paths = micrograph_paths(workflow.micrographs.path)
    for path in paths:
        try:
            header = read_header(path)
        except (CryoflowError, OSError):
            continue
        area = header.shape[1] * header.shape[2] * workflow.micrographs.pixel_size**2
        return int(0.7 * area / workflow.pick.diameter**2) * len(paths)
    return 0
