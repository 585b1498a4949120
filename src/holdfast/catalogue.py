"""The catalogue: every method by name, its tags, and methods from spec strings.

Names are listed here, not registered on import, so that the list costs nothing to read and a
method's module is imported only when it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from holdfast.errors import unknown
from holdfast.method import Method, Tags, chain
from holdfast.spec import Spec, bind, parse

METHODS: dict[str, str] = {
    "finetune": "holdfast.methods.bounds.finetune:Finetune",
    "joint": "holdfast.methods.bounds.joint:Joint",
    "cumulative": "holdfast.methods.bounds.cumulative:Cumulative",
    "guard": "holdfast.methods.bounds.guard:Guard",
    "replay": "holdfast.methods.replay.replay:Replay",
    "er": "holdfast.methods.replay.er:ER",
    "der": "holdfast.methods.replay.der:DER",
    "der++": "holdfast.methods.replay.der:DERpp",
    "icarl": "holdfast.methods.replay.icarl:ICaRL",
    "er_ace": "holdfast.methods.replay.er_ace:ERACE",
    "mir": "holdfast.methods.replay.mir:MIR",
    "gss": "holdfast.methods.replay.gss:GSS",
    "gdumb": "holdfast.methods.replay.gdumb:GDumb",
    "scr": "holdfast.methods.replay.scr:SCR",
    "cls_er": "holdfast.methods.replay.cls_er:CLSER",
    "fpf": "holdfast.methods.replay.fpf:FPF",
    "k_fpf": "holdfast.methods.replay.fpf:KFPF",
    "frequency_replay": "holdfast.methods.replay.frequency_replay:FrequencyReplay",
    "l2": "holdfast.methods.penalties.l2:L2",
    "ewc": "holdfast.methods.penalties.ewc:EWC",
    "online_ewc": "holdfast.methods.penalties.ewc:OnlineEWC",
    "si": "holdfast.methods.penalties.si:SI",
    "mas": "holdfast.methods.penalties.mas:MAS",
    "rwalk": "holdfast.methods.penalties.rwalk:RWalk",
    "refresh": "holdfast.methods.penalties.refresh:Refresh",
    "cpr": "holdfast.methods.penalties.cpr:CPR",
    "slni": "holdfast.methods.penalties.slni:SLNI",
    "task_free": "holdfast.methods.penalties.task_free:TaskFree",
    "lwf": "holdfast.methods.distillation.lwf:LwF",
    "agem": "holdfast.methods.projection.agem:AGEM",
    "gem": "holdfast.methods.projection.gem:GEM",
    "gpm": "holdfast.methods.projection.gpm:GPM",
    "packnet": "holdfast.methods.isolation.packnet:PackNet",
    "hat": "holdfast.methods.isolation.hat:HAT",
    "expandable_der": "holdfast.methods.isolation.expandable_der:ExpandableDER",
    "memo": "holdfast.methods.isolation.memo:MEMO",
    "expert_gate": "holdfast.methods.isolation.expert_gate:ExpertGate",
    "ncm": "holdfast.methods.prototypes.ncm:NCM",
    "slda": "holdfast.methods.prototypes.slda:SLDA",
    "ranpac": "holdfast.methods.prototypes.ranpac:RanPAC",
    "wa": "holdfast.methods.correction.wa:WA",
    "bic": "holdfast.methods.correction.bic:BiC",
    "group_masking": "holdfast.methods.correction.group_masking:GroupMasking",
    "grads": "holdfast.methods.selection.grads:GrADS",
    "dmt": "holdfast.methods.schedule.dmt:DMT",
    "hft": "holdfast.methods.sparse.hft:HFT",
    "migu": "holdfast.methods.sparse.migu:MIGU",
    "lora": "holdfast.methods.adapter.lora:LoRA",
    "i_lora": "holdfast.methods.adapter.i_lora:ILoRA",
    "o_lora": "holdfast.methods.adapter.o_lora:OLoRA",
    "source": "holdfast.methods.testtime.source:Source",
    "bn_adapt": "holdfast.methods.testtime.bn_adapt:BNAdapt",
    "tent": "holdfast.methods.testtime.tent:TENT",
    "eata": "holdfast.methods.testtime.eata:EATA",
    "cotta": "holdfast.methods.testtime.cotta:CoTTA",
    "retrain": "holdfast.methods.unlearning.retrain:Retrain",
    "finetune_retain": "holdfast.methods.unlearning.finetune_retain:FinetuneRetain",
    "l1_sparse": "holdfast.methods.unlearning.l1_sparse:L1Sparse",
    "random_labels": "holdfast.methods.unlearning.random_labels:RandomLabels",
    "saliency": "holdfast.methods.unlearning.saliency:Saliency",
    "salun": "holdfast.methods.unlearning.salun:SalUn",
    "scrub": "holdfast.methods.unlearning.scrub:SCRUB",
    "boundary_expand": "holdfast.methods.unlearning.boundary_expand:BoundaryExpand",
    "boundary_shrink": "holdfast.methods.unlearning.boundary_shrink:BoundaryShrink",
    "eu_k": "holdfast.methods.unlearning.eu_k:EUk",
    "cf_k": "holdfast.methods.unlearning.cf_k:CFk",
    "ga": "holdfast.methods.unlearning.ga:GA",
    "npo": "holdfast.methods.unlearning.npo:NPO",
    "simnpo": "holdfast.methods.unlearning.simnpo:SimNPO",
    "dpo": "holdfast.methods.unlearning.dpo:DPO",
    "kto": "holdfast.methods.unlearning.kto:KTO",
    "idk": "holdfast.methods.unlearning.idk:IDK",
    "rmu": "holdfast.methods.unlearning.rmu:RMU",
    "undial": "holdfast.methods.unlearning.undial:UNDIAL",
    "wga": "holdfast.methods.unlearning.wga:WGA",
    "satimp": "holdfast.methods.unlearning.satimp:SatImp",
    "retain": "holdfast.methods.unlearning.retain:Retain",
    "retain_kl": "holdfast.methods.unlearning.retain:RetainKL",
    "wise": "holdfast.methods.editing.wise:WISE",
    "grace": "holdfast.methods.editing.grace:GRACE",
    "rome": "holdfast.methods.editing.rome:ROME",
    "memit": "holdfast.methods.editing.memit:MEMIT",
    "ft_l": "holdfast.methods.editing.ft_l:FTL",
    "ft_m": "holdfast.methods.editing.ft_l:FTM",
}


@dataclass(frozen=True)
class Entry:
    """A method in the catalogue.

    Attributes:
        name: As in spec strings.
        tags: What it is, needs and keeps.
        arguments: Constructor argument to default.
        summary: First sentence of its documentation.
    """

    name: str
    tags: Tags
    arguments: dict[str, Any]
    summary: str


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        UsageError: If there is no such method; the nearest name is offered.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def entry(name: str) -> Entry:
    """The catalogue's entry for a name."""
    cls = method_class(name)
    parameters = inspect.signature(cls).parameters
    summary = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return Entry(name, cls.tags, {n: p.default for n, p in parameters.items()}, summary)


def entries() -> Iterator[Entry]:
    """All entries, in the catalogue's order."""
    return (entry(name) for name in METHODS)


def build(text: str) -> Method:
    """A method, or a chain of them, from a spec string.

    Raises:
        UsageError: If a name or an argument does not exist, or if the methods cannot be chained.

    Example:
        >>> build("er(capacity=100)+wa").parts().__next__().capacity
        100
    """
    return chain(*(_one(spec) for spec in parse(text)))


def _one(spec: Spec) -> Method:
    cls = method_class(spec.name)
    return cls(**bind(spec, cls, "method"))


def canonical(text: str) -> str:
    """The spec string in one spelling, whatever its spaces."""
    return "+".join(str(spec) for spec in parse(text))
