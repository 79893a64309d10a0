"""`segcam demo`: a page of two sections, each of which shows the runs of a command.

OUT/images.json, volume.json   what a section says, written when its runs and figures are there
OUT/index.html                 the sections that are there; relative links, nothing from elsewhere
"""

import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import jinja2
import msgspec

import segcam_jax
from segcam_jax import _files
from segcam_jax.cli import commands
from segcam_jax.cli.demo import images, volume
from segcam_jax.runs.manifest import FILE

PAGE = "index.html"
SECTIONS = {"images": images.Finding, "volume": volume.Finding}
Findings = dict[str, images.Finding | volume.Finding]


def demo(command: commands.Demo, line: Sequence[str]) -> None:
    """Computes a section, and writes the page with all sections that are there."""
    start, out = time.perf_counter(), command.out
    stores = [out / name / FILE for name in (*images.STORES, *volume.STORES)]
    if not command.overwrite and not any(store.is_file() for store in stores):
        _files.check_free(out, (PAGE, *map(_file, SECTIONS), "figures"))
    if command.volume:
        found = volume.explain(out, line, overwrite=command.overwrite)
    else:
        found = images.explain(out, overwrite=command.overwrite)
    name = "volume" if command.volume else "images"
    _files.write_bytes(out / _file(name), msgspec.json.encode(found))
    _files.write_bytes(out / PAGE, render({**findings(out), name: found}).encode())
    place = (out / PAGE).resolve()
    print(
        f"The demo is in {out}, made in {time.perf_counter() - start:.0f} s; open {place.as_uri()}"
    )
    if command.open:
        webbrowser.open(place.as_uri())


def findings(out: Path) -> Findings:
    """What the sections say that are there; one of another version is none."""
    found: Findings = {}
    for name, kind in SECTIONS.items():
        data = _files.read_if_there(out / _file(name))
        try:
            if data is not None:
                found[name] = msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError:
            continue
    return found


def render(found: Findings) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segcam_jax.cli.demo"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html")
    return page.render(
        images=found.get("images"),
        volume=found.get("volume"),
        biased=images.BIASED,
        unbiased=images.UNBIASED,
        digits=images.DIGITS,
        version=segcam_jax.__version__,
    )


def _file(section: str) -> str:
    return f"{section}.json"
