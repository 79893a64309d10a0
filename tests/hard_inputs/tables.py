"""The tables: for each command, what it cannot do."""

import re
import shlex
from collections.abc import Iterator

from tests.hard_inputs.rows import Row
from tests.hard_inputs.world import DEEP, LONG, LOST

NET = "--weights net.safetensors"
VOL = "--weights vol.safetensors"
SEEN = f"explain image.png {NET}"
FOUND = f"instances scan.nii {VOL} --roi 8"
# Names of `world.paths`, and what is said of each.
UNREADABLE = (
    *("loop", "gone", "fifo", "folder", "empty", "letters", "noise"),
    *("locked", "closed/inside"),
)


def paths(line, suffix, names=UNREADABLE) -> Iterator[Row]:
    """Files that cannot be read, in the place of `{}` in a command line."""
    for name in names:
        yield Row(line.format(f"{name}{suffix}"), name)
    yield Row(line.format(shlex.quote(f"{LOST}{suffix}")))
    yield Row(line.format(f"none{suffix}"), "none")
    yield Row(line.format(f"image.png/inside{suffix}"), "inside")
    yield Row(line.format(f"{LONG}{suffix}"), "nnn")
    yield Row(line.format(f"{DEEP}x{suffix}"), "d/d")
    yield Row(line.format("''"))


def outputs(line) -> Iterator[Row]:
    """Folders of results that cannot be made."""
    for name in ("loop", "gone", "fifo", "letters", "image.png", "image.png/inside", LONG, DEEP):
        yield Row(f"{line} --out {name}", name[:20])
    yield Row(f"{line} --out {shlex.quote(LOST + '/new')}")
    yield Row(f"{line} --out /proc/new", "/proc/new")
    for name in ("closed", "closed/new", "fixed", "fixed/new", "fixed/new/newer"):
        yield Row(f"{line} --out {name}", name.split("/")[0])


def each(line, *rows, code=2) -> Iterator[Row]:
    """Ends of a command line, each with what is said of it."""
    for row in rows:
        end, says = (row, "") if isinstance(row, str) else row
        yield Row(f"{line} {end}".strip(), says, code)


def few_images(command) -> Iterator[Row]:
    """Of the commands over images: results among images, and images that cannot be read."""
    line = f"{command} {{}} {NET}"
    yield Row(f"{line.format('photos')} --out photos", "taken for images; give another folder")
    yield Row(line.format("exports"), "holds no images besides results in")
    yield from paths(line, ".png", ("loop", "gone", "fifo", "folder", "empty"))
    for name in ("cut.png", "nan.npy", "nested.npy", "self.tif", "scan.nii", "column.csv"):
        yield Row(line.format(name), name.split(".")[0])


def images(command) -> Iterator[Row]:
    """Images that cannot be read, and results among images."""
    line = f"{command} {{}} {NET}"
    yield Row(f"{line.format('photos')} --out photos", "taken for images; give another folder")
    yield Row(line.format("exports"), "holds no images besides results in")
    for suffix in (".png", ".npy", ".tif"):
        yield from paths(line, suffix, ("loop", "gone", "fifo", "folder", "empty", "letters"))
    for name in (
        *("cut.png", "huge.png", "zero.png", "nan.npy", "infinite.npy", "negative.npy"),
        *("complex.npy", "words.npy", "none.npy", "four.npy", "five.npy", "vector.npy"),
        *("number.npy", "header.npy", "claims.npy", "minus.npy", "nested.npy", "dtype.npy"),
        *("code.npy", "cut.tif", "offset.tif", "self.tif", "noise.png", "noise.npy", "noise.tif"),
        *("scan.nii", "/dev/zero", "list.csv image.png", "run.zarr image.png"),
        *("closed", "unlisted", "closed/image.png", "closed.zarr", "closed/none.png"),
    ):
        yield Row(line.format(name), name.split(".")[0].split()[0])


def explain() -> Iterator[Row]:
    yield from images("explain")
    yield Row(f"explain leaves.csv {NET}", "/etc/passwd")
    yield Row(f"explain leaves_mask.csv {NET}", "/etc/passwd", 3)
    lists = ("list", "column", "ragged", "missing", "twice", "quote", "both", "blank")
    for name in (*lists, "latin", "null", "long"):
        yield Row(f"explain {name}.csv {NET}", "" if name == "list" else name)
    yield Row(f"explain mask.csv {NET}", "none.png", 3)
    yield Row(f"explain image.png cut.png {NET}", "cut.png", 3)
    yield Row(f"{SEEN} --region pixel:99,99", "99", 3)
    yield from paths(f"explain {{}} {NET}", ".csv")
    yield from paths(f"explain {{}} {NET}", ".zarr", ("loop", "gone", "fifo", "folder", "empty"))
    yield from each(f"explain {NET} run.zarr", ("", "run.zarr"))
    yield from paths("explain image.png --weights {}", ".safetensors")
    yield from paths("explain image.png --weights {}:make", ".py", ("loop", "gone", "fifo"))
    yield from paths(f"{SEEN} --config {{}}", ".toml", ("loop", "gone", "fifo", "folder", "noise"))
    yield from paths(f"explain {NET} --config {{}}", ".json")
    yield from paths(f"{SEEN} --labels {{}}", ".txt")
    yield from paths(f"{SEEN} --labels {{}}", ".json")
    yield from paths(f"{SEEN} --region mask:{{}}", ".png")
    yield from paths(f"{SEEN} --region mask:{{}}", ".npy")
    yield from outputs(SEEN)
    yield from weights()
    yield from factories()
    yield from options()
    yield from configs()


