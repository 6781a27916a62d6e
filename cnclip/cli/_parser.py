"""The parser of the command line: names the nearest option or command of a mistyped one."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser, of `cnclip` or of one command; errors show the usage of the deepest command."""

    # The parser of the deepest command that the arguments name: argparse reports unknown arguments
    # of a command to the parser of `cnclip`.
    deepest: ClassVar[Parser]
    _arguments: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, and remember the arguments for messages."""
        Parser.deepest = self
        self._arguments = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage, the message and the nearest of a mistyped option on stderr; exit."""
        super().error(message + "".join(f"\n{hint}" for hint in self._hints()))

    def option_of(self, name: str) -> str | None:
        """The option, as it is typed, whose value has this name; None if there is none."""
        for option, action in self._option_string_actions.items():
            if action.dest == name and option.startswith("--"):
                return option
        return None

    def _hints(self) -> Iterator[str]:
        for argument in self._arguments:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            known = self._option_string_actions
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                yield f"no option {name}{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of a message that names the nearest known name, if one is near."""
    close = difflib.get_close_matches(name, list(known), 1, 0.7)
    return f": did you mean {close[0]}?" if close else ""


def parse(parser: Parser, arguments: Sequence[str], more: dict[str, str]) -> argparse.Namespace:
    """Parse arguments; words after options are added to the words before them.

    argparse reads `search x.index -k 3 TEXT` as a search without TEXT, and reports TEXT as unknown.

    Args:
        parser: The parser of `cnclip`.
        arguments: The arguments.
        more: The argument with many words of each command that has one.
    """
    parsed = argparse.Namespace()
    _, unknown = parser.parse_known_args(arguments, parsed)
    after = arguments[arguments.index("--") :] if "--" in arguments else []  # no options
    options = [one for one in unknown if one.startswith("-") and one not in ("-", *after)]
    name = more.get(parsed.command)
    if unknown and (options or name is None):
        Parser.deepest.error(f"unrecognized arguments: {' '.join(options or unknown)}")
    if unknown and name is not None:
        words = [word for word in unknown if word != "--"]
        setattr(parsed, name, [*getattr(parsed, name), *words])
    return parsed
