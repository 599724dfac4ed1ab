"""The processes of one training, and how bytes and sums go between them: gloo, on CPUs.

No exchange waits for ever: a process that ended closes its connections, and one that hangs is given up after
``TIMEOUT_S``. What is exchanged, and when, is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroupGloo, Store  # type: ignore[attr-defined]

from squeeze.errors import SqueezeError

TIMEOUT_S = 600.0
PIECE_BYTES = 1 << 26
Spec = list[Any]  # name, dtype, shape: of a tensor that is about to come


class LostProcess(SqueezeError):
    """Another process of the training ended or does not answer."""


class Group:
    """One process's end of the connections; process 0 speaks, the others listen.

    Args:
        store: Where the processes find each other.
        rank: Which one this is.
    """

    def __init__(self, store: Store, rank: int, processes: int) -> None:
        self.store, self.rank, self.processes = store, rank, processes
        with lost():  # not an own group of torch.distributed: a script may have its own default one
            self._gloo: Any = ProcessGroupGloo(store, rank, processes, timedelta(seconds=TIMEOUT_S))

    def close(self) -> None:
        """Close the connections: whoever still waits at the other end gets an error."""
        self._gloo = None

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of each one's tensor, the same bytes everywhere."""
        with lost():
            self._gloo.allreduce([tensor]).wait()

    def gather(self, tensor: Tensor) -> Tensor:
        """``[processes, ...]``: everybody's tensor, for everybody."""
        every = [torch.empty_like(tensor) for _ in range(self.processes)]
        with lost():
            self._gloo.allgather([every], [tensor]).wait()
        return torch.stack(every)

    def say(self, order: Mapping[str, Any]) -> None:
        """Tell all others JSON values."""
        text = torch.frombuffer(bytearray(json.dumps(order).encode()), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(text)]).view(torch.uint8))
        self._broadcast(text)

    def hear(self) -> dict[str, Any]:
        """What process 0 says next."""
        size = torch.empty(1, dtype=torch.int64)
        self._broadcast(size.view(torch.uint8))
        text = torch.empty(int(size), dtype=torch.uint8)
        self._broadcast(text)
        order: dict[str, Any] = json.loads(text.numpy().tobytes())
        return order

    def say_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors to all others."""
        self.say({"tensors": specs(tensors)})
        for tensor in tensors.values():
            self._broadcast(_bytes(tensor))

    def hear_tensors(self) -> dict[str, Tensor]:
        """The tensors that process 0 gives to all."""
        return self._filled(self.hear()["tensors"], self._broadcast)

    def say_each(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Give tensors to all others one by one, and to the caller."""
        for name, tensor in tensors:
            self.say_tensors({name: tensor})
            yield name, tensor
        self.say_tensors({})

    def hear_each(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that process 0 gives one by one."""
        while tensors := self.hear_tensors():
            yield from tensors.items()

    def send(self, to: int, tensors: Mapping[str, Tensor]) -> None:
        """Give tensors to one other, who knows their specs."""
        with lost():
            for tensor in tensors.values():
                for piece in _pieces(_bytes(tensor)):
                    self._gloo.send([piece], to, 0).wait()

    def receive(self, specs: Sequence[Spec]) -> dict[str, Tensor]:
        """Tensors of these specs that process 0 gives to this process."""

        def get(flat: Tensor) -> None:
            with lost():
                for piece in _pieces(flat):
                    self._gloo.recv([piece], 0, 0).wait()

        return self._filled(specs, get)

    def say_folder(self, folder: Path) -> None:
        """Give the files of a folder to all others, who need not see this disk."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self.say({"files": [[str(path.relative_to(folder)), path.stat().st_size] for path in files]})
        for path in files:
            with path.open("rb") as file:
                while piece := bytearray(file.read(PIECE_BYTES)):
                    self._broadcast(torch.frombuffer(piece, dtype=torch.uint8))

    def hear_folder(self, folder: Path) -> Path:
        """Write the files that process 0 gives into a folder; gives the folder."""
        for name, size in self.hear()["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                for start in range(0, size, PIECE_BYTES):
                    piece = torch.empty(min(PIECE_BYTES, size - start), dtype=torch.uint8)
                    self._broadcast(piece)
                    file.write(piece.numpy().data)
        return folder

    def _broadcast(self, flat: Tensor) -> None:
        with lost():
            for piece in _pieces(flat):
                self._gloo.broadcast(piece, 0).wait()

    @staticmethod
    def _filled(specs: Sequence[Spec], fill: Any) -> dict[str, Tensor]:
        tensors = {}
        for name, dtype, shape in specs:
            tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            if tensors[name].numel():
                fill(tensors[name].view(-1).view(torch.uint8))
        return tensors


def specs(tensors: Mapping[str, Tensor]) -> list[Spec]:
    """What a receiver must know of tensors, as JSON values."""
    return [[name, str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()]


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def _pieces(flat: Tensor) -> Iterator[Tensor]:
    for start in range(0, flat.numel(), PIECE_BYTES):
        yield flat[start : start + PIECE_BYTES]


@contextmanager
def lost(words: Sequence[str] = ("",)) -> Iterator[None]:
    """gloo's errors are of lost connections and of time-outs; an error without any of the words is another one."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in words):
            raise
        raise LostProcess("a process that takes part in the training ended or does not answer") from error