def weights() -> Iterator[Row]:
    """Weights by hand."""
    line = "explain image.png --weights"
    for name in (
        *("float", "huge", "deep", "negative", "zero", "words", "unknown", "list", "nothing"),
        *("none_classes", "true", "nan", "missing", "dropout"),
    ):
        yield Row(f"{line} config_{name}.safetensors", f"config_{name}")
    for name in (
        *("model_words", "model_list", "model_unknown", "json_nested", "json_number"),
        *("classes_integer", "classes_object", "classes_words", "classes_numbers", "classes_two"),
        *("outputs_words", "outputs_list", "multi_words", "float8", "integers", "missing"),
        *("extra", "shape", "cut", "header", "plain", "noise", "letters"),
    ):
        yield Row(f"{line} {name}.safetensors", name)
    yield Row(f"{line} nan.safetensors", "NaN")
    yield from each(
        line, "archive.pth", "code.pth", "cut.h5", "image.png", "scan.nii", "vol.safetensors"
    )
    yield from each(
        line, "random:", "random:none", "random:resnet0", "random::", ":", ":make", "a:b:c"
    )
    yield from each(line, "-- net.safetensors", "net.safetensors net.safetensors", "")


def factories() -> Iterator[Row]:
    """Users' own models."""
    line = "explain image.png --weights"
    for name in (
        *("base", "exits", "exits_words", "exits_hard", "generator", "interrupted", "memory"),
        *("deep", "prints", "returns_none", "returns_number", "returns_class", "returns_module"),
        *("returns_text", "returns_self", "returns_triple", "returns_empty", "needs"),
        *("multiline", "number", "none", "", "a.b.c", "fails_later", "returns_words"),
        *("returns_nothing", "returns_scalar", "exits_later", "base_later"),
    ):
        yield Row(f"{line} nets.py:{name}", "nets.py")
    for name in ("syntax", "exits", "base", "null", "latin", "imports"):
        yield Row(f"{line} {name}.py:make", name)
        yield Row(f"{line} {name}:make", name)
    yield from each(
        line, "nets.py", "no_module:make", "os:none", "..:x", "a..b:c", "json:loads", "os.path:join"
    )


HUGE = 10**30


def options() -> Iterator[Row]:
    """Values that an option cannot have."""
    yield from each(
        SEEN,
        "--share ''",
        "--share 0/0",
        "--share 3/2",
        "--share 1/0",
        "--share -1/2",
        "--share 1/2/3",
        f"--share 1/{HUGE}",
        "--seed -1",
        f"--seed {2**70}",
        "--seed 1.5",
        "--seed x",
        f"--size {HUGE}",
        "--size 5",
        "--size -3",
        "--size 0",
        "--size 16 16 16",
        "--size 1.5",
        "--size 100000",
        "--colormap ''",
        "--colormap none",
        "--smoothing 1e300",
        "--smoothing -1",
        "--smoothing nan",
        "--smoothing inf",
        "--profile ''",
        "--profile none",
        "--tap none",
        "--tap ''",
        "--tap conv:0",
        f"--tap conv:{HUGE}",
        "--tap conv:-1",
        "--tap image.png",
        "--method none",
        "--method ''",
        "--method image.png",
        "--class none",
        "--class 3",
        "--class -1",
        f"--class {HUGE}",
        "--class top:0",
        "--class top:4",
        f"--class top:{HUGE}",
        "--class 'square rather than square'",
        "--class 'square rather than'",
        "--class ''",
        "--region ''",
        "--region none",
        "--region mask:",
        "--region mask:image.png=x",
        f"--region pixel:{HUGE},0",
        "--region pixel:1",
        "--region component:-1",
        f"--region component:{HUGE}",
        "--region at:x,y",
        "--min-probability 2",
        "--min-probability nan",
        "--min-probability -1",
        "--mask-threshold nan --region mask:image.png",
        "--mask-threshold 1",
        "--outputs none",
        "--threshold 2 --multi-label",
        "--threshold nan --multi-label",
        "--threshold 0.5 0.5 --multi-label",
        "--threshold 0.5",
        "--of none",
        "--reduce none",
        "--precision float8",
        "--store float64",
        "--shard 0",
        "--shard -1",
        "--batch 0",
        "--batch 3",
        "--batch -2",
        "--devices 0",
        "--devices -1",
        f"--devices {HUGE}",
        "--memory-limit 0",
        "--memory-limit -1",
        "--memory-limit x",
        "--memory-limit nan",
        "--memory-limit 1e400",
        f"--memory-limit {HUGE}",
        "--on-error none",
        "--workers 0",
        "--ray nowhere:0",
        "--ray ''",
        "--channels 3",
        "--channels 0",
        "--normalisation none",
        "--normalisation 1/0",
        "--range 1",
        "--range 1 1",
        "--range 2 1",
        "--range nan 1",
        "--range 0 inf",
        "--range 0 1 2",
        "--fit none",
        "--labels two.txt",
        "--labels gap.txt",
        "--labels latin.txt",
        "--labels object.json",
        "--labels numbers.json",
        "--labels deep.json",
        "--labels cut.json",
        "--labels image.png",
        "--none",
        "--seed",
        "--seed 1 --seed 2",
        f"--{'x' * 5000}",
        f"--seed {'9' * 5000}",
        f"--tap {'x' * 5000}",
        f"--class {'x' * 5000}",
        f"--method {'x' * 5000}",
        f"--region {'x' * 5000}",
        f"--option {'x' * 5000}",
        f"--option samples={'9' * 5000}",
        f"--profile {'x' * 5000}",
        f"--colormap {'x' * 5000}",
        f"--share {'1' * 5000}/2",
        f"--memory-limit {'1' * 5000}",
        f"--normalisation {'1,' * 5000}",
        f"--fit {'x' * 5000}",
        f"--weights {'x' * 5000}",
    )
    costs = (
        ("fast_ablation_cam", f"window={10**33}"),
        ("fast_ablation_cam", "window=0"),
        ("fast_ablation_cam", "window=-1"),
        ("smooth_grad", "samples=1000000000"),
        ("smooth_grad", "samples=0"),
        ("smooth_grad", "samples=-5"),
        ("smooth_grad", f"samples={HUGE}"),
        ("smooth_grad", "sigma=nan"),
        ("smooth_grad", "sigma=-1"),
        ("smooth_grad", "sigma=1e400"),
        ("integrated_gradients", "steps=10000000000"),
        ("integrated_gradients", "steps=0"),
        ("integrated_gradients", f"steps={HUGE}"),
        ("grad_cam", "samples=3"),
        ("grad_cam", "=3"),
        ("grad_cam", "x"),
        ("grad_cam", "none.x=3"),
        ("grad_cam", "''"),
        ("smooth_grad", "samples=x"),
        ("smooth_grad", "samples="),
        ("smooth_grad", "samples=3.5"),
        ("smooth_grad", "samples=1e9"),
    )
    for method, option in costs:
        yield Row(
            f"{SEEN} --method {method} --option {option}", option.partition("=")[0].strip("'")
        )


