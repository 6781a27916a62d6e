"""Arguments and messages that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .._files import why_not_a_file
from .._options import types_of
from .._text import counted, first_line, printable
from ..errors import InvalidInputError, ModelNotFoundError
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..pipelines.builder import RESIZES
from ..preprocessors import download_settings
from ..preprocessors.decoding import DECODES, MAX_PIXELS_VARIABLE
from ..preprocessors.formats import FORMATS_VARIABLE, RARE_FORMATS, parse_formats
from ..sources.exclusions import describe_excluded
from ..sources.image_names import describe_left_out

if TYPE_CHECKING:
    from ..bulk import EmbedReport
    from ..search import Collection

BUNDLED_MODEL = "emoji-cn"
Options = TypeVar("Options")


def add_model_arguments(parser: argparse._ActionsContainer, *, recorded: bool) -> None:
    """Add --model, --precision, --device and --threads: which model embeds, where and how.

    Args:
        parser: Gets the arguments.
        recorded: The command reads an index or embeddings, which record their model. Adds
            --collection, --token and --database too, for an index in Milvus.
    """
    model, precision = f"the bundled {BUNDLED_MODEL}", "fp32"
    if recorded:
        model = f"the model that the index or the embeddings record, else {model}"
        precision = f"the precision that the index or the embeddings record, else {precision}"
        parser.add_argument(
            "--collection", default="cnclip", metavar="NAME", help="in Milvus; default: %(default)s"
        )
        parser.add_argument(
            "--token",
            metavar="USER:PASSWORD",
            help="of Milvus, or an API key (default: $MILVUS_TOKEN, which other users cannot see)",
        )
        parser.add_argument(
            "--database", metavar="NAME", help="in Milvus (default: $MILVUS_DATABASE)"
        )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a model directory, a checkpoint, an archive, or a hub id such as "
        f"damo/multi-modal_clip-vit-base-patch16_zh (default: {model})",
    )
    parser.add_argument(
        "--precision", help=f"fp32, bf16, int8, or fp16 on a GPU (default: {precision})"
    )
    parser.add_argument(
        "--device", default="gpu", help="gpu, cpu or cuda:N (default: a GPU, else the CPU)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one per core)"
    )


class _Variable(argparse.Action):
    """Stores the value of a variable of the environment, see `variables_of`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store a value; those of a repeated --header are the lines of one variable."""
        variable, earlier = str(self.const), getattr(namespace, self.dest)
        several = variable == download_settings.HEADERS and earlier is not None
        value = f"{earlier}\n{values}" if several else str(values)
        setattr(namespace, self.dest, value)
        namespace.variables = {**variables_of(namespace), variable: value}


def variables_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The variables of the environment that options have set.

    They are set while the command runs, so that they reach any process that it starts.
    """
    found: dict[str, str] = getattr(arguments, "variables", {})
    return found


def add_download_arguments(parser: argparse._ActionsContainer) -> None:
    """Add --header, --user-agent and --timeout: how images are fetched from URLs."""
    variables = download_settings
    parser.add_argument(
        "--header",
        action=_Variable,
        const=variables.HEADERS,
        type=_checked(lambda text: variables.parse_headers(text.replace("\n", " "))),
        metavar="'NAME: VALUE'",
        help="sent to the servers of images' URLs; may be repeated (default: the lines of "
        f"${variables.HEADERS})",
    )
    parser.add_argument(
        "--user-agent",
        action=_Variable,
        const=variables.USER_AGENT,
        metavar="TEXT",
        help="name of the program that servers of images' URLs see (default: "
        f"${variables.USER_AGENT}, else {variables.DEFAULT_USER_AGENT})",
    )
    parser.add_argument(
        "--timeout",
        action=_Variable,
        const=variables.TIMEOUT,
        type=_checked(variables.parse_timeout),
        metavar="SECONDS",
        help="for an image's download, with all tries (default: "
        f"${variables.TIMEOUT}, else {variables.TIMEOUT_SECONDS:g})",
    )


