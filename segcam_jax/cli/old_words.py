"""Words of an older version: those that mean the same are taken, others answer with the new one."""

from collections.abc import Sequence

from segcam_jax.types import InputError

_SAME = {"--class-index": "--class", "--classes": "--class", "--repeat": "--config"}
_OPTIONS = ("--window", "--stride", "--samples", "--sigma", "--steps")
_TOP = "--top"


def renewed(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command in today's words.

    Args:
        command: its name.
        arguments: what follows it.

    Returns:
        The arguments, and a line for each word that has another name now.

    Raises:
        InputError: if a command or a word is gone; says what replaces it.
    """
    if command == "plan":
        raise InputError("`segcam plan` is now `segcam explain ... --dry-run`")
    if command != "explain":
        return list(arguments), []
    found: list[str] = []
    told: dict[str, None] = {}
    given = iter(arguments)
    for argument in given:
        word, equals, value = argument.partition("=")
        if argument == "--":
            return [*found, argument, *given], list(told)
        if word in _OPTIONS:
            raise InputError(f"{word} is now --option {word.removeprefix('--')}=VALUE")
        if word == _TOP:
            number = value if equals else next(given, "")
            told["--top N is now --class top:1 ... top:N"] = None
            found += ["--class", *_ranks(number)]
        elif word in _SAME:
            told[f"{word} is now {_SAME[word]}"] = None
            found += [_SAME[word], value] if equals else [_SAME[word]]
        else:
            found.append(argument)
    return found, list(told)


def _ranks(number: str) -> list[str]:
    """The classes of the ranks from 1; of what is no such number a class that is refused."""
    if number.isascii() and number.isdigit() and 1 <= int(number) <= 10_000:
        return [f"top:{rank}" for rank in range(1, int(number) + 1)]
    return [f"top:{number}"]