def configs() -> Iterator[Row]:
    """Options in files, and manifests as options."""
    changed = manifests(f"explain {NET} --config {{}}/manifest.json")
    yield from [row for row in changed if not re.search("stored_|_part|unlisted", row.line)][::3]
    for name in ("leaves_network", "leaves_source"):
        yield Row(f"explain --config {name}.zarr", "passwd")
    for name in (
        *("syntax", "unknown", "kind", "float", "nested", "list", "date", "negative", "huge"),
        *("nan", "infinite", "twice", "deep", "out", "both", "latin"),
    ):
        yield Row(f"{SEEN} --config {name}.toml", name)


def manifests(line) -> Iterator[Row]:
    """Runs whose manifests were changed by hand."""
    counts = {
        **{f"lacks_{name}": 0 for name in ("version", "key", "options", "network", "source")},
        **{f"lacks_{name}": 0 for name in ("items_per_shard", "targets", "versions", "format")},
        "format": 5,
        "version": 3,
        "key": 2,
        "options": 3,
        "network": 4,
        "source": 3,
        "items_per_shard": 5,
        "targets": 4,
        "versions": 2,
        "finished": 3,
        "kind": 2,
        "figures": 2,
        "network_labels": 3,
        "network_classifies": 2,
        "network_background": 3,
        "network_meaning": 3,
        "network_images": 3,
        "network_sha256": 1,
        "network_title": 1,
        "source_words": 2,
        "source_items": 3,
        "source_digest": 1,
        "unknown_key": 0,
        "nested": 0,
        "array": 0,
        "text": 0,
        "nothing": 0,
    }
    for name, count in counts.items():
        for end in [f"_{number}" for number in range(count)] or [""]:
            yield Row(line.format(f"{name}{end}.zarr"), f"{name}{end}")
    for name in ("table", "short", "words", "part_loop", "leaves", "extent"):
        yield Row(line.format(f"stored_{name}.zarr"), f"stored_{name}")
    for name in ("closed", "unlisted", "locked_manifest", "locked_part"):
        yield Row(line.format(f"{name}.zarr"), name)


