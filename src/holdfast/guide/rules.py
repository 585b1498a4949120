"""The rules of the selection guide: what to prefer where, on whose word.

A rule speaks for situations, not for numbers: it puts methods first because of what is there, and
what was measured orders them. Rules are read from the top; all that apply count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from holdfast.guide.situation import Situation


class Rule(NamedTuple):
    """A preference.

    Attributes:
        id: By which reasons name it.
        applies: To which situations.
        prefer: Methods, or chains by the names of their methods, best first where nothing is
            measured.
        because: A sentence.
        basis: Who says so.
    """

    id: str
    applies: Callable[[Situation], bool]
    prefer: tuple[str, ...]
    because: str
    basis: str


def _learns(situation: Situation, kind: str) -> bool:
    return situation.goal == "learn" and situation.kind == kind


RULES = (
    Rule(
        "class-pretrained",
        lambda s: _learns(s, "class") and s.pretrained and s.rows == "none",
        ("ranpac(projections=1000)", "slda", "ncm"),
        "A backbone that knows enough needs no training: class statistics of its features are added"
        " up, and nothing is forgotten; second-order ones tell more than means.",
        "McDonnell et al., 2023; Hayes and Kanan, 2020; Mensink et al., 2013",
    ),
    Rule(
        "class-few",
        lambda s: _learns(s, "class") and s.rows != "none",
        ("er_ace", "scr", "gem", "er", "mir", "der++", "bic", "icarl", "der"),
        "Where classes compete and are never told apart by a task, a few old examples do more than"
        " any penalty.",
        "van de Ven and Tolias, 2019; Buzzega et al., 2020",
    ),
    Rule(
        "class-none",
        lambda s: _learns(s, "class") and s.rows == "none",
        ("ncm", "gpm", "lwf", "wa", "mas"),
        "Without old examples, means of features and protected directions keep what a head that is"
        " trained on new classes alone overwrites.",
        "Mensink et al., 2013; Saha et al., 2021",
    ),
    Rule(
        "task-none",
        lambda s: _learns(s, "task") and s.rows == "none",
        ("packnet", "hat", "lwf", "gpm", "mas"),
        "Where the task is known in use, each may have weights, gates or a softmax of its own, and"
        " nothing old need be overwritten.",
        "Mallya and Lazebnik, 2018; Serrà et al., 2018; Li and Hoiem, 2016",
    ),
    Rule(
        "task-few",
        lambda s: _learns(s, "task") and s.rows != "none",
        ("der", "der++", "icarl", "packnet", "lwf", "hat", "er"),
        "Where the task is known in use, stored outputs or weights of its own keep a task; both may"
        " be had.",
        "Buzzega et al., 2020; Mallya and Lazebnik, 2018",
    ),
    Rule(
        "domain-few",
        lambda s: _learns(s, "domain") and s.rows != "none",
        ("der++", "der", "er", "gem"),
        "Old examples, and what the model said of them, hold the same classes in new conditions.",
        "Buzzega et al., 2020",
    ),
    Rule(
        "domain-none",
        lambda s: _learns(s, "domain") and s.rows == "none",
        ("lwf", "ewc", "si", "mas", "l2"),
        "The classes stay, so that a penalty on weights or answers does not stand in the way of"
        " new ones.",
        "Kirkpatrick et al., 2017; Zenke et al., 2017; Li and Hoiem, 2016",
    ),
    Rule(
        "cpt-old-corpus",
        lambda s: _learns(s, "text") and s.stage in ("cpt", "dap") and s.rows != "none",
        ("replay",),
        "The old corpus is at hand: warm up again, decay again, and give it 5 % of the tokens, 25 %"
        " under a strong shift.",
        "Ibrahim et al., 2024",
    ),
    Rule(
        "cpt-closed",
        lambda s: _learns(s, "text") and s.stage in ("cpt", "dap") and s.rows == "none",
        ("replay(source=self)", "lwf", "l2", "hft"),
        "The old corpus is closed: the model's own text stands in for it, or half of the weights"
        " stay.",
        "Ibrahim et al., 2024; Hui et al., 2024",
    ),
    Rule(
        "abilities-all",
        lambda s: _learns(s, "text") and s.stage == "cft" and s.rows == "all",
        ("dmt", "replay"),
        "All data are at hand: the special abilities first, then the general one with a share of"
        " them.",
        "Dong et al., 2024",
    ),
    Rule(
        "tasks-few",
        lambda s: _learns(s, "text") and s.stage == "cft" and s.rows == "few",
        ("replay", "i_lora", "er+lora"),
        "A tenth of old examples in every batch keeps tasks and the form of their answers.",
        "Wang et al., 2023 (TRACE); Ren et al., 2024",
    ),
    Rule(
        "tasks-none",
        lambda s: _learns(s, "text") and s.stage == "cft" and s.rows == "none",
        ("replay(source=self)", "lwf", "l2", "hft", "o_lora", "migu"),
        "No old text is at hand, but the model is: its own text, its own answers or its own weights"
        " stand in for what it was taught.",
        "Li and Hoiem, 2016; Hui et al., 2024; Wang et al., 2023 (O-LoRA); Du et al., 2024",
    ),
    Rule(
        "drift",
        lambda s: s.goal == "adapt",
        ("eata", "cotta", "tent", "bn_adapt"),
        "Statistics of the test batch alone win most; what also trains must be held to the source"
        " where drift goes on.",
        "Schneider et al., 2020; Niu et al., 2022; Wang et al., 2022",
    ),
    Rule(
        "forget-text",
        lambda s: s.goal == "unlearn" and s.model == "language" and s.rows != "none",
        ("npo+retain", "wga+retain", "npo+retain_kl", "kto+retain", "npo+lwf"),
        "A loss that fades once an answer is forgotten, beside one on what is to stay; plain ascent"
        " ruins the model.",
        "Zhang et al., 2024; Wang et al., 2025",
    ),
    Rule(
        "forget-text-alone",
        lambda s: s.goal == "unlearn" and s.model == "language" and s.rows == "none",
        ("undial", "npo", "simnpo"),
        "Nothing says what is to stay, so that the loss must end by itself.",
        "Zhang et al., 2024; Dong et al., 2024",
    ),
    Rule(
        "forget-examples",
        lambda s: s.goal == "unlearn" and s.model == "classifier" and s.rows != "none",
        ("finetune_retain", "l1_sparse", "eu_k", "random_labels", "salun"),
        "Going on with what stays, with weights made sparse or drawn anew on the way, comes"
        " nearest to training without the rest.",
        "Jia et al., 2023; Goel et al., 2022; Fan et al., 2024",
    ),
    Rule(
        "facts",
        lambda s: s.goal == "edit",
        ("grace", "ft_m", "wise(mode=retrieve)", "wise", "memit", "rome"),
        "Many edits one after another wear weights out; what lies beside them leaves other answers"
        " as they are.",
        "Hartvigsen et al., 2023; Wang et al., 2024",
    ),
)
