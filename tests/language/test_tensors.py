"""Tensors are read row by row, and written in the order and number that was fixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from holdfast.errors import CheckpointError
from holdfast.language.tensors import Entry, Tensors, Writer

STATE = {
    "a": torch.arange(12.0).view(4, 3),
    "empty": torch.zeros(0, 2),
    "b": torch.arange(6).view(2, 3),
    "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
}


def entries():
    names = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}
    return {
        name: Entry(names[t.dtype], tuple(t.shape), t.numel() * t.element_size())
        for name, t in STATE.items()
    }


@pytest.mark.parametrize("shard", [10**9, 60])
def test_what_is_written_in_pieces_is_read_as_it_was(tmp_path: Path, shard: int) -> None:
    with Writer(tmp_path, entries(), shard) as writer:
        for name, tensor in STATE.items():
            for piece in tensor.split(3) if tensor.dim() and len(tensor) else [tensor]:
                writer.write(name, piece)
    files = sorted(tmp_path.glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    assert len(files) == (1 if shard > 60 else 2)
    if len(files) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["weight_map"]["a"] == "model-00001-of-00002.safetensors"
    tensors = Tensors(tmp_path)
    assert tensors.rows("a", 1, 3).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert tensors.rows("scalar", 0, 1).item() == 2.5
    assert tensors.bytes == 48 + 48 + 2


def test_tensors_out_of_turn_too_long_or_left_out_are_refused(tmp_path: Path) -> None:
    def write(*pieces: tuple[str, torch.Tensor]) -> None:
        with Writer(tmp_path, {"a": Entry("F32", (2,), 8), "b": Entry("F32", (2,), 8)}) as writer:
            for name, piece in pieces:
                writer.write(name, piece)

    two = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"b was written out of its turn"):
        write(("b", two))
    with pytest.raises(CheckpointError, match=r"a was written out of its turn"):
        write(("a", torch.zeros(3)))
    with pytest.raises(CheckpointError, match=r"b was not written wholly"):
        write(("a", two), ("b", two[:1]))
    with pytest.raises(CheckpointError, match=r"b was not written wholly"):
        write(("a", two))