def show() -> Iterator[Row]:
    yield from manifests("show {}")
    yield from paths("show {}", ".zarr")
    yield from each(
        "show run.zarr",
        ("--item none", "none"),
        ("--item 99", "99"),
        ("--item -1", "-1"),
        (f"--item {HUGE}", "10"),
        ("--item ''", ""),
        (f"--item {'x' * 5000}", "xx"),
        ("--best none", "none"),
        ("--worst path", "path"),
        (f"--best {'x' * 5000}", "xx"),
        ("--count 0 --best score", "--count"),
        ("--count -1", "--count"),
        (f"--count {HUGE}", "--count"),
        ("--item 0 --best score", "--best"),
        ("--profile none --out new.png", "none"),
        ("--colormap '' --out new.png", ""),
        ("--colormap none --out new.png", "none"),
        ("--smoothing nan --out new.png", ""),
        ("--smoothing 1e300 --out new.png", ""),
        ("--smoothing -1 --out new.png", ""),
        ("--out photos", "photos"),
        ("--out loop.png", "loop"),
        ("--out fifo.png", "fifo"),
        ("--out new.none", "none"),
        ("--out new", ""),
        ("--out image.png/new.png", "image.png"),
        (f"--out {LONG}.png", "nnn"),
        (f"--out {DEEP}new.png", "d/d"),
        ("--out /proc/new.png", "/proc"),
        ("--out closed/new.png", "closed"),
        ("--out fixed/new.png", "fixed"),
        ("other", ""),
    )
    yield from each(
        "show",
        "image.png",
        "photos",
        "scan.nii",
        "net.safetensors",
        "stored_metadata.zarr --item 4 --out new.png",
        "stored_chunk.zarr --item 4 --out new.png",
    )


def export() -> Iterator[Row]:
    yield from list(manifests("export {} --out new"))[::3]
    yield from paths("export {} --out new", ".zarr")
    yield from outputs("export run.zarr")
    yield from each(
        "export run.zarr --out new",
        ("--items none", "none"),
        ("--items 99", "99"),
        ("--items 3-1", "3-1"),
        (f"--items 0-{HUGE}", ""),
        (f"--items {'9' * 5000}-{'9' * 5001}", ""),
        ("--what none", "none"),
        ("--profile none", "none"),
        ("--colormap ''", ""),
        ("--smoothing nan", ""),
        ("--smoothing 1e300", ""),
        ("--what", "--what names nothing"),
        ("--out", ""),
    )
    yield from each("export run.zarr", "", "--out run.zarr", "--out run.zarr/items/new")
    yield Row("export run.zarr --out photos", "holds the image 'one.png'")


def score() -> Iterator[Row]:
    yield from list(manifests("score {}"))[::2]
    yield from paths("score {}", ".zarr")
    yield Row("score run.zarr", "net.safetensors")  # Which is not the one that was explained.
    yield from each(
        "score scored.zarr",
        ("--metric none", "none"),
        ("--metric ''", ""),
        (f"--metric {'x' * 5000}", "xx"),
        ("--option none=3", "none"),
        (f"--option steps={HUGE}", "steps"),
        ("--option steps=nan", "steps"),
        ("--option steps=", "steps"),
        ("--option steps=0", "steps=0; give at least 1"),
        ("--option steps=-1", "steps=-1; give at least 1"),
        ("--option baseline=other", "choose zeros, mean, blur"),
        ("--option at=none", "none"),
        ("--seed -1", "seed"),
        (f"--seed {2**70}", "seed"),
        ("--on-error none", "on-error"),
        ("other", ""),
    )
    yield Row("score leaves_network.zarr")
    yield from each("score", "", "image.png", "photos", "scan.nii", "net.safetensors", "fixed.zarr")
    yield from each("score scored.zarr", ("--tap none", "--tap"), NET, "--out new.zarr")
    yield from few_images("score")
    yield from paths("score image.png --weights {}", ".safetensors", ("loop", "fifo", "letters"))
    yield from outputs(f"score image.png {NET}")
    yield from each(
        f"score image.png {NET}",
        ("--metric none", "none"),
        ("--option window=2", "window"),
        ("--method-option none=2", "none"),
        ("--option steps=0", "steps=0; give at least 1"),
        "--share 2/1",
        "--seed -1",
        "--tap none",
        "--out photos",
        "--out run.zarr",
    )
    yield Row(f"score image.png {NET} --config none.toml", "none.toml")


def sweep() -> Iterator[Row]:
    yield from few_images("sweep")
    yield from paths("sweep image.png --weights {}", ".safetensors", ("loop", "fifo", "letters"))
    yield from outputs(f"sweep image.png {NET}")
    yield from each(
        f"sweep image.png {NET}",
        f"--share 1/{HUGE}",
        "--seed -1",
        "--tap none",
        "--class 3",
        "--out photos",
        "--out run.zarr",
    )


def gallery() -> Iterator[Row]:
    yield from few_images("gallery")
    yield from paths("gallery image.png --weights {}", ".safetensors", ("loop", "fifo", "letters"))
    yield from outputs(f"gallery image.png {NET}")
    line = "gallery image.png --weights"
    yield from each(
        line,
        "net.safetensors net.safetensors",
        "net.safetensors ./net.safetensors",
        "net.safetensors none.safetensors",
        "net.safetensors,net.safetensors",
        "''",
        "net.safetensors --tap none",
        "net.safetensors --class none",
        "net.safetensors --colormap ''",
        "net.safetensors --smoothing 1e300",
    )


def embed() -> Iterator[Row]:
    yield from (Row(row.line) for row in few_images("embed"))
    yield from outputs(f"embed photos image.png other.png --projection pca {NET}")
    yield from each(
        f"embed photos image.png other.png {NET}",
        "--projection none",
        "--projection ''",
        "--perplexity nan",
        "--perplexity -1",
        "--perplexity 1e300",
        "--perplexity 0",
        "--pool none",
        "--tap none",
        "--seed -1",
        f"--seed {2**70}",
    )
    yield from each(f"embed image.png {NET}", "")


