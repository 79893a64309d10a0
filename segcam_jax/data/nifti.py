"""Volumes on disk: NIfTI read and written, NRRD read.

Voxels stay in file order, and coordinates are mm, whatever the file's units. What is written for a
volume has the affine, codes and units of its file, so that maps overlay their input exactly in any
viewer, and nothing else of its header: no name of a patient, no intent, no scale.
"""

import contextlib
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from segcam_jax import _files
from segcam_jax.data.volume import Grid, Volume, check_affine, farthest, spacing_of
from segcam_jax.extras import require
from segcam_jax.types import InputError, SegcamError, counted

NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr")
SUFFIXES = NIFTI + NRRD
# Noise-like maps hardly compress; higher levels only take longer.
_GZIP_LEVEL = 3
AXES = 3
_MOST_AXES, _LARGEST_HEADER = 7, 540  # of NIfTI
_UNORIENTED = "the file does not give its orientation; only its voxel sizes are used"
# Where a NIfTI header says how voxels lie, and in which units.
_PLACE = ("pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z", "qform_code")
_PLACE += ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_NIFTI_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}
_LENGTHS = {
    1e3: ("m", "meter", "metre"),
    10.0: ("cm", "centimeter", "centimetre"),
    1.0: ("mm", "millimeter", "millimetre"),
    # Either sign for micro is this one once its case is folded.
    1e-3: ("um", "\u03bcm", "micron", "micrometer", "micrometre", "\u03bcmeter", "\u03bcmetre"),
    1e-6: ("nm", "nanometer", "nanometre"),
}
_NRRD_MILLIMETRES = {name: scale for scale, names in _LENGTHS.items() for name in names}
_SCANNER = 1  # NIfTI's code of coordinates that a scanner gave


def is_volume(path: str | Path) -> bool:
    """Whether a file's name is that of a volume."""
    return str(path).lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """The name of a volume's file without its suffix."""
    name = Path(path).name
    found = next((end for end in SUFFIXES[::-1] if name.lower().endswith(end)), "")
    return name[: len(name) - len(found)] or name


def read_grid(path: str | Path) -> Grid:
    """Extents and affine of a volume, and whether its orientation is known, by its header alone.

    Raises:
        InputError: as `read_volume`, as far as a header tells.
        MissingExtraError: if the extra `nifti` is not installed.
    """
    path = _checked(path)
    if path.name.lower().endswith(NRRD):
        with _reading(path):
            header = require("nrrd", extra="nifti").read_header(str(path))
            shape = _extents(tuple(int(n) for n in header["sizes"]), path)
            affine, notes = _nrrd_affine(header, path)
            return shape, affine, _UNORIENTED not in notes
    with _reading(path):
        with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
            header = _header_of(file.read(_LARGEST_HEADER), path)
        affine, notes = _nifti_affine(header, path)
        return _extents(header.get_data_shape(), path), affine, _UNORIENTED not in notes


def read_volume(path: str | Path) -> Volume:
    """Reads one volume.

    Args:
        path: a file `.nii`, `.nii.gz`, `.nrrd` or `.nhdr` of three dimensions; further ones must be
            of extent 1.

    Raises:
        InputError: if it is missing, truncated, not a volume of real numbers, or holds NaN.
        MissingExtraError: if the extra `nifti` is not installed.
    """
    path = _checked(path)
    if path.name.lower().endswith(NRRD):
        return _read_nrrd(path)
    with _reading(path):
        # Unpacked to its end, so that its checksum is compared.
        data = gzip.decompress(_files.read_bytes(path)) if _is_packed(path) else path.read_bytes()
        image = _image_class(_header_of(data, path)).from_bytes(data)
        shape = _extents(image.shape, path)
        if image.get_data_dtype().kind not in "iuf":
            raise InputError(f"{str(path)!r} holds {image.get_data_dtype()}, expected real numbers")
        values = np.asarray(image.dataobj, np.float32).reshape(shape)
        affine, notes = _nifti_affine(image.header, path)
    oriented = bool(image.header["sform_code"] or image.header["qform_code"])
    return Volume(_finite(values, path), affine, path, image.header, notes, oriented)


