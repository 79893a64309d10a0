"""Names of classes: ImageNet's, which the package ships, and those of a file.

    imagenet_labels()[285]        # "Egyptian cat"
    read_labels("labels.txt")     # one name a line, in the order of the logits

`.json` files are read too: a list of names, or `{"0": "name", ...}`; of a list such as
`["n02124075", "Egyptian_cat"]`, as Keras writes them, the last entry is the name.
"""

from pathlib import Path
from typing import Any

from segcam_jax import _files
from segcam_jax.types import InputError, counted

_IMAGENET = Path(__file__).with_name("imagenet.txt")
IMAGENET_CLASSES = 1000


def imagenet_labels() -> list[str]:
    """The names of ImageNet's 1000 classes (ILSVRC 2012), each once, in the order of the logits.

    References:
        Russakovsky et al., IJCV 2015. The names are the synsets' first words in WordNet 3.0.
    """
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return [line.split(" ", 1)[1] for line in lines if line and not line.startswith("#")]


def read_labels(path: str | Path) -> list[str]:
    """Reads the names of classes from a file, in the order of the logits.

    Args:
        path: a text file with one name a line, or `.json`.
    """
    data = _files.read_if_there(path)
    if data is None:
        raise InputError(f"labels {str(path)!r} cannot be read: there is no such file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"labels {str(path)!r} are not text in UTF-8") from None
    json_file = Path(path).suffix.lower() == ".json"
    labels = _of_json(text, str(path)) if json_file else text.rstrip().splitlines()
    labels = [" ".join(label.split()) for label in labels]
    if not labels:
        raise InputError(f"labels {str(path)!r} do not hold a name; write one name per line")
    if "" in labels:
        raise InputError(
            f"labels {str(path)!r} have no name for class {labels.index('')}; write one name per "
            "line, without empty lines between them"
        )
    return labels


def check_labels(labels: list[str], classes: int, origin: str) -> None:
    """Raises `InputError` if there is not one label for each class."""
    if len(labels) != classes:
        raise InputError(
            f"{origin} has {counted(len(labels), 'label')} for {counted(classes, 'class')}; "
            "give one each"
        )


def _of_json(text: str, name: str) -> list[str]:
    values: Any = _files.parse_json(text, f"labels {name!r} are")
    if isinstance(values, dict):
        missing = [key for key in map(str, range(len(values))) if key not in values]
        if missing:
            raise InputError(
                f"labels {name!r} have {len(values)} entries, but none for class {missing[0]}"
            )
        values = [values[str(number)] for number in range(len(values))]
    if not isinstance(values, list):
        raise InputError(f"labels {name!r} do not hold a list of names")
    values = [each[-1] if isinstance(each, list) and each else each for each in values]
    wrong = [each for each in values if not isinstance(each, str)]
    if wrong:
        raise InputError(f"labels {name!r} hold {wrong[0]!r}, which is not a name")
    return values