def occlude() -> Iterator[Row]:
    line = f"occlude image.png {NET}"
    yield from few_images("occlude")
    yield from paths("occlude image.png --weights {}", ".safetensors", ("loop", "fifo", "letters"))
    yield from paths(f"{line} --truth {{}}", ".png")
    yield from paths(f"{line} --labels {{}}", ".txt", ("loop", "gone", "fifo", "folder", "empty"))
    yield from outputs(line)
    yield Row(f"occlude image.png other.png {NET} --truth image.png", "other.png")
    yield Row(f"occlude {NET}", "no images")
    # Of all images alike: said before the first, also where there are several.
    yield from each(
        f"occlude image.png other.png {NET}",
        *(f"--shares {share}" for share in (2, 0, -1, "nan", "inf", "x", "0.5 2")),
        *(f"--places {count}" for count in (0, -1, HUGE, 1.5, "x")),
        *("--occluded x", "--occluded ''", f"--occluded foreground,{'x' * 5000}"),
        *(f"--value {value}" for value in ("nan", "inf", "1e400", "x")),
        *("--cover none", "--on-error none", "--fit none", "--outputs none", "--none"),
        *(f"--memory-limit {words}" for words in (0, -1, "x", "nan", "1e400", HUGE)),
        *(f"--tap {name}" for name in ("none", "conv:0", "image.png", "x" * 5000)),
        "--tap encoder1 bottleneck",
        *(f"--class {name}" for name in ("none", 3, -1, "''", "top:0", "top:4", HUGE)),
        "--class square circle",
        *(f"--threshold {value}" for value in ("0.5", "2 --multi-label", "nan --multi-label")),
        *("--truth-threshold 1", "--truth-value 1", "--truth-labels"),
        "--truth photos --truth-labels --truth-value 1",
        *(f"--size {size}" for size in (HUGE, 0, -3, "16 16 16", "1.5")),
        *(f"--range {words}" for words in ("1", "1 1", "nan 1")),
        *(f"--seed {seed}" for seed in (-1, 2**70, "x")),
        *("--channels 3", "--normalisation none", "--labels two.txt", "--layout none=chw"),
    )
    yield from each(
        f"{line} --truth",
        ("image.png", "--truth-threshold"),
        ("image.png --truth-labels", "no class of the network's"),
        ("image.png --truth-value 999", "999"),
        ("image.png --truth-threshold nan", "--truth-threshold is nan"),
        ("nan.npy", "nan"),
        ("vector.npy --truth-labels", "vector"),
        ("image.png other.png", "other"),
    )
    yield Row(f"{line} --truth image.png --truth-threshold 1e9", "nothing to occlude", 3)
    yield Row(f"{line} --value 1e38", "give a --value nearer to 0", 3)
    line = "occlude image.png --weights"
    yield from each(line, "random:resnet18", "nets.py:exits", "vol.safetensors")


def layers() -> Iterator[Row]:
    for place in ("nnunet", "bundle"):
        for folder in (
            "closed",
            "unlisted",
            "photos",
            "none",
            "loop",
            "fifo",
            "image.png",
            LONG,
            DEEP,
        ):
            yield Row(f"layers {place}:{folder}")
        yield Row(f"layers {place}:")
    yield from paths("layers {}", ".safetensors")
    yield from paths("layers --weights {}", ".py", ("loop", "gone", "fifo", "folder", "empty"))
    yield from each(
        "layers net.safetensors",
        f"--size {HUGE}",
        "--size 0",
        "--size -1",
        "--size 16 16 16",
        "--size 1 1 1 1",
        "--seed x",
        "--channels 3",
        "--weights net.safetensors",
    )
    yield from each("layers vol.safetensors", "--size 8 8", f"--size {HUGE}", "--size 0")
    for name in ("float", "strides", "huge", "ndim", "words"):
        yield Row(f"layers vol_{name}.safetensors", f"vol_{name}")
    yield from each("layers random:resnet18", f"--size {HUGE}", "--seed -1", f"--seed {2**70}")
    yield from each("layers", "", "random:none", "nets.py:exits", "nets.py:base")


def methods() -> Iterator[Row]:
    yield from each("methods", "x", "--none", "--seed 1", f"{'x' * 5000}")


def demo() -> Iterator[Row]:
    yield from outputs("demo")
    yield from outputs("demo --volume")
    yield from each("demo", "x", "--none", "--out", f"{'x' * 5000}")


