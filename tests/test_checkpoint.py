"""What was saved comes back exactly; what was damaged, foreign or half written is refused."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from holdfast import checkpoint
from holdfast.errors import CheckpointError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]

STATE = {
    "index": 2,
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])},
    "nothing": None,
    "curve": [{"step": 1, "scores": [0.5, 0.25]}],
}


def same(a: Any, b: Any) -> bool:
    """Equal in value, type, dtype and shape, and bit by bit for tensors."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
            if a.dtype != torch.bfloat16
            else b.dtype == a.dtype and same(a.view(torch.int16), b.view(torch.int16))
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (2, 3, 4)], ids=str)
def test_tensors_of_every_type_and_shape_come_back(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    checkpoint.save(tmp_path / "c", {"t": tensor})
    assert same(checkpoint.load(tmp_path / "c"), {"t": tensor})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_numbers_that_are_not_ordinary_come_back(tmp_path: Path, value: float) -> None:
    state = {"t": torch.tensor([value]), "n": value}
    checkpoint.save(tmp_path / "c", state)
    loaded = checkpoint.load(tmp_path / "c")
    assert same(loaded, state)
    assert math.copysign(1, loaded["n"]) == math.copysign(1, value) or math.isnan(value)


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.integers(0, 5).map(lambda n: torch.arange(n)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=60, deadline=None)
def test_any_tree_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "tree"
    checkpoint.save(path, tree)
    assert same(checkpoint.load(path), tree)


def test_keys_that_only_look_alike_stay_apart(tmp_path: Path) -> None:
    one, two, three, four = (torch.tensor([float(n)]) for n in range(1, 5))
    state = {0: one, "0": two, "a": {"b": three}, "a/b": four}
    checkpoint.save(tmp_path / "c", state)
    assert same(checkpoint.load(tmp_path / "c"), state)


def test_an_optimizers_state_comes_back_with_its_whole_number_keys(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "c", optimizer.state_dict())
    loaded = checkpoint.load(tmp_path / "c")
    assert list(loaded["state"]) == [0, 1]
    fresh = torch.optim.AdamW(model.parameters())
    fresh.load_state_dict(loaded)
    assert torch.equal(
        fresh.state[model.weight]["exp_avg_sq"], optimizer.state[model.weight]["exp_avg_sq"]
    )


def test_tensors_that_share_memory_or_are_not_contiguous_come_back(tmp_path: Path) -> None:
    whole = torch.arange(12).view(3, 4)
    state = {"whole": whole, "again": whole, "column": whole[:, 1], "turned": whole.T}
    checkpoint.save(tmp_path / "c", state)
    loaded = checkpoint.load(tmp_path / "c")
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_what_is_neither_tensor_nor_json_is_refused_naming_the_place(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="/a/b is a object"):
        checkpoint.save(tmp_path / "c", {"a": {"b": object()}})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state.ckpt"
    checkpoint.save(path, STATE)
    return path


def test_a_file_cut_short_anywhere_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(saved)
    saved.write_bytes(content)
    assert same(checkpoint.load(saved), STATE)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(saved: Path) -> None:
    """Every byte of the file matters, but for the padding of the header, which carries nothing."""
    content = saved.read_bytes()
    harmless = 0
    for at in range(len(content)):
        altered = bytearray(content)
        altered[at] ^= 1 << (at % 8)
        saved.write_bytes(bytes(altered))
        try:
            loaded = checkpoint.load(saved)
        except CheckpointError:
            continue
        assert same(loaded, STATE), f"byte {at} altered what was read"
        harmless += 1
    assert harmless <= 8


def test_bytes_added_at_the_end_are_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError):
        checkpoint.load(saved)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"hello", b"{}", os.urandom(500)])
def test_other_kinds_of_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "c")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "c.pt")


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "c")
    with pytest.raises(CheckpointError, match="not a checkpoint of holdfast"):
        checkpoint.load(tmp_path / "c")


def test_a_header_without_a_tree_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "c", {"holdfast": "1"})
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "c")


def test_a_version_that_is_no_number_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "c", {"holdfast": "one"})
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "c")


def test_a_newer_format_is_refused_saying_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(tmp_path / "c", STATE)
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match=r"newer holdfast \(format 2.*Update holdfast"):
        checkpoint.load(tmp_path / "c")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*/nowhere"):
        checkpoint.load(tmp_path / "nowhere")


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "mkstemp"])
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = saved.read_bytes()
    with monkeypatch.context() as disk:
        if call == "write":
            disk.setattr(os, "fdopen", _NoRoom(os.fdopen))
        elif call == "mkstemp":
            disk.setattr(checkpoint.tempfile, "mkstemp", full)
        else:
            disk.setattr(os, call, full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            checkpoint.save(saved, {"new": torch.zeros(100)})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


class _NoRoom:
    """An `os.fdopen` whose files take half of what is written and then are full."""

    def __init__(self, really: Any) -> None:
        self.really = really

    def __call__(self, handle: int, mode: str) -> Any:
        file = self.really(handle, mode)

        class Full:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: Any) -> None:
                file.close()

            def write(self, content: bytes) -> None:
                file.write(content[: len(content) // 2])
                full()

        return Full()


def test_an_interrupt_while_writing_leaves_the_old_checkpoint_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as keyboard:
        keyboard.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(saved, {"new": torch.zeros(100)})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_content_is_on_disk_before_it_takes_the_old_ones_place(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    checkpoint.save(saved, STATE)
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Cannot write .*/file/c: (Not a directory|File ex)"):
        checkpoint.save(tmp_path / "file" / "c", STATE)


def test_the_header_is_plain_json(saved: Path) -> None:
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert metadata["holdfast"] == "1"
    assert json.loads(metadata["tree"])["pairs"][0] == ["index", 2]