def write_map(path: str | Path, array: Shaped[np.ndarray, "d h w"], *, like: Volume) -> Path:
    """Writes a map or a label map on the grid of a volume: a whole file, or none.

    Args:
        path: a file `.nii` or `.nii.gz`; its folder is made.
        array: real numbers, stored as float32; integers or booleans, as int16, or int32 where that
            does not hold them. In the file order of `like`.
        like: the volume whose affine, sform and qform codes, and units the file gets, of its header
            nothing else.

    Returns:
        `path`.

    Raises:
        InputError: if the extents differ, the name has another suffix, or it cannot be written.
        MissingExtraError: if the extra `nifti` is not installed.
    """
    path = Path(path)
    if not path.name.lower().endswith(NIFTI):
        raise InputError(f"{str(path)!r} does not end in .nii or .nii.gz, as a NIfTI file does")
    if array.shape != like.shape:
        raise InputError(
            f"the map for {str(path)!r} has extents {array.shape}, the volume {like.shape}"
        )
    data = _image(_stored(np.asarray(array)), like).to_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, _GZIP_LEVEL, mtime=0)
    _files.write_bytes(path, data)
    return path


def _stored(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind not in "biu":
        raise InputError(f"a map of dtype {array.dtype} cannot be written; give real numbers")
    limits = np.iinfo(np.int16)
    small = array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)
    return array.astype(np.int16 if small else np.int32)


