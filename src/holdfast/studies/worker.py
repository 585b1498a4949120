"""A process that runs a study's cells: one JSON line in, one out, until the input ends."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import IO, Any


def main() -> None:
    """Serve requests from standard input; anything printed on the way goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    serve(sys.stdin.buffer, answers)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer every request with what was measured, or with why it could not be."""
    from holdfast import studies

    for line in requests:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            measure = studies.find(request["study"]).measure
            begun = time.monotonic()
            measured = measure(request["settings"], request["seed"])
            answer = {"measured": {**measured, "wall_seconds": time.monotonic() - begun}}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