def convert() -> Iterator[Row]:
    line = "convert {} --model resnet18 --out new.safetensors"
    for suffix in (".safetensors", ""):
        yield from paths(line, suffix)
    yield from paths(line, ".pth")
    yield from paths(line.replace("resnet18", "densenet121"), ".h5")
    yield from each(
        "convert",
        "code.pth --model resnet18 --out new.safetensors",
        "archive.pth --model resnet18 --out new.safetensors",
        "cut.h5 --model densenet121 --out new.safetensors",
        "float8.safetensors --model resnet18 --out new.safetensors",
        "cut.safetensors --model resnet18 --out new.safetensors",
        "header.safetensors --model resnet18 --out new.safetensors",
        "plain.safetensors --model resnet18 --out new.safetensors",
        "plain.safetensors --model monai-unet --out new.safetensors",
        "plain.safetensors --model none --out new.safetensors",
        "plain.safetensors --model '' --out new.safetensors",
        "plain.safetensors --out new.safetensors",
        "plain.safetensors --model resnet18",
        "plain.safetensors --model resnet18 --out net.safetensors",
        "plain.safetensors --model resnet18 --out photos --overwrite",
        "plain.safetensors --model resnet18 --out new.pth",
        "plain.safetensors --model resnet18 --out new.safetensors --layout none",
        "plain.safetensors --model resnet18 --out new.safetensors --normalisation none/",
        "plain.safetensors --model resnet18 --out new.safetensors --strides 2",
        "vol.safetensors --model monai-unet --out new.safetensors --strides 0",
        "vol.safetensors --model monai-unet --out new.safetensors --strides -1",
        f"vol.safetensors --model monai-unet --out new.safetensors --strides {HUGE}",
        "vol.safetensors --model monai-unet --out new.safetensors --orientation XYZ",
        "vol.safetensors --model monai-unet --out new.safetensors --spacing 0",
        "vol.safetensors --model monai-unet --out new.safetensors --spacing nan",
        "vol.safetensors --model monai-unet --out new.safetensors --spacing 1 1",
    )
    line = "convert plain.safetensors --model resnet18 --out new.safetensors --labels {}"
    yield from paths(line, ".txt", ("loop", "gone", "fifo", "folder", "empty"))


NIFTI = (
    *("vox_past", "vox_nan", "vox_negative", "vox_half", "vox_inside", "ndim"),
    *("ndim_zero", "ndim_negative", "extent_negative", "extent_huge", "extent_zero", "dtype"),
    *("dtype_none", "dtype_rgb", "dtype_complex", "sizeof", "sizeof_zero", "sizeof_two", "magic"),
    *("slope_infinite", "slope_huge", "affine_nan", "affine_infinite", "affine_zero"),
    *(
        "affine_tiny",
        "affine_huge",
        "pixdim_nan",
        "pixdim_zero",
        "pixdim_negative",
        "cut",
        "short",
        "header_only",
    ),
    *("nan", "four", "flat", "quaternion"),
)
GZIPPED = ("cut", "crc", "flipped", "bit", "garbage", "double")
NRRD = (
    *("dirnone", "dirs_none", "dirs_two", "dirs_four", "dirs_flat", "dirs_words", "dirs_nan"),
    *("dirs_plane", "dirs_zero", "sizes_missing", "sizes_two", "sizes_words", "sizes_negative"),
    *("sizes_huge", "sizes_more", "dimension_missing", "dimension_nine", "dimension_words"),
    *("type_missing", "type_words", "type_block", "encoding_missing", "encoding_words"),
    *("encoding_gzip", "encoding_bzip", "encoding_text", "endian_missing", "endian_words"),
    *("spacings_two", "spacings_five", "spacings_zero", "spacings_words", "origin_two"),
    *("origin_nan", "origin_words", "skip", "skip_words", "skip_past", "detached"),
    *("detached_self", "detached_fifo", "detached_none", "cut", "magic", "no_end"),
)


def volumes(command) -> Iterator[Row]:
    """Of the commands over volumes: volumes and weights that cannot be read."""
    line = f"{command} {{}} {VOL} --roi 8"
    for suffix in (".nii", ".nii.gz", ".nrrd"):
        yield from paths(line, suffix)
    for name in NIFTI:
        yield Row(line.format(f"{name}.nii"), name)
    for name in GZIPPED:
        yield Row(line.format(f"{name}.nii.gz"), name)
    for name in NRRD:
        yield Row(line.format(f"{name}.nrrd"), name)
    yield from each(
        f"{command} {VOL}", "image.png", "net.safetensors", "photos", "run.zarr", "letters2.nhdr"
    )


def volume_options(line) -> Iterator[Row]:
    """Of the commands over volumes: values that an option cannot have."""
    yield from each(
        line,
        "--overlap 1",
        "--overlap -1",
        "--overlap nan",
        "--threshold 2",
        "--threshold nan",
        "--threshold -1",
        "--connectivity 7",
        "--min-voxels -1",
        "--min-volume nan",
        "--min-volume -1",
        "--min-volume inf",
        "--iou 2",
        "--iou nan",
        "--class 5",
        "--class -1",
        "--class none",
        "--class 0 1",
        "--group FP",
        "--group none --truth truth.nii",
        "--orientation XYZ",
        "--orientation RA",
        "--orientation ''",
        "--orientation RASRAS",
        "--spacing 0",
        "--spacing nan",
        "--spacing 1 2",
        "--spacing 1e-30",
        "--normalise none2",
        "--on-error none",
        "--memory-limit x",
        "--channels 0",
        "--channels 3",
        "--outputs none",
        "--modalities a b",
        "--prefixes a",
        "--data photos",
        "--truth-prefix a",
        "--truth truth.nii truth.nii",
        "--truth grid.nii",
        "--truth half.nii",
        "--truth nan.nii",
        "--truth four.nii",
        "--truth truth.nii --truth-labels none",
        "--truth truth.nii --truth-classes -1",
        "--truth truth.nii --truth-threshold nan",
        "--truth-classes 1",
        "--ignore-label 1",
        "--truth truth.nii --ignore-label x",
        "scan.nii",
    )