def _image(array: np.ndarray, like: Volume) -> Any:
    nibabel = require("nibabel", extra="nifti")
    if like.header is None:
        image = nibabel.Nifti1Image(array, like.affine)
        image.set_sform(like.affine, _SCANNER)
        image.set_qform(like.affine, _SCANNER)
        image.header.set_xyzt_units("mm")
        return image
    large = isinstance(like.header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if large else nibabel.Nifti1Image
    header = kind.header_class()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header["descrip"] = b"segcam_jax"
    for field in _PLACE:
        header[field] = like.header[field]
    # In the file's own units; with it nibabel leaves the fields above as they are.
    return kind(array, header.get_best_affine(), header)


def _nifti_affine(header: Any, path: Path) -> tuple[Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """The affine of a NIfTI header, in mm, and what had to be assumed or chosen."""
    notes = []
    sform, qform = bool(header["sform_code"]), bool(header["qform_code"])
    if not (sform or qform):
        notes.append(_UNORIENTED)
    affine = np.array(header.get_best_affine(), np.float64)
    code = int(header["xyzt_units"]) & 7
    if code not in _NIFTI_MILLIMETRES:
        given = "does not give its units" if code == 0 else f"has units of an unknown code, {code}"
        notes.append(f"the file {given}; segcam assumes millimetres")
    scale = _NIFTI_MILLIMETRES.get(code, 1.0)
    if sform and qform:
        other = np.array(header.get_qform(), np.float64)
        apart = scale * farthest(header.get_data_shape()[:3], affine, other)
        if apart > min(spacing_of(affine)) * scale:
            notes.append(
                f"the file's sform and qform differ by up to {apart:.3g} mm; segcam uses the sform"
            )
    affine[:3] *= scale
    return check_affine(affine, path), tuple(notes)


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not _files.is_there(path):
        raise InputError(f"volume {str(path)!r} does not exist")
    if not is_volume(path):
        raise InputError(f"{str(path)!r} is not a volume; expected a file {', '.join(SUFFIXES)}")
    return path


def _is_packed(path: Path) -> bool:
    """Whether a file is one of gzip, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _image_class(header: Any) -> Any:
    nibabel = require("nibabel", extra="nifti")
    second = isinstance(header, nibabel.Nifti2Header)
    return nibabel.Nifti2Image if second else nibabel.Nifti1Image


def _header_of(data: bytes, path: Path) -> Any:
    """The header in the first bytes of a NIfTI file."""
    nibabel = require("nibabel", extra="nifti")
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    sizes = [int.from_bytes(data[:4], order) for order in ("little", "big")]
    size = next((each for each in sizes if each in kinds), None)
    if size is None:
        raise InputError(
            f"{str(path)!r} states a header of {sizes[0]} bytes, expected 348 or 540; it is not a "
            "NIfTI file, or it is truncated or damaged"
        )
    header = kinds[size](data[:size], check=False)
    axes = int(header["dim"][0])
    offset, slope = (float(header[name]) for name in ("vox_offset", "scl_slope"))
    if not 1 <= axes <= _MOST_AXES:
        raise InputError(f"{str(path)!r} has {axes} axes in its header, expected 3; it is damaged")
    if not (np.isfinite(offset) and offset == int(offset) and (offset == 0 or offset >= size)):
        raise InputError(f"{str(path)!r} has its voxels at byte {offset:g}; its header is damaged")
    if np.isinf(slope):
        raise InputError(f"{str(path)!r} has a slope of {slope}; its header is damaged")
    sizes = np.asarray(header["pixdim"][1:4], float)
    if not header["sform_code"] and not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(
            f"{str(path)!r} has voxels of {' x '.join(f'{each:g}' for each in sizes)}; repair its "
            "header"
        )
    return kinds[size](data[:size])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what libraries raise for files that are not volumes into one line."""
    logger = require("nibabel", extra="nifti").imageglobals.logger
    logger.disabled, before = True, logger.disabled
    try:
        with np.errstate(all="ignore"):
            yield
    except SegcamError:
        raise
    except Exception as error:  # Readers raise many kinds on damaged files.
        words = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise InputError(
            f"volume {str(path)!r} cannot be read ({words}); it is truncated or damaged"
        ) from None
    finally:
        logger.disabled = before


def _extents(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """The three extents of a volume."""
    if len(shape) > 3 and any(extent != 1 for extent in shape[3:]):
        words = " x ".join(map(str, shape))
        raise InputError(
            f"{str(path)!r} is {len(shape)}D ({words}), expected one volume of three axes: write "
            "each volume along the last axis, a modality or a time, to a file of its own "
            "(nibabel.four_to_three)"
        )
    if len(shape) < 3 or min(shape) < 1:
        raise InputError(
            f"{str(path)!r} has extents {tuple(shape)}, expected three, each at least 1"
        )
    return tuple(int(extent) for extent in shape[:3])


def _finite(values: np.ndarray, path: Path) -> np.ndarray:
    broken = int(values.size - np.count_nonzero(np.isfinite(values)))
    if broken:
        raise InputError(
            f"{str(path)!r} is NaN or infinite in {counted(broken, 'voxel')}; set them to 0, or "
            "to what the network was trained with"
        )
    return values


def _read_nrrd(path: Path) -> Volume:
    nrrd = require("nrrd", extra="nifti")
    with _reading(path):
        header = nrrd.read_header(str(path))
        _check_parts(header, path)
        data, header = nrrd.read(str(path), index_order="F")
        if data.dtype.kind not in "iuf":
            raise InputError(f"{str(path)!r} holds {data.dtype}, expected real numbers")
        values = np.asarray(data, np.float32).reshape(_extents(data.shape, path))
        affine, notes = _nrrd_affine(header, path)
    oriented = _UNORIENTED not in notes
    return Volume(_finite(values, path), affine, path, None, notes, oriented)


def _check_parts(header: Any, path: Path) -> None:
    """Checks that the voxels of a header that lies apart from them are in a file."""
    name = header.get("data file", header.get("datafile"))
    apart = isinstance(name, str) and not name.upper().startswith("LIST")
    if apart and not (path.parent / name).is_file():
        raise InputError(f"{str(path)!r} has its voxels in {name!r}, which is not a file")


def _nrrd_affine(header: Any, path: Path) -> tuple[Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """The affine of an NRRD header, in RAS and mm, and what had to be assumed."""
    affine = np.eye(4)
    directions = header.get("space directions")
    if directions is None:
        scales, notes = _nrrd_millimetres(path, "units", AXES)
        spacings = np.asarray(header.get("spacings", [1] * AXES), float)
        if "spacings" in header and len(spacings) != header["dimension"]:
            raise InputError(
                f"{str(path)!r} has {counted(len(spacings), 'number')} in its spacings, expected "
                f"{header['dimension']}"
            )
        spacings = spacings[:AXES]
        sizes = np.where(np.isfinite(spacings), spacings, 1) * scales
        affine[:3, :3] = np.diag(sizes)
        return check_affine(affine, path), (_UNORIENTED, *notes)
    axes = [row for row in np.asarray(directions, float) if np.isfinite(row).all()]
    if len(axes) != AXES:
        raise InputError(f"{str(path)!r} has {len(axes)} directions in space, expected 3")
    origin = header.get("space origin")
    origin = np.zeros(AXES) if origin is None else np.asarray(origin, float)
    for what, numbers in (("direction", axes[0]), ("space origin", origin)):
        _check_length(what, numbers, path)
    affine[:3, :3] = np.stack(axes, axis=1)
    affine[:3, 3] = origin
    scales, notes = _nrrd_millimetres(path, "space units", AXES)
    affine[:3] *= scales[:, None]
    space = str(header.get("space", "")).lower()
    letters = "".join(word[:1] for word in space.split("-")) if "-" in space else space
    known = {letters[:1]: "lr", letters[1:2]: "pa", letters[2:3]: "is"}
    if len(letters) < 3 or any(letter not in ends for letter, ends in known.items()):
        told = f"the file's space is {space or 'not given'!r}; segcam assumes the axes RAS"
        return check_affine(affine, path), (told, *notes)
    for axis, letter in enumerate(letters[:3]):
        affine[axis] *= -1 if letter in "lpi" else 1
    return check_affine(affine, path), notes


def _check_length(what: str, numbers: np.ndarray, path: Path) -> None:
    """Raises `InputError` if a field of an NRRD header has not a number for each axis in space."""
    if len(numbers) != AXES:
        raise InputError(
            f"{str(path)!r} has {counted(len(numbers), 'number')} in its {what}, expected {AXES}"
        )


def _nrrd_millimetres(
    path: Path, field: str, count: int
) -> tuple[Float[np.ndarray, "n"], tuple[str, ...]]:
    """Millimetres per unit of each axis, and a note where they are not known."""
    units = _nrrd_words(path, field)
    if not any(units):
        return np.ones(count), ("the file does not give its units; segcam assumes millimetres",)
    scales, unknown = [], []
    for unit in (units + [units[-1]] * count)[:count]:
        name = unit.strip().casefold()
        scale = _NRRD_MILLIMETRES.get(name) or _NRRD_MILLIMETRES.get(name.removesuffix("s"))
        scales.append(scale or 1.0)
        unknown += [] if scale else [unit]
    told = (
        (f"the file's unit {unknown[0]!r} is not a known length; mm is assumed",) if unknown else ()
    )
    return np.asarray(scales), told


def _nrrd_words(path: Path, field: str) -> list[str]:
    """The words in quotes of a field of an NRRD header.

    Read here, for pynrrd drops all that is not ASCII: of "\u00b5m" it leaves "m".
    """
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                break
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text = line.decode("latin-1")
            name, _, value = text.partition(":")
            if name.strip().lower() == field:
                return re.findall(r'"([^"]*)"', value) or value.split()
    return []
