"""Methods, one file each, by family; imported when first used.

Example:
    >>> from holdfast.methods import ER, EWC
    >>> EWC(strength=50.0).strength
    50.0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.methods.adapter.i_lora import ILoRA
    from holdfast.methods.adapter.lora import LoRA
    from holdfast.methods.adapter.o_lora import OLoRA
    from holdfast.methods.bounds.cumulative import Cumulative
    from holdfast.methods.bounds.finetune import Finetune
    from holdfast.methods.bounds.guard import Guard
    from holdfast.methods.bounds.joint import Joint
    from holdfast.methods.correction.wa import WA
    from holdfast.methods.distillation.lwf import LwF
    from holdfast.methods.editing.ft_l import FTL, FTM
    from holdfast.methods.editing.grace import GRACE
    from holdfast.methods.editing.memit import MEMIT
    from holdfast.methods.editing.rome import ROME
    from holdfast.methods.editing.wise import WISE
    from holdfast.methods.penalties.ewc import EWC, OnlineEWC
    from holdfast.methods.penalties.l2 import L2
    from holdfast.methods.projection.agem import AGEM
    from holdfast.methods.prototypes.ncm import NCM
    from holdfast.methods.replay.der import DER, DERpp
    from holdfast.methods.replay.er import ER
    from holdfast.methods.replay.icarl import ICaRL
    from holdfast.methods.replay.replay import Replay
    from holdfast.methods.schedule.dmt import DMT
    from holdfast.methods.selection.grads import GrADS
    from holdfast.methods.sparse.hft import HFT
    from holdfast.methods.sparse.migu import MIGU

__all__ = [
    "AGEM",
    "DER",
    "DMT",
    "ER",
    "EWC",
    "FTL",
    "FTM",
    "GRACE",
    "HFT",
    "L2",
    "MEMIT",
    "MIGU",
    "NCM",
    "ROME",
    "WA",
    "WISE",
    "Cumulative",
    "DERpp",
    "Finetune",
    "GrADS",
    "Guard",
    "ICaRL",
    "ILoRA",
    "Joint",
    "LoRA",
    "LwF",
    "OLoRA",
    "OnlineEWC",
    "Replay",
]


def __getattr__(name: str) -> Any:
    from holdfast.catalogue import METHODS

    for path in METHODS.values():
        module, _, attribute = path.partition(":")
        if attribute == name:
            return getattr(import_module(module), name)
    raise AttributeError(f"holdfast.methods has no {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
