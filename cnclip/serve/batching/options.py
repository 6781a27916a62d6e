"""The limits of a batcher."""

from __future__ import annotations

from dataclasses import dataclass

from ..._options import check_options, option


@dataclass(frozen=True)
class BatchOptions:
    """Limits of a batcher.

    Raises:
        InputTypeError: a value has another type; names the option.
        InvalidInputError: a value is not allowed; names the option.
    """

    batch_tokens: int | None = option(
        None,
        "tokens of a batch of texts, padded to the longest (default: 512, on a GPU 16384)",
        min=1,
    )
    batch_images: int | None = option(
        None, "images of a batch (default: 8, on a GPU 256)", min=1, max=256
    )
    interactive_items: int = option(
        16, "requests of up to so many items are interactive, larger ones bulk", min=0
    )
    max_bytes: int = option(
        256 << 20,
        "memory of the requests in progress, and again of the images that are being decoded",
        min=1 << 16,
    )
    threads: int | None = option(
        None, "threads that prepare images (default: one per core)", min=1, max=256
    )
    timeout: float | None = option(None, "seconds of a request (default: no limit)", above=0)
    prepare_timeout: float = option(30.0, "seconds to open and prepare an image", above=0)
    run_timeout: float = option(60.0, "seconds of the model for a batch", above=0)

    def __post_init__(self) -> None:
        """Check every value."""
        check_options(self)
