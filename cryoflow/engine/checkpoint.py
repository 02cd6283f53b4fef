"""A state on disk: one folder, JSON and .npy, no pickle; there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cryoflow.engine.disk import disk_is_full
from cryoflow.errors import FormatError, ParameterError, ResourceError, StoreError
from cryoflow.kernels.backend import to_host

__all__ = ["read_state", "write_folder", "write_state"]

VERSION = 1
_ARRAY_FILE = re.compile(r"\d+\.npy")


def write_folder(folder: Path, state: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write ``state`` and ``record`` beside ``folder``, force them to the disk, then rename.

    Raises
    ------
    ParameterError : a value has no form on disk.
    ResourceError : the disk is full. Nothing that was there before is lost.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_state(partial, state)
        _write_json(partial / "record.json", dict(record))
        partial.replace(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if disk_is_full(error):
            raise ResourceError(
                str(folder), expected="space on the disk for a checkpoint", found=str(error),
                remedy="Free some space and start again: the iterations before this one are kept.",
            ) from error  # fmt: skip
        raise StoreError(str(folder), expected="a folder that can be written", found=str(error)) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """``state.json`` and one .npy file an array, in a folder that exists."""
    arrays: list[np.ndarray] = []
    tree = {str(k): _encode(v, arrays, str(k)) for k, v in state.items()}
    for i, array in enumerate(arrays):
        with (folder / f"{i}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            _sync(file)
    _write_json(folder / "state.json", {"version": VERSION, "state": tree})


def read_state(folder: Path) -> dict[str, Any]:
    """The state that ``write_state`` wrote. Nothing is unpickled, and no file outside ``folder`` is opened.

    Raises
    ------
    StoreError : another version. FormatError : a file is damaged; it is named.
    """
    path = folder / "state.json"
    try:
        content = json.loads(path.read_text())
        version, tree = content["version"], content["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(str(path), expected="the state of an iteration", found=f"{type(error).__name__}: {error}",
                          remedy="Remove this iteration's folder to go on from the one before.") from error  # fmt: skip
    if version != VERSION:
        raise StoreError(str(path), expected=f"version {VERSION}", found=str(version),
                         remedy="Continue with the version of cryoflow that wrote it.")  # fmt: skip
    return {k: _decode(v, folder) for k, v in tree.items()}


def _encode(value: Any, arrays: list[np.ndarray], name: str) -> Any:
    value = to_host(value)
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return _encode_array(np.asarray(value), arrays, name, scalar=isinstance(value, np.generic))
    if isinstance(value, xr.DataArray):
        return {"is": "dataarray", "name": value.name, "of": _encode_dataset(value._to_temp_dataset(), arrays, name)}
    if isinstance(value, xr.Dataset):
        return {"is": "dataset", **_encode_dataset(value, arrays, name)}
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"is": "dict", "of": {k: _encode(v, arrays, f"{name}.{k}") for k, v in value.items()}}
    if type(value) in (list, tuple):
        parts = [_encode(v, arrays, f"{name}[{i}]") for i, v in enumerate(value)]
        return {"is": type(value).__name__, "of": parts}
    raise ParameterError(
        f"state of iterate, {name!r}", found=type(value).__name__,
        expected="arrays, Datasets, numbers, text, None, or dicts (keys: text), lists and tuples of them",
        remedy="Keep it outside the state, for example in the step.",
    )  # fmt: skip


def _encode_array(array: np.ndarray, arrays: list[np.ndarray], name: str, *, scalar: bool) -> Any:
    if array.dtype.kind in "OT":
        flat = array.ravel().tolist()
        if not all(isinstance(v, str) for v in flat):
            raise ParameterError(f"state of iterate, {name!r}", expected="an array of numbers or text",
                                 found=f"dtype {array.dtype}")  # fmt: skip
        return {"is": "text", "shape": list(array.shape), "of": flat}
    arrays.append(array)
    return {"is": "scalar" if scalar else "array", "file": f"{len(arrays) - 1}.npy"}


def _encode_dataset(ds: xr.Dataset, arrays: list[np.ndarray], name: str) -> dict[str, Any]:
    variables = []
    for key, v in ds.variables.items():
        label = key if isinstance(key, str) else "__dataarray__"
        if v.chunks is not None:
            raise ParameterError(f"state of iterate, {name!r}", expected="computed variables", found=f"lazy {key!r}",
                                 remedy="Compute it, or keep the data outside the state.")  # fmt: skip
        attributes = {k: _encode(a, arrays, f"{name}.{label}.attrs.{k}") for k, a in v.attrs.items()}
        values = _encode(v.to_numpy(), arrays, f"{name}.{label}")
        variables.append([label, list(v.dims), values, attributes, key in ds.coords])
    return {"variables": variables, "attrs": {k: _encode(a, arrays, f"{name}.attrs.{k}") for k, a in ds.attrs.items()}}


def _decode(value: Any, folder: Path) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("is")
    if kind in ("array", "scalar"):
        array = _load(folder, value["file"])
        return array[()] if kind == "scalar" else array
    if kind == "text":
        return np.array(value["of"], dtype=object).reshape(value["shape"])
    if kind == "dict":
        return {k: _decode(v, folder) for k, v in value["of"].items()}
    if kind in ("list", "tuple"):
        parts = [_decode(v, folder) for v in value["of"]]
        return parts if kind == "list" else tuple(parts)
    if kind == "dataset":
        return _decode_dataset(value, folder)
    if kind == "dataarray":
        ds = _decode_dataset(value["of"], folder)
        return ds["__dataarray__"].rename(value["name"])
    raise FormatError(str(folder / "state.json"), expected="a known kind of value", found=repr(kind))


def _decode_dataset(value: dict[str, Any], folder: Path) -> xr.Dataset:
    data: dict[str, xr.Variable] = {}
    coords: dict[str, xr.Variable] = {}
    for name, dims, values, attributes, is_coord in value["variables"]:
        attrs = {k: _decode(a, folder) for k, a in attributes.items()}
        (coords if is_coord else data)[name] = xr.Variable(dims, _decode(values, folder), attrs)
    return xr.Dataset(data, coords, {k: _decode(a, folder) for k, a in value["attrs"].items()})


def _load(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not _ARRAY_FILE.fullmatch(name):
        raise FormatError(str(folder / "state.json"), expected="a file name like 0.npy", found=repr(name))
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(str(path), expected="an array", found=f"{type(error).__name__}: {error}",
                          remedy="Remove this iteration's folder to go on from the one before.") from error  # fmt: skip
    return array


def _write_json(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
