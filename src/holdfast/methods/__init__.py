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
    from holdfast.methods.correction.bic import BiC
    from holdfast.methods.correction.group_masking import GroupMasking
    from holdfast.methods.correction.wa import WA
    from holdfast.methods.distillation.lwf import LwF
    from holdfast.methods.editing.ft_l import FTL, FTM
    from holdfast.methods.editing.grace import GRACE
    from holdfast.methods.editing.memit import MEMIT
    from holdfast.methods.editing.rome import ROME
    from holdfast.methods.editing.wise import WISE
    from holdfast.methods.isolation.expandable_der import ExpandableDER
    from holdfast.methods.isolation.expert_gate import ExpertGate
    from holdfast.methods.isolation.hat import HAT
    from holdfast.methods.isolation.memo import MEMO
    from holdfast.methods.isolation.packnet import PackNet
    from holdfast.methods.penalties.cpr import CPR
    from holdfast.methods.penalties.ewc import EWC, OnlineEWC
    from holdfast.methods.penalties.l2 import L2
    from holdfast.methods.penalties.mas import MAS
    from holdfast.methods.penalties.refresh import Refresh
    from holdfast.methods.penalties.rwalk import RWalk
    from holdfast.methods.penalties.si import SI
    from holdfast.methods.penalties.slni import SLNI
    from holdfast.methods.penalties.task_free import TaskFree
    from holdfast.methods.projection.agem import AGEM
    from holdfast.methods.projection.gem import GEM
    from holdfast.methods.projection.gpm import GPM
    from holdfast.methods.prototypes.ncm import NCM
    from holdfast.methods.prototypes.ranpac import RanPAC
    from holdfast.methods.prototypes.slda import SLDA
    from holdfast.methods.replay.cls_er import CLSER
    from holdfast.methods.replay.der import DER, DERpp
    from holdfast.methods.replay.er import ER
    from holdfast.methods.replay.er_ace import ERACE
    from holdfast.methods.replay.fpf import FPF, KFPF
    from holdfast.methods.replay.frequency_replay import FrequencyReplay
    from holdfast.methods.replay.gdumb import GDumb
    from holdfast.methods.replay.gss import GSS
    from holdfast.methods.replay.icarl import ICaRL
    from holdfast.methods.replay.mir import MIR
    from holdfast.methods.replay.replay import Replay
    from holdfast.methods.replay.scr import SCR
    from holdfast.methods.schedule.dmt import DMT
    from holdfast.methods.selection.grads import GrADS
    from holdfast.methods.sparse.hft import HFT
    from holdfast.methods.sparse.migu import MIGU
    from holdfast.methods.testtime.bn_adapt import BNAdapt
    from holdfast.methods.testtime.cotta import CoTTA
    from holdfast.methods.testtime.eata import EATA
    from holdfast.methods.testtime.source import Source
    from holdfast.methods.testtime.tent import TENT
    from holdfast.methods.unlearning.boundary_expand import BoundaryExpand
    from holdfast.methods.unlearning.boundary_shrink import BoundaryShrink
    from holdfast.methods.unlearning.cf_k import CFk
    from holdfast.methods.unlearning.dpo import DPO
    from holdfast.methods.unlearning.eu_k import EUk
    from holdfast.methods.unlearning.finetune_retain import FinetuneRetain
    from holdfast.methods.unlearning.ga import GA
    from holdfast.methods.unlearning.idk import IDK
    from holdfast.methods.unlearning.kto import KTO
    from holdfast.methods.unlearning.l1_sparse import L1Sparse
    from holdfast.methods.unlearning.npo import NPO
    from holdfast.methods.unlearning.random_labels import RandomLabels
    from holdfast.methods.unlearning.retain import Retain, RetainKL
    from holdfast.methods.unlearning.retrain import Retrain
    from holdfast.methods.unlearning.rmu import RMU
    from holdfast.methods.unlearning.saliency import Saliency
    from holdfast.methods.unlearning.salun import SalUn
    from holdfast.methods.unlearning.satimp import SatImp
    from holdfast.methods.unlearning.scrub import SCRUB
    from holdfast.methods.unlearning.simnpo import SimNPO
    from holdfast.methods.unlearning.undial import UNDIAL
    from holdfast.methods.unlearning.wga import WGA

__all__ = [
    "AGEM",
    "CLSER",
    "CPR",
    "DER",
    "DMT",
    "DPO",
    "EATA",
    "ER",
    "ERACE",
    "EWC",
    "FPF",
    "FTL",
    "FTM",
    "GA",
    "GEM",
    "GPM",
    "GRACE",
    "GSS",
    "HAT",
    "HFT",
    "IDK",
    "KFPF",
    "KTO",
    "L2",
    "MAS",
    "MEMIT",
    "MEMO",
    "MIGU",
    "MIR",
    "NCM",
    "NPO",
    "RMU",
    "ROME",
    "SCR",
    "SCRUB",
    "SI",
    "SLDA",
    "SLNI",
    "TENT",
    "UNDIAL",
    "WA",
    "WGA",
    "WISE",
    "BNAdapt",
    "BiC",
    "BoundaryExpand",
    "BoundaryShrink",
    "CFk",
    "CoTTA",
    "Cumulative",
    "DERpp",
    "EUk",
    "ExpandableDER",
    "ExpertGate",
    "Finetune",
    "FinetuneRetain",
    "FrequencyReplay",
    "GDumb",
    "GrADS",
    "GroupMasking",
    "Guard",
    "ICaRL",
    "ILoRA",
    "Joint",
    "L1Sparse",
    "LoRA",
    "LwF",
    "OLoRA",
    "OnlineEWC",
    "PackNet",
    "RWalk",
    "RanPAC",
    "RandomLabels",
    "Refresh",
    "Replay",
    "Retain",
    "RetainKL",
    "Retrain",
    "SalUn",
    "Saliency",
    "SatImp",
    "SimNPO",
    "Source",
    "TaskFree",
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