def add_pixels_argument(parser: argparse._ActionsContainer, default: int = 178_956_970) -> None:
    """Add --max-pixels: which images are too large to be decoded as they are.

    Args:
        parser: Gets the argument.
        default: The limit that the help names.
    """
    parser.add_argument(
        "--max-pixels",
        action=_Variable,
        const=MAX_PIXELS_VARIABLE,
        type=integer(1, 2**62),
        metavar="N",
        help="images with more pixels are reduced (JPEG) or fail (default: "
        f"${MAX_PIXELS_VARIABLE}, else {default})",
    )


def add_formats_argument(parser: argparse._ActionsContainer) -> None:
    """Add --formats: which images are opened; by default not those in rare formats.

    A command that has it runs with `common` in the environment, unless that has a list already.
    """
    parser.add_argument(
        "--formats",
        action=_Variable,
        const=FORMATS_VARIABLE,
        type=_checked(parse_formats),
        metavar="LIST",
        help=f"common refuses images in formats that few need ({', '.join(RARE_FORMATS)}), all "
        f"opens them; or a list such as common,psd (default: ${FORMATS_VARIABLE}, else common)",
    )


def add_decode_argument(parser: argparse._ActionsContainer) -> None:
    """Add --decode: how JPEG files are decoded."""
    parser.add_argument(
        "--decode",
        choices=DECODES,
        help="of JPEG files: exact, as ModelScope; or fast, scaled by 1/2, 1/4 or 1/8 while twice "
        "the model's resolution remains (default: exact)",
    )


def add_resize_argument(parser: argparse._ActionsContainer) -> None:
    """Add --resize: where images are resampled."""
    parser.add_argument(
        "--resize",
        choices=RESIZES,
        help="where images are resampled for a model on a GPU: on the CPU, or on that GPU, with "
        "the same pixels (default: cpu)",
    )


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """An argparse type: a string that a function parses. Messages do not show it."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            reason = error.reason if isinstance(error, InvalidInputError) else first_line(error)
            raise argparse.ArgumentTypeError(reason) from error
        return text

    return check


def add_options(
    parser: argparse._ActionsContainer, options: type[Any], without: str | None = None
) -> None:
    """Add an argument for each field of a dataclass of options; None means that it is not given.

    Args:
        parser: Gets the arguments.
        options: A dataclass; the metadata of its fields has `help`, and may have `choices`.
        without: A field that gets no argument.
    """
    types = types_of(options)
    for option in dataclasses.fields(options):
        if option.name == without:
            continue
        flags = ["--" + option.name.replace("_", "-")]
        if short := option.metadata.get("short"):
            flags.insert(0, short)
        many = option.metadata.get("many")
        shown: Any = option.default
        if many and shown:
            shown = " ".join(map(str, shown))
        default = "" if shown in (None, False) else f" (default: {shown})"
        text = option.metadata["help"].replace("%", "%%") + default
        kind = types[option.name]
        if kind is bool:
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, help=text)
        else:
            choices = option.metadata.get("choices")
            metavar = None if choices else kind.__name__.upper()
            parser.add_argument(
                *flags,
                type=kind,
                help=text,
                choices=choices,
                metavar=metavar,
                **_repetition(option.metadata),
            )


def _repetition(rules: Mapping[str, Any]) -> dict[str, Any]:
    """How argparse takes many values."""
    if rules.get("repeated"):
        return {"action": "append"}
    return {"nargs": "+"} if rules.get("many") else {}


def options_of(arguments: argparse.Namespace, options: type[Options], **more: Any) -> Options:
    """The options that the arguments of `add_options`, or `more`, give; the others are defaults."""
    given = {name: value for name, value in (vars(arguments) | more).items() if value is not None}
    names = [name for name in types_of(options) if name in given]
    # Of an option with many values, each counts once.
    unique = {name: tuple(dict.fromkeys(v)) for name, v in given.items() if isinstance(v, list)}
    return options(**{name: (given | unique)[name] for name in names})


def open_pipeline(
    arguments: argparse.Namespace, *, model: str | None = None, precision: str | None = None
) -> MultiModalEmbeddingPipeline:
    """Open the model that the arguments name.

    Args:
        arguments: With those of `add_model_arguments`.
        model: Used where --model is not given; by default the bundled model, which is reported.
        precision: Used where --precision is not given; by default fp32.

    Raises:
        CnclipError: as `pipeline` raises.
    """
    name = arguments.model or model
    if name is None:
        name = BUNDLED_MODEL
        print_message(
            arguments.command,
            f"using the bundled {name} model, which mostly knows emoji; choose another with "
            "--model",
        )
    return pipeline(
        model=name,
        precision=arguments.precision or precision or "fp32",
        device=arguments.device,
        decode=getattr(arguments, "decode", None) or "exact",
        resize=getattr(arguments, "resize", None) or "cpu",
        num_threads=arguments.threads,
    )


def open_model_of(
    collection: Collection, arguments: argparse.Namespace
) -> MultiModalEmbeddingPipeline:
    """Open the model that a collection was made with, or the one that the arguments name.

    Raises:
        InvalidInputError: the collection does not record a model, and --model is not given.
        ModelNotFoundError: there is no such model.
        CnclipError: as `pipeline` raises.
    """
    model = (collection.model or {}).get("name")
    if arguments.model is None and not model:
        raise InvalidInputError("does not record a model; pass --model", item=collection.name)
    try:
        return open_pipeline(arguments, model=model, precision=collection.precision)
    except ModelNotFoundError as error:
        if arguments.model is not None:
            raise
        reason = f"was made with the model {model!r}, which was not found; pass its path as --model"
        raise ModelNotFoundError(reason, item=collection.name) from error


def add_root_argument(parser: argparse._ActionsContainer) -> None:
    """Add --root: where files are that were moved since they were embedded."""
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="the folder that holds the files now, if they were moved since they were embedded",
    )


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """An argparse type: an integer within bounds."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() else -1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(
                f"expected a number from {minimum} to {maximum}, got {text!r}"
            )
        return number

    return parse