def instances() -> Iterator[Row]:
    yield from volumes("instances")
    yield from paths("instances scan.nii --roi 8 --weights {}", ".safetensors")
    yield from paths(f"{FOUND} --truth {{}}", ".nii", ("loop", "gone", "fifo", "folder", "empty"))
    yield from paths(
        f"instances {VOL} --prefixes flair --data {{}}", "", ("loop", "gone", "fifo", "folder")
    )
    for name in (
        "float",
        "strides",
        "huge",
        "ndim",
        "words",
        "orientation",
        "orientation_list",
        "spacing",
        "spacing_words",
    ):
        yield Row(f"instances scan.nii --roi 8 --weights vol_{name}.safetensors", f"vol_{name}")
    yield from list(outputs(FOUND))[:-1]
    yield from volume_options(FOUND)
    yield from each(
        FOUND,
        "--method none",
        "--method ''",
        "--tap none",
        "--of none",
        "--option samples=0",
        "--option samples=1000000000",
        f"--option samples={HUGE}",
        "--option sigma=nan",
        "--option aggregation=none",
        "--noise-modality 5",
        "--noise-modality none",
        f"--noise-modality {HUGE}",
        "--field none",
        "--seed -1",
        f"--seed {2**70}",
    )
    line = f"instances scan.nii {VOL} --roi"
    yield from each(line, "8000", f"{HUGE}", "0", "-1", "8 8", "8 8 8 8", "x", "", "1.5", "7")
    yield from each(
        "instances scan.nii --weights",
        "net.safetensors",
        "nets.py:exits",
        "nets.py:base",
        "nets.py:fails_later",
        "random:resnet18",
    )


def context() -> Iterator[Row]:
    line = f"context scan.nii {VOL} --roi 8"
    yield from paths(f"context {{}} {VOL} --roi 8", ".nii")
    for name in NIFTI[::5]:
        yield Row(f"context {name}.nii {VOL} --roi 8", name)
    yield from list(outputs(line))[:-1]
    yield from each(
        line,
        "--steps 0",
        "--steps -1",
        f"--steps {10**10}",
        f"--steps {HUGE}",
        "--max-voxels 0",
        "--max-voxels -1",
        "--overlap nan",
        "--threshold nan",
        "--truth half.nii",
    )
    yield from each(f"context scan.nii {VOL} --roi", "8000", "0", f"{HUGE}")
    yield from each(
        "context --runs",
        ("", "--runs names no folder"),
        ("none --out new", "none"),
        ("image.png --out new", "image.png"),
        ("run.zarr --out new", "is a run of images"),
        ("fifo loop --out new", "fifo"),
        ("closed.zarr --out new", "closed.zarr"),
        ("run.zarr run.zarr --out new", "one folder twice"),
        ("run.zarr --roi 8", "--roi and --runs"),
        ("run.zarr '' --out new", "an empty word"),
    )


