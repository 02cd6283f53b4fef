"""Published maps and models by number: beside the data, in the cache, or from the EMDB and the PDB."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from cryoflow.catalog.addresses import cache_folder, emdb_address, pdb_address
from cryoflow.errors import FormatError, ParameterError, ResourceError

__all__ = ["fetch_emdb", "fetch_pdb", "fetch_reference", "find_reference"]

MAP_BYTES = 16 << 30  # of a map when unpacked
_MODEL_SUFFIXES = (".pdb", ".cif", ".ent", ".mmcif")
_MAP_SUFFIXES = (".map", ".mrc", ".ccp4")


def fetch_emdb(number: int, folder: Path | str | None = None, *, limit: int = MAP_BYTES) -> Path:
    """The map of EMDB entry ``number``, unpacked, in ``folder`` (the user's cache if not given).

    It is downloaded once. ``CRYOFLOW_EMDB`` names another server. Unpacking stops at ``limit`` bytes.

    Raises
    ------
    ParameterError : no such number. FormatError : no map, or more than ``limit``. ResourceError : no answer, full disk.
    """
    if not 0 < number < 10**7:
        raise ParameterError("fetch_emdb", expected="a number such as 3488", found=f"{number}")
    name = f"emd_{number:04d}"
    target = _folder(folder) / f"{name}.map"
    if target.is_file():
        return target
    packed = target.with_name(f".{name}.map.gz")
    _download(emdb_address(number), packed)
    try:
        _unpack(packed, target, limit)
    finally:
        packed.unlink(missing_ok=True)
    return target


def fetch_pdb(identifier: str, folder: Path | str | None = None) -> Path:
    """The model of PDB entry ``identifier`` as mmCIF in ``folder`` (the user's cache if not given).

    It is downloaded once. ``CRYOFLOW_PDB`` names another server.
    """
    if not re.fullmatch(r"[0-9][a-zA-Z0-9]{3}", identifier):
        raise ParameterError("fetch_pdb", expected="an identifier such as 6z6u", found=repr(identifier))
    target = _folder(folder) / f"{identifier.lower()}.cif"
    if not target.is_file():
        _download(pdb_address(identifier), target)
        with target.open("rb") as stream:
            head = stream.read(4096)
        if b"data_" not in head:  # a page that says sorry
            target.unlink()
            raise FormatError(pdb_address(identifier), expected="a model in mmCIF", found=f"{head[:40]!r}")
    return target


def fetch_reference(name: str, folder: Path | str | None = None) -> Path:
    """What ``pdb:6z6u`` or ``emdb:3488`` names, downloaded once."""
    kind, identifier = _parts(name, "reference")
    return fetch_pdb(identifier, folder) if kind == "pdb" else fetch_emdb(int(identifier), folder)


def find_reference(name: str, root: Path | None, where: str = "reference", *, fetch: bool = False) -> Path:
    """The file of ``pdb:6z6u`` or ``emdb:3488``: beside the data, else in the cache, else from the archive.

    Beside the data are ``root``, its ``models`` and ``maps`` folders and those beside it. A plain ``6z6u`` is a PDB
    identifier. Nothing is downloaded unless ``fetch``.

    Raises
    ------
    ParameterError : there is none; the folders looked in are named.
    """
    kind, identifier = _parts(name, where)
    base = (root or Path()).resolve()
    inner = ("models",) if kind == "pdb" else ("maps", "models")
    folders = [base, *(base / n for n in inner), *(base.parent / n for n in inner)]
    if kind == "pdb":
        names = [f"{stem}{s}" for stem in (identifier.lower(), identifier.upper()) for s in _MODEL_SUFFIXES]
    else:
        stems = (f"emd_{identifier}", f"EMD-{identifier}", f"emd_{int(identifier):04d}", f"EMD-{int(identifier):04d}")
        names = [f"{stem}{s}" for stem in dict.fromkeys(stems) for s in _MAP_SUFFIXES]
    for folder in [*folders, _folder(None)]:
        for file in names:
            if (folder / file).is_file():
                return folder / file
    if fetch:
        return fetch_reference(f"{kind}:{identifier}")
    what = f"the model {identifier} as {identifier.lower()}.pdb or .cif" if kind == "pdb" else f"the map {names[0]}"
    raise ParameterError(
        where,
        expected=f"{what} in one of {', '.join(map(str, folders))}",
        found="no such file",
        remedy=f"Put it there, fetch it with `cryoflow catalog fetch {kind}:{identifier}`, or give another with "
        "--set refine.reference=FILE (a model or a map).",
    )


def _parts(name: str, where: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:(pdb):)?([0-9][a-zA-Z0-9]{3})|emdb?[:-](\d{1,7})", name, re.IGNORECASE)
    if match is None:
        raise ParameterError(where, expected="pdb:ID or emdb:NUMBER", found=repr(name))
    return ("emdb", str(int(match[3]))) if match[3] else ("pdb", match[2])


def _folder(folder: Path | str | None) -> Path:
    return Path(folder) if folder is not None else cache_folder() / "references"


def _download(address: str, target: Path) -> None:
    from cryoflow.io.sources.download import download

    target.parent.mkdir(parents=True, exist_ok=True)
    download(address, target)


def _unpack(packed: Path, target: Path, limit: int) -> None:
    """Unpack gzip piece by piece: never more than ``limit``, and whole or not at all."""
    from cryoflow.io.files import atomic
    from cryoflow.io.images.mrc import read_header

    unpacker, total = zlib.decompressobj(wbits=31), 0
    with atomic(target) as partial:
        with packed.open("rb") as source, partial.open("wb") as out:
            while piece := (unpacker.unconsumed_tail or source.read(1 << 20)):
                try:
                    block = unpacker.decompress(piece, 1 << 24)
                except zlib.error as error:
                    raise FormatError(target.name, expected="a map packed by gzip", found=str(error)) from None
                total += len(block)
                if total > limit:
                    raise ResourceError(target.name, expected=f"at most {limit} bytes unpacked", found="more",
                                        remedy="Give a larger limit if that map is really so large.")  # fmt: skip
                out.write(block)
        if not unpacker.eof:
            raise FormatError(target.name, expected="a whole gzip file", found=f"one cut off after {total} bytes")
        read_header(partial)
