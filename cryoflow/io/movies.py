"""Movies: a folder, a list or a STAR file of them (MRC, TIFF, EER) as one lazy Dataset, with gain and dose."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io.given import DEFAULTS, MovieOptions, check_optics, put_optics
from cryoflow.io.images.image_file import ImageFile, open_image_file, open_image_files
from cryoflow.io.images.lazy import chunk_rows
from cryoflow.io.images.lazy_array import LazyImages
from cryoflow.io.images.together import Together
from cryoflow.io.sources.address import name_of, resolve
from cryoflow.io.sources.project import project_folder
from cryoflow.io.sources.source import is_remote, normal
from cryoflow.io.star.relion import from_tables, split_optics, text
from cryoflow.io.star.star import read_star
from cryoflow.options import takes
from cryoflow.schema import validate

__all__ = ["MovieFrames", "open_movies"]

_SUFFIXES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")


@dataclass(frozen=True)
class MovieFrames(LazyImages):
    """Frames of many movies as one array (movie, frame, y, x). A movie's own frames come first, then zeros.

    ``file[i]`` is the index of movie i in ``files``, -1 where it cannot be read.
    """

    counted: ClassVar[int] = 2

    files: tuple[ImageFile, ...]
    file: NDArray[np.int32]
    extent: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.file), *self.extent)

    def content(self) -> Iterator[bytes]:
        """The movies, and the files as they were when they were opened."""
        yield self.file.tobytes() + f"{self.extent} {self.dtype}".encode()
        for file in self.files:
            yield f"{file.token()}\n".encode()

    def read(self, movies: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[Any]:
        """Whole ``frames`` of ``movies``."""
        out = np.zeros((len(movies), len(frames), *self.extent[1:]), self.dtype)
        for movie, place in zip(movies, out, strict=True):
            if self.file[movie] >= 0:
                _fill(place, self.files[self.file[movie]], frames)
        return out


def _fill(out: NDArray[Any], file: ImageFile, frames: NDArray[np.int64]) -> None:
    """Put ``frames`` of ``file`` into ``out``, those that follow each other by one call; others stay zero."""
    starts: Any = np.flatnonzero(np.concatenate([[True], np.diff(frames) != 1])) if len(frames) else []
    for first, stop in zip(starts, [*starts[1:], len(frames)], strict=True):
        count = min(stop - first, file.shape[0] - int(frames[first]))
        if count > 0:
            file.read(int(frames[first]), int(count), out[first : first + count])


@takes(MovieOptions, DEFAULTS)
def open_movies(
    source: str | Path | Iterable[str | Path],
    *,
    gain: str | Path | None = None,
    dose_per_frame: float | None = None,
    **options: Unpack[MovieOptions],
) -> xr.Dataset:
    """Open movies lazily; broken ones stay as rows with ``usable`` False and a ``reason``.

    Parameters
    ----------
    source : a folder (its .mrc, .mrcs, .tif, .tiff and .eer files), a pattern with ``*``, a list of files or URLs, or
        RELION's STAR file of movies (its optics are used where a parameter below is not given).
    gain : image that multiplies the frames, of their size.
    dose_per_frame : electrons a square angstrom; by default what EER files say.
    pixel_size, voltage, cs, amplitude_contrast : angstrom, kV, mm and a fraction.
    root : folder that the names of a STAR file are relative to; by default the first of its folder and the four above
        it in which a movie is found.
    trust_given : accept a pixel size that headers contradict by more than 1 %.
    allow_outside : accept names of a STAR file that lead out of ``root``.
    chunk_bytes : size of a chunk of frames, in their own type.

    Returns
    -------
    Dataset with ``movie`` (movie, frame, y, x) in the type of the files (float32 if they differ), ``frames`` (how many
    each movie has: the frame axis is as long as the longest movie, and zeros beyond a movie's own frames, which are
    never stored or read), ``movie_name``, ``usable``, ``reason`` and the optics. Frames of the commonest size are read;
    a movie of another size, truncated or unreadable is set aside.

    Raises
    ------
    ParameterError : no movies, a wrong parameter, a gain of another size, or a pixel size that headers contradict.
    FormatError : none of the movies can be read, or a damaged STAR file.

    Examples
    --------
    >>> import tempfile
    >>> from cryoflow.io import write_stack
    >>> folder = tempfile.mkdtemp()
    >>> for name, frames in (("a", 5), ("b", 3)):
    ...     image = xr.DataArray(np.ones((frames, 8, 8)), dims=("frame", "y", "x"))
    ...     write_stack(f"{folder}/{name}.mrcs", image, pixel_size=1.0)
    >>> ds = open_movies(folder, pixel_size=1.0)
    >>> ds.movie.shape, ds.frames.values.tolist(), float(ds.movie[1].sum())
    ((2, 5, 8, 8), [5, 3], 192.0)
    """
    where = f"open_movies({source})" if isinstance(source, str | Path) else "open_movies"
    base, names, ds, addresses = _sources(source, options["root"], where, options["allow_outside"])
    put_optics(ds, options, where)
    check_optics(ds, where)
    together = _opened(addresses)
    together.require(where, "movie that can be read")
    if "pixel_size" in ds and not options["trust_given"]:
        together.check_pixel_sizes(ds, where)
    frame = together.one_frame()
    ds["movie_name"] = ("movie", text(names))
    ds["frames"] = ("movie", np.array([0 if f is None else f.shape[0] for f in together.files], np.int32))
    ds["usable"] = ("movie", np.array([not p for p in together.problems]))
    ds["reason"] = ("movie", text(together.problems))
    ds["movie"] = _lazy(together, frame, options["chunk_bytes"])
    dose = _dose(together.files, dose_per_frame, where)
    if dose is not None:
        ds["dose_per_frame"] = ("movie", dose)
    if gain is not None:
        ds["gain"] = (("y", "x"), _gain(gain, frame))
    ds.attrs["root"] = base
    return validate(ds, where)


def _sources(
    source: Any, root: str | Path | None, where: str, allow_outside: bool
) -> tuple[str, list[str], xr.Dataset, list[str]]:
    """Root, names relative to it (or whole), what a STAR file says, and the addresses of the movies."""
    if isinstance(source, str | Path) and normal(source).partition("?")[0].endswith(".star"):
        star = normal(source)
        base, names, ds = _from_star(star, root)
        rows = [f"{star}, row {i}" for i in range(1, len(names) + 1)]
        return (
            base,
            names,
            ds,
            [resolve(n, base, where=row, allow_outside=allow_outside) for n, row in zip(names, rows, strict=True)],
        )
    if not isinstance(source, str | Path):
        paths = [normal(p) for p in source]
    elif Path(source).is_dir():
        paths = [str(p) for p in sorted(Path(source).iterdir()) if p.suffix.lower() in _SUFFIXES and p.is_file()]
    elif is_remote(source) or Path(source).is_file():
        paths = [normal(source)]
    else:
        paths = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207
    if not paths:
        raise ParameterError(where, expected="movies (.mrc, .mrcs, .tif, .tiff, .eer)", found="no such file",
                             remedy="Check the path.")  # fmt: skip
    folders = {p.replace("\\", "/").rpartition("/")[0] for p in paths}
    base = folders.pop() if len(folders) == 1 else ""
    names = [p[len(base) :].lstrip("/") if base else p for p in paths]
    ds = xr.Dataset({
        "optics_name": ("optics", text(["opticsGroup1"])),
        "optics_group": ("movie", np.zeros(len(names), np.int32)),
    })  # fmt: skip
    return base, names, ds, paths


def _from_star(star: str, root: str | Path | None) -> tuple[str, list[str], xr.Dataset]:
    rows, optics = split_optics(read_star(star), "movies", star)
    if "rlnMicrographMovieName" not in rows:
        raise FormatError(star, expected="_rlnMicrographMovieName", found=f"labels {', '.join(rows.columns)}")
    names = [str(n) for n in rows.rlnMicrographMovieName]
    ds = from_tables(rows, optics, dim="movie", where=star).drop_vars("x_rlnMicrographMovieName", errors="ignore")
    if "micrograph_pixel_size" in ds and "pixel_size" not in ds:  # here the images are the movies
        ds = ds.assign(pixel_size=ds["micrograph_pixel_size"]).drop_vars("micrograph_pixel_size")
    if root is not None:
        return normal(root), names, ds
    folder = star.rpartition("/")[0]
    if is_remote(star):
        return folder, names, ds
    return project_folder(Path(star).parent, names), names, ds


def _opened(addresses: list[str]) -> Together:
    """The movies that can be read, and why others cannot."""
    together = Together()
    for file, address in zip(open_image_files(addresses), addresses, strict=True):
        if isinstance(file, CryoflowError):
            together.add(None, str(file).replace(address, name_of(address)))
        else:
            together.add(file, "")
    return together


def _lazy(together: Together, frame: tuple[int, int], chunk_bytes: float) -> xr.Variable:
    files, index, dtype = together.packed()
    longest = max(file.shape[0] for file in files)
    array = MovieFrames(files, index, (longest, *frame), dtype)
    variable = xr.Variable(("movie", "frame", "y", "x"), indexing.LazilyIndexedArray(array))
    step = min(longest, chunk_rows(frame[0] * frame[1] * dtype.itemsize, chunk_bytes))
    chunked: xr.Variable = variable.chunk({"movie": 1, "frame": step}, name=f"movies-{array.token()}-{step}")
    return chunked


def _dose(opened: list[ImageFile | None], given: float | None, where: str) -> NDArray[np.float64] | None:
    """Exposure of a frame of each movie; NaN where the file does not say."""
    if given is not None:
        if not np.isfinite(given) or given <= 0:
            raise ParameterError(where, expected="dose_per_frame above 0", found=f"{given:g}")
        return np.full(len(opened), float(given))
    from cryoflow.io.images.eer import EerImages

    said = [f.header.dose_per_frame * (f.first[1] - f.first[0]) if isinstance(f, EerImages) else 0.0 for f in opened]
    return np.array([d or np.nan for d in said]) if any(said) else None


def _gain(path: str | Path, frame: tuple[int, int]) -> NDArray[np.float32]:
    file = open_image_file(path)
    if file.shape[0] != 1 or file.shape[1:] != frame:
        raise ParameterError(f"gain {path}", expected=f"one image of {frame}, the size of the frames",
                             found=f"{file.shape}", remedy="Turn or bin the gain as the frames are.")  # fmt: skip
    gain: NDArray[np.float32] = file.read(0, 1)[0].astype(np.float32)
    if not np.isfinite(gain).all():
        raise ParameterError(f"gain {path}", expected="finite values", found="NaN or infinity")
    return gain
