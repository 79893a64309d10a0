"""A small stored run, written by hand: five images of two extents, of which one failed."""

import os
from pathlib import Path

import numpy as np

from segcam_jax import _files
from segcam_jax.networks.image_inputs import ImageForm
from segcam_jax.networks.network import Background
from segcam_jax.outputs import Meaning
from segcam_jax.runs.items import ImageFile
from segcam_jax.runs.manifest import Manifest, NetworkRecord, Source
from segcam_jax.runs.store import Block, Store, Variable

PER_SHARD, TARGETS = 2, 2
EXTENTS = {0: (8, 8), 1: (8, 8), 2: None, 3: (8, 8), 4: (4, 6)}
METHODS = {"body": ("grad_cam", "ablation_cam"), "input": ("gradient",)}
# Has a map of its own shape.
WINDOWS = "fast_ablation_cam"
LABELS = ("background", "cat", "dog")


def network(**changes):
    values = {
        "given": "net.safetensors",
        "absolute": "/net.safetensors",
        "sha256": "ab" * 32,
        "model": "unet",
        "title": "net",
        "labels": LABELS,
        "classifies": False,
        "background": Background(0, False),
        "meaning": Meaning("logits"),
        "images": ImageForm(1, None, 4),
    }
    return NetworkRecord(**{**values, **changes})


def manifest(options=None, *, net=None, items=5, digest="images"):
    return Manifest.of(
        {"tap": ["body"], "seed": 0} if options is None else options,
        network() if net is None else net,
        Source(words=("images",), items=items, digest=digest),
        items_per_shard=PER_SHARD,
        targets=TARGETS,
    )


def files(shard):
    items = range(shard * PER_SHARD, min((shard + 1) * PER_SHARD, len(EXTENTS)))
    return [ImageFile(f"image{item}.npy", 7, 123) for item in items]


def values_of(row, name, shape):
    """What the run holds of a row: the same wherever it is asked."""
    random = np.random.default_rng([row, *name.encode()])
    return random.normal(size=shape).astype(np.float32)


def variables(rows, extent):
    height, width = extent
    cells = (height // 2, width // 2)

    def stacked(name, shape):
        return np.stack([values_of(row, name, shape) for row in rows])

    weights = stacked("weight.body", (2, 3))
    weights[:, 1] = np.nan  # As of a method that has none.
    axes = ("method.body", "y.body", "x.body")
    weighing = {"tap": "body", "methods": list(METHODS["body"]), "weighing": ["grad_cam"]}
    both, one = ({"tap": tap, "methods": list(names)} for tap, names in METHODS.items())
    return (
        Variable("map.body", ("row", *axes), stacked("map.body", (2, *cells)), both),
        Variable("weight.body", ("row", "method.body", "channel.body"), weights, weighing),
        Variable(
            "map.input",
            ("row", "method.input", "y.input", "x.input"),
            stacked("map.input", (1, height, width)),
            one,
        ),
        Variable(
            f"map.body.{WINDOWS}",
            ("row", "y.windows", "x.windows"),
            stacked("windows", (3, 2)),
            {"tap": "body", "method": WINDOWS},
        ),
        Variable("score", ("row",), stacked("score", ())),
        Variable("region", ("row", "y", "x"), stacked("region", extent) > 0),
        Variable("prediction", ("row", "y", "x"), np.ones((len(rows), *extent), np.int16)),
    )


def blocks(shard, *, one_by_one=False):
    """All blocks of a shard; or one for each row."""
    found = []
    for extent in dict.fromkeys(each for each in EXTENTS.values() if each):
        items = [i for i in range(shard * 2, shard * 2 + 2) if EXTENTS.get(i) == extent]
        rows = [item * TARGETS + target for item in items for target in range(TARGETS)]
        for some in [[row] for row in rows] if one_by_one else [rows] if rows else []:
            group = "x".join(map(str, extent))
            found.append(Block(group, np.array(some), variables(some, extent)))
    return found


def photos(folder):
    """The images' files; what is no image stands in place of the one that failed."""
    folder.mkdir()
    for item, extent in EXTENTS.items():
        height, width = extent or (1, 1)
        pixels = np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)
        np.save(folder / f"image{item}.npy", pixels if extent else np.array(["text"]))
    return folder


def rows(shard, folder=None):
    """The rows of a shard; of files in a folder, or of some that are not there."""
    found = []
    for item in range(shard * 2, min(shard * 2 + 2, len(EXTENTS))):
        for target in range(TARGETS):
            row, extent = item * TARGETS + target, EXTENTS[item]
            about = {
                "row": row,
                "item": item,
                "path": f"image{item}.npy" if folder is None else str(folder / f"image{item}.npy"),
                "size": 7,
                "mtime_ns": 123,
                "target": f"top{target + 1}",
            }
            if extent is None:
                found.append({**about, "error": "it is not an image file that can be read"})
                continue
            size = "x".join(map(str, extent))
            digest = f"{item}" * 64 if folder is None else _files.sha256_of(about["path"])
            about |= {"sha256": digest, "extent": size, "padded": size}
            about |= {"class_index": target + 1, "class": LABELS[target + 1], "share": 0.25}
            about |= {"predicted": "cat", "pixels": 5, "program": f"{size} body; {size} input"}
            about |= {"score": float(values_of(row, "score", ())), "chosen": "largest predicted"}
            about |= {"notes": ""}
            for tap, methods in {**METHODS, "body": (*METHODS["body"], WINDOWS)}.items():
                for method in methods:
                    about |= {f"{method}.{tap}.max": float(row), f"{method}.{tap}.negative": 0.5}
            found.append(about)
    return found


def write(folder, shards=(0, 1, 2), *, finish=True, images=None, made=None):
    """Writes the run, or some shards of it."""
    with Store.create(folder, made or manifest()) as store:
        for shard in shards:
            store.write(shard, blocks(shard), rows(shard, images))
        return store.finish() if finish else None


def write_uneven(folder, images=None):
    """The run of a network that has the layer `neck`, and no `body`, for images of 4 x 6."""

    def renamed(words):
        return words.replace("body", "neck")

    def of_neck(variable):
        about = dict(variable.attributes)
        about |= {"tap": renamed(about["tap"])} if about else {}
        dims = tuple(map(renamed, variable.dims))
        return Variable(renamed(variable.name), dims, variable.values, about)

    with Store.create(folder, manifest()) as store:
        for shard in range(3):
            blocks_, rows_ = blocks(shard), rows(shard, images)
            if shard == 2:
                blocks_ = [
                    Block(b.group, b.rows, tuple(map(of_neck, b.variables))) for b in blocks_
                ]
                rows_ = [{renamed(name): value for name, value in row.items()} for row in rows_]
            store.write(shard, blocks_, rows_)
        store.finish()
    return folder


def contents(folder):
    """The bytes of every file of a folder."""
    return {
        os.path.relpath(os.path.join(place, name), folder): Path(place, name).read_bytes()
        for place, _, names in os.walk(folder)
        for name in names
    }


def programs_of_all_maps(kept):
    """The programs, of those that an engine keeps, that explain by several methods together."""
    statics = [static[0] for _, static, *_ in kept._values if isinstance(static[0], tuple)]
    return [options for options in statics if dict(options).keys() == {"calls"}]