def check_output_file(path: Path) -> None:
    """Refuse an output file that cannot be written, before any work.

    Raises:
        InvalidInputError: the path is a directory, a FIFO or a device, its directory does not
            exist, or the user may not write there.
    """
    if path.is_dir():
        raise InvalidInputError("is a directory, expected a file name", file=path)
    if (reason := why_not_a_file(path)) is not None:
        raise InvalidInputError(reason, file=path)
    if not path.parent.is_dir():
        raise InvalidInputError("no such directory", file=path.parent)
    # The file is written next to this place and renamed, so that a new directory entry is made.
    places = [path.parent, path] if path.exists() else [path.parent]
    if not all(os.access(place, os.W_OK) for place in places):
        raise InvalidInputError("permission denied", file=path)


def print_message(command: str, message: object) -> None:
    """Print a message of a command on stderr."""
    print(f"cnclip {command}: {message}", file=sys.stderr)


def open_browser(command: str, url: str) -> None:
    """Open a page in the user's browser, or report that there is none."""
    if not webbrowser.open(url):
        print_message(command, f"no browser could be started; open {url}")


def print_embedded(command: str, report: EmbedReport, rest: str) -> None:
    """Print on stderr what is to be known of a run that embedded items.

    The first items that failed are named, the others counted; so are items that were embedded in an
    unusual way, and what was left out.

    Args:
        command: The command's name.
        report: The run's report.
        rest: Where the items that failed are recorded.
    """
    for name, reason in report.first_failed:
        print_message(command, f"{printable(name)}: {reason}")
    if report.failed > len(report.first_failed):
        print_message(command, f"{report.failed - len(report.first_failed)} more failed; {rest}")
    lines = [*report.remarks, *report.texts.messages(), *describe_left_out(report.left_out)]
    for line in [*lines, *describe_excluded(report.excluded)]:
        print_message(command, line)
    for note, (count, first) in report.notes.items():
        images = counted(count, report.kind)
        print_message(command, f"{images}, the first {printable(first)}: {note}")
