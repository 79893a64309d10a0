"""Words of an older version: taken for one version where a command has the new one, and told."""

from collections.abc import Collection, Sequence

from segcam_jax.types import InputError

# Old words, and what they are called now; of a command that has the new word and not the old one.
_RENAMED = {
    "--class-index": "--class",
    "--classes": "--class",
    "--difference": "--class",
    "--layers": "--tap",
    "--methods": "--method",
    "--model": "--weights",
    "--models": "--weights",
    "--repeat": "--config",
}
# Options of methods, each given by --option now.
_OF_METHODS = ("--window", "--stride", "--samples", "--sigma", "--steps", "--aggregation")
_TOP, _DIFFERENCE = "--top", "--difference"
_TWICE = {"--weights", "--model"}
_GONE = {
    "plan": "`segcam plan` is now `segcam explain ... --dry-run`",
    "evaluate": "`segcam evaluate` is gone: `segcam demo` measures the planted bias, and "
    "`python -m train.quality --weights NAME`, in the repository, how well a network segments",
}


def check_command(name: str) -> None:
    """Raises `InputError`, which says what replaces it, if a command is gone."""
    if name in _GONE:
        raise InputError(_GONE[name])


def renewed(arguments: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command in today's words.

    Args:
        arguments: what follows the command's name.
        known: the options that it has, with their dashes.

    Returns:
        The arguments, and a line for each word that has another name now.

    Raises:
        InputError: if --model stands beside --weights.
    """
    found: list[str] = []
    told: dict[str, None] = {}
    given = iter(arguments)
    if {argument.partition("=")[0] for argument in arguments} >= _TWICE and "--model" not in known:
        raise InputError("--model is gone: --weights says which network it is; leave --model out")
    for argument in given:
        word, equals, value = argument.partition("=")
        new = _new(word.replace("_", "-"), known)
        if argument == "--":
            return [*found, argument, *given], list(told)
        if new is None:
            found.append(argument)
        elif word == _TOP:
            number = value if equals else next(given, "")
            told["--top N is now --class top:1 ... top:N"] = None
            found += [new, *_ranks(number)]
        elif word == _DIFFERENCE:
            first, second = next(given, ""), next(given, "")
            told['--difference A B is now --class "A rather than B"'] = None
            found += [new, f"{first} rather than {second}"]
        elif new == "--option":
            told[f"{word} is now --option {_plain(word)}=VALUE"] = None
            number = value if equals else next(given, "")
            found += [new, f"{_plain(word)}={number}"]
        else:
            told[f"{word} is now {new}"] = None
            found += [new, value] if equals else [new]
    return found, list(told)


def _new(word: str, known: Collection[str]) -> str | None:
    """What a word is called now, if it is an old one of a command with such options."""
    new = "--class" if word == _TOP else "--option" if word in _OF_METHODS else _RENAMED.get(word)
    return new if new in known and word not in known else None


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_")


def _ranks(number: str) -> list[str]:
    """The classes of the ranks from 1; of what is no such number a class that is refused."""
    if number.isascii() and number.isdigit() and 1 <= int(number) <= 10_000:
        return [f"top:{rank}" for rank in range(1, int(number) + 1)]
    return [f"top:{number}"]