def training() -> Iterator[Row]:
    """Of the scripts that train: settings, data and folders."""
    rates = ("nan", "inf", "-1", "0", "x")
    counts = ("0", "-1", f"{10**12}", "1.5", "x")
    shared = [
        *(f"--learning-rate {rate}" for rate in rates),
        *(f"--batch {count}" for count in counts),
        *(f"--seed {seed}" for seed in (-1, 2**70, "x")),
        "--none 1",
        f"--{'x' * 5000}",
        "--export photos",
        "--export loop",
        "--export image.png/new",
    ]
    grids = [
        *(f"--steps {count}" for count in counts),
        "--evaluate-every 0",
        *(f"--workers {count}" for count in (-1, 10**12)),
    ]
    of_classes = "train.classifier --data classes --size 32 --channels 1 --model resnet18 --width 4"
    for line, own in {
        "train.texture_mnist": [
            *grids,
            *(f"--jitter {share}" for share in ("nan", "-1", "inf", "6")),
            *(f"--depth {depth}" for depth in (9, 0, -1, 10**12)),
            *(f"--width {width}" for width in (0, -1, 10**12)),
            *(f"--{name}-samples {n}" for name in ("evaluate", "score") for n in (0, 10**12)),
            "--variant none",
            "--digit-rounding none",
            *(f"--start {name}" for name in ("none", "folder", "fifo", "loop", "letters.pth")),
            "--start vol.safetensors",
            "--start config_float.safetensors",
            "--digits none",
            "--digits empty",
            "--digits photos",
            "--textures none",
            "--textures image.png",
            "--textures photos",
            "extra",
        ],
        "train.lesions": [
            *grids,
            *(f"--spacing {size}" for size in ("nan", "0", "-1", "1e-30", "1e30")),
            *(f"--threshold {value}" for value in ("nan", "0", "1", "2")),
            *(f"--channels {each}" for each in ("0 4", "4", f"{10**12} 4 4 4", "x")),
            "--strides 0 2 2",
            "--strides 2",
            "--loss none",
            "--prefixes flair",
            "--crop 9",
            "--data none --prefixes flair --truth-prefix mask",
            "--data photos --prefixes flair --truth-prefix mask --out photos/new",
            "--data photos --prefixes flair --truth-prefix mask --template image.png",
            *(f"--template {name}" for name in ("none.nii", "image.png", "cut.nii", "zeros.nii")),
            *(
                f"--template {name}"
                for name in ("nan.nii", "four.nii", "fifo.nii", "affine_tiny.nii")
            ),
        ],
        of_classes: [
            *(f"--epochs {count}" for count in counts),
            *(f"--momentum {value}" for value in ("nan", "1", "-1", "inf")),
            *(f"--folds {count}" for count in (1, 0, -1, 3, 10**12)),
            *(f"--only {fold}" for fold in (0, 6, -1)),
            *(f"--growth {count} --model densenet121" for count in (0, -1, 10**12)),
            *(f"--hidden {count} --model densenet121" for count in (-1, 10**12)),
            "--growth 4",
            "--model none",
            "--model ''",
            "--normalisation none",
            "--schedule none",
            "--augment none2",
            "--freeze",
            *(
                f"--start {name}"
                for name in ("none", "fifo", "letters.safetensors", "cut.safetensors")
            ),
            "--start net.safetensors",
            "--folds 2 --out classes/new",
            "--folds 2 --out trained_none",
            "--folds 2 --out trained_list",
            "--folds 2 --out trained_other",
            "--folds 2 --out trained_damaged",
        ],
    }.items():
        yield from each(line, *shared, *own)
        yield from outputs(line if line != of_classes else f"{line} --folds 2")
    line = "train.segmentation --data classes"
    yield from each(
        line,
        *(each for each in shared if "1.5" not in each and not each.endswith(" x")),
        *(f"--epochs {count}" for count in (0, -1, 10**12)),
        *(f"--{name} {value}" for name in ("zoom", "colour") for value in ("nan", "-1", "inf")),
        *(f"--held-out-share {share}" for share in ("nan", "0", "1")),
        *(f"--width {width}" for width in (0, -1, 10**12)),
        *(f"--size {size}" for size in ("0 0", f"{10**12} 8", "8")),
        "--depth 0",
        "--network none",
        "--recipe none",
        "--recipe",
        "",
    )
    yield from outputs(line)
    for data in ("none", "loop", "fifo", "image.png", "closed", "folder", "classes_none"):
        yield Row(f"train.segmentation --data {data}")
    yield from each("train.segmentation_samples", "photos", "image.png/new", "new --size 0", "")
    for line in (f"{of_classes} --width {n}" for n in (0, -1, 10**12)):
        yield Row(line.replace("--width 4 ", ""), "`width`")
    yield from each(
        "train.classifier --data classes", "--size 0", f"--size {10**12}", "--scale nan"
    )
    yield from each("train.classifier --data classes", "--channels 2", "--channels 0", "--size x")
    line = "train.classifier --size 8 --data {}"
    yield from paths(line, "", ("loop", "gone", "fifo", "folder", "empty", "letters"))
    yield from paths(line, ".tfrecords", ("loop", "gone", "fifo", "folder", "empty", "letters"))
    yield from each(
        "train.classifier --size 8 --data",
        *(f"classes_{name}" for name in ("none", "one", "hollow", "broken", "loop")),
        *("classes_closed", "classes_unlisted", "closed", "unlisted"),
        "classes classes",
        "image.png",
        "",
    )
    yield Row("train.classifier --size 8")
    yield from each("train.quality --weights", "none", "vol.safetensors", "net.safetensors", "")
    yield from each(
        "train.quality --weights texture-mnist-biased --samples",
        "0",
        f"{10**12}",
        "1 --json photos",
    )
    yield from each(
        "train.lesions_study",
        *(f"--{name} {n}" for name in ("cases", "max-samples") for n in (0, 10**12)),
        *(f"--sigma {value}" for value in ("nan", "0")),
        *(f"--threshold {value}" for value in ("nan", "2")),
        "--weights none",
        "--out photos",
        "--out cut.json",
        "--out numbers.json",
        "--out object.json",
        "--out image.png/new",
    )
    yield from each(
        "train.classifier_samples",
        "none new",
        "digits photos",
        "digits image.png/new",
        "digits",
        "",
    )
    yield from each("train.lesions_detector", "--features none", "--features image.png")
    for name in ("infinite", "number", "field"):
        yield Row(f"train.lesions_detector --features features_{name}.csv", f"features_{name}")
    yield from each("train.lesions_cohort", "--out photos", "--out new --cases 0")
    yield Row("train.lesions_cohort --out new --spacing nan", "`spacing` is nan")
    yield from each("train.lesions_samples", "--index -1", "--index 99999", "--out photos", "x")
    yield from each("train.texture_mnist_samples", "--out photos", "--out loop", "--none", "x")


def none() -> Iterator[Row]:
    """Of no command."""
    yield from (Row(line) for line in ("none", "--none", "explain2", "''", "'a b'", "x" * 5000))
    yield Row(shlex.quote(LOST))
    yield Row("plan")
    yield Row("evaluate")


TABLES = {
    table.__name__: list(dict.fromkeys(table()))
    for table in (
        *(explain, sweep, gallery, embed, occlude, show, score, export, layers, methods, demo),
        *(convert, instances, context, training, none),
    )
}
