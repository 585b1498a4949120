"""Errors as sentences, with exit statuses."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from holdfast.errors import HoldfastError

INTERRUPTED = 130
"""The exit status of a program that was stopped with Ctrl-C."""


@contextmanager
def in_sentences(debug: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong inside into a sentence on standard error and an exit status.

    Args:
        debug: Print the traceback before the sentence.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        _leave("Stopped.", INTERRUPTED, debug)
    except HoldfastError as error:
        _leave(
            f"Error: {error}" if error.exit_status < 128 else str(error), error.exit_status, debug
        )
    except MemoryError:
        _leave("Error: Memory has run out; a smaller --batch-size or model may fit.", 1, debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _leave(f"Error: {where}{error.strerror or error}.", 1, debug)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, not imported for this alone
            _leave(
                "Error: The GPU's memory has run out; a smaller --batch-size or model may fit.",
                1,
                debug,
            )
        what = " ".join(str(error).split())
        hint = "" if debug else " Run again with --debug to see where."
        _leave(
            f"Error: Something unexpected happened ({type(error).__name__}: {what}).{hint}",
            1,
            debug,
        )


def _leave(sentence: str, status: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(sentence, file=sys.stderr)
    raise typer.Exit(status)
