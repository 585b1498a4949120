"""Neuron-Fusion: can a model that learned to see get its language back from weights alone?

Claim: visual instruction tuning costs a language model some of its language; keeping the change of
the neurons that changed most, and attenuating that of the others, gives language back and keeps
sight, better than other rules of merging do.

Source: Yu and Ananiadou, "Locate-then-Merge: Neuron-Level Parameter Fusion for Mitigating
Catastrophic Forgetting in Multimodal LLMs" (2025).

Run: a small Llama learns to answer short questions of real text. With a small vision tower that
was trained to tell pictures apart, and a projector, it becomes a `LlavaForConditionalGeneration`
and learns to answer questions about scenes of real pictures: what, how many, which colour; first
the projector alone, then the language model with it, as LLaVA's two stages are. Then the language
model in it is merged with the one before, by every rule over a grid of its settings; tower and
projector stay. Settings are chosen on validation questions and judged on others.

Arms: visual tuning at its rate, and at half of it. Controls: neurons that changed little, neurons
at random, single entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.evaluation import undisturbed
from holdfast.language.generate import generate
from holdfast.language.objective import CausalLM
from holdfast.learner import Learner
from holdfast.merge import merge_states
from holdfast.merge.changes import Held, Inputs
from holdfast.merge.locating import Located, locate
from holdfast.objective import Objective
from holdfast.stream import Experience, Stream
from holdfast.streams.language import python
from holdfast.studies import scenes, text_abilities
from holdfast.studies.grads import base_model
from holdfast.studies.study import (
    Claim,
    Condition,
    Figure,
    Grid,
    Measured,
    Results,
    Scale,
    Settings,
    Study,
    shown,
)
from holdfast.studies.svg import Panel, Series, draw
from holdfast.studies.text_abilities import exact_match, token_loss

FULL, SLOW = "visual tuning", "at half the rate"
ARMS: dict[str, Mapping[str, Any]] = {FULL: {"controls": True}, SLOW: {"rate": 0.5}}

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = (0.1, 0.2, 0.4)
RESTS = (0.0, 0.25, 0.5, 0.75)
FUSION = "Neuron-Fusion"
ARITHMETIC, TIES, DARE, AVERAGE = "task arithmetic", "TIES", "DARE", "averaging"
SMALL, RANDOM, ENTRIES, ROWS = "small changes", "random neurons", "single entries", "rows"
FAMILIES: dict[str, tuple[str, ...]] = {
    AVERAGE: ("wise_ft(alpha=0.5)",),
    ARITHMETIC: tuple(f"task_arithmetic(scale={scale})" for scale in TENTHS),
    TIES: tuple(
        f"ties(density={density}, scale={scale})"
        for density in (0.1, 0.2, 0.5)
        for scale in (0.6, 0.8, 1.0, 1.3)
    ),
    DARE: tuple(
        f"dare(drop={drop}, scale={scale})"
        for drop in (0.3, 0.5, 0.8)
        for scale in (0.3, 0.5, 0.7, 0.9)
    ),
    FUSION: tuple(
        f"neuron_fusion(share={share}, rest={rest})" for share in SHARES for rest in RESTS
    ),
    **{
        name: tuple(
            f"neuron_fusion(share={share}, rest={rest}, {how})"
            for share in SHARES
            for rest in RESTS
        )
        for name, how in (
            (SMALL, "choose=small"),
            (RANDOM, "choose=random"),
            (ENTRIES, "unit=entry"),
            (ROWS, "attention=row"),
        )
    },
}
"""What is merged by: a rule, over a grid of as many settings where it has two."""
RIVALS = (ARITHMETIC, TIES, DARE)
CONTROLS = (SMALL, RANDOM, ENTRIES, ROWS)
AT = "share=0.2, rest=0.0"
"""Where controls are compared at one setting: what the located neurons hold alone."""
ENOUGH = 0.9
"""Share of sight at which rules are also compared by the language that is left."""


def arms(scale: Scale) -> dict[str, Settings]:
    """The setting at a scale, changed by every arm.

    Learning rates, sizes and epochs were fixed on seed 100, which no verdict uses: so that both
    trainings learn what they are for, and visual tuning clearly costs language.
    """
    quick = scale == "quick"
    data = scale == "data"
    base: Settings = {
        "stream": f"short answers, then scenes of {'clothing' if data else 'digits'}",
        "size": "random" if quick else "1M",
        "abilities": ["news", "intents", "topics"] if data else ["calls", "modules", "topics"],
        "examples": 20 if quick else 800,
        "answers": 8,
        "epochs": 1 if quick else 4,
        "lr": 1e-3,
        "pictures": "fashion" if data else "digits",
        "tower_scenes": 40 if quick else 4000,
        "tower_epochs": 1 if quick else 3,
        "scenes": 24 if quick else 3000,
        "align_epochs": 1,
        "align_lr": 2e-3,
        "visual_epochs": 1 if quick else 3,
        "visual_lr": 3e-4,
        "rate": 1.0,
        "batch_size": 16,
        "test": 12 if quick else 100,
        "probe": 2 if quick else 16,
        "every": 4 if quick else 1,
        "controls": False,
    }
    if quick:
        base["abilities"] = ["topics"]
    return {arm: {**base, **changes} for arm, changes in ARMS.items()}


class Seeing(CausalLM):
    """Prediction of tokens by a model that is shown pictures beside them."""

    inputs = (*CausalLM.inputs, "pixel_values")


class Base(NamedTuple):
    """A language model with abilities, and eyes that it does not have yet."""

    model: Any
    tokenizer: Any
    tower: Any
    language: dict[str, dict[str, Table]]
    prompts: list[list[int]]
    english: Table
    sight: dict[str, Table]
    train: Table
    words: frozenset[str]


def measure(settings: Settings, seed: int) -> Measured:
    """One tuning, and every merge of it."""
    own = ("rate", "stream", "controls", "every")
    names = [name for name in settings if name not in own]
    base = _base(tuple((name, _frozen(settings[name])) for name in names), seed)
    tuned = seeing(base, seed)
    learn_to_see(tuned, base.train, settings, seed)
    before, after, image = split(base.model, tuned)
    ends = {
        "base": _scores(base, tuned, {**before}, image),
        "tuned": _scores(base, tuned, {**after}, image),
    }
    points: dict[str, dict[str, dict[str, float]]] = {}
    for name, specs in tried(settings).items():
        for spec in specs:
            merged = merge_states(spec, [after], before, base.model)
            found = _scores(base, tuned, merged, image)
            points.setdefault(name, {})[spec] = share_of(found, ends)
    located = locate_in(base.model, before, after)
    put(tuned, after, image)
    return {
        "language": ends["base"]["test"]["language"],
        "language_tuned": ends["tuned"]["test"]["language"],
        "english": ends["tuned"]["test"]["english"] - ends["base"]["test"]["english"],
        "sight": ends["tuned"]["test"]["sight"],
        "points": points,
        "places": located.by_place(),
        "overlap": overlap(tuned, base, located),
        "unsupported": unsupported(base, tuned, before, after, image, points),
    }


def tried(settings: Settings) -> dict[str, list[str]]:
    """The settings of every rule that an arm tries; controls at equal rate alone."""
    return {
        name: [s for at, s in enumerate(specs) if at % settings["every"] == 0 or AT in s]
        for name, specs in FAMILIES.items()
        if settings["controls"] or name not in CONTROLS
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=1)  # all arms of a seed begin with the same
def _base(given: tuple[tuple[str, Any], ...], seed: int) -> Base:
    settings = dict(given)
    start, tokenizer = base_model(settings["size"])
    model, tokenizer = deepcopy(start), deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [scenes.IMAGE]})
    language: dict[str, dict[str, Table]] = {"validation": {}, "test": {}}
    parts, prompts = [], []
    for name in settings["abilities"]:
        found = text_abilities.ability(
            name, settings["examples"], 2 * settings["test"], seed, settings["answers"]
        )
        half = len(found.test) // 2
        language["validation"][name] = text_abilities.tabled(found.test[:half], tokenizer)
        language["test"][name] = text_abilities.tabled(found.test[half:], tokenizer)
        parts.append(text_abilities.tabled(found.train, tokenizer))
        prompts += [_asked(tokenizer, sample) for sample in found.test[half : half + 40]]
    learn(
        model, scenes.joined(parts), settings["lr"], settings["epochs"], settings["batch_size"],
        seed, CausalLM(),
    )  # fmt: skip
    source, test = settings["pictures"], settings["test"]
    made = {
        "train": scenes.scenes(source, settings["scenes"], seed),
        "validation": scenes.scenes(source, test, seed + 1, held_out=True),
        "test": scenes.scenes(source, test, seed + 2, held_out=True),
    }
    tower = eyes(scenes.scenes(source, settings["tower_scenes"], seed + 3), settings, seed)
    sight = {part: made[part].asked(tokenizer) for part in ("validation", "test")}
    words = {answer for at in range(len(made["train"])) for answer in made["train"].answers(at)}
    return Base(
        model, tokenizer, tower, language, prompts,
        text_abilities.texts(python.documentation, tokenizer, settings["probe"]),
        sight, made["train"].asked(tokenizer), frozenset(words),
    )  # fmt: skip


def _asked(tokenizer: Any, sample: Any) -> list[int]:
    ids: list[int] = tokenizer(str(sample.prompt))["input_ids"]
    return ids[-text_abilities.LENGTH :]


def learn_to_see(tuned: Any, table: Table, settings: Settings, seed: int) -> None:
    """Visual instruction tuning in two stages, as LLaVA's: the projector alone, then all but eyes.

    The arm's rate counts for the second stage, which is what costs language.
    """
    rows, inside = settings["batch_size"], tuned.model.language_model
    inside.requires_grad_(False)
    learn(tuned, table, settings["align_lr"], settings["align_epochs"], rows, seed, Seeing())
    inside.requires_grad_(True)
    rate = settings["visual_lr"] * settings["rate"]
    learn(tuned, table, rate, settings["visual_epochs"], rows, seed, Seeing())


def learn(
    model: Any, table: Table, lr: float, epochs: int, rows: int, seed: int, objective: Any
) -> None:
    """Train a model on one table."""
    stream = Stream("answers", [Experience(0, table, table.take(slice(0, 2)), ())], "text", 0, ())
    Learner(
        model,
        optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.0),
        objective=objective,
        epochs=epochs,
        batch_size=rows,
        clip=1.0,
        pretrained=True,
        seed=seed,
    ).learn(stream)


class Sorting(nn.Module):
    """A vision tower with three heads: what, how many, which colour."""

    def __init__(self, tower: nn.Module, width: int, kinds: int) -> None:
        super().__init__()
        self.tower = tower
        self.heads = nn.Linear(width, kinds + scenes.PLACES + len(scenes.COLOURS))
        self.sizes = (kinds, scenes.PLACES, len(scenes.COLOURS))

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.tower(pixel_values=pixels).last_hidden_state
        found: Tensor = self.heads(states[:, 1:].mean(1))
        return found


class Looking(Objective):
    """All three questions about a scene at once."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        outputs: Tensor = model(batch["x"])
        return outputs

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        parts = zip(outputs.split(self.sizes, 1), batch["seen"].T, strict=True)
        each = [nn.functional.cross_entropy(part, y, reduction="none") for part, y in parts]
        return torch.stack(each).sum(0)

    def scores(self, outputs: Tensor, batch: Batch) -> Tensor:
        parts = zip(outputs.split(self.sizes, 1), batch["seen"].T, strict=True)
        return torch.stack([part.argmax(1) == y for part, y in parts]).float().mean(0)


def eyes(made: scenes.Scenes, settings: Mapping[str, Any], seed: int) -> Any:
    """A small CLIP vision tower that tells pictures, numbers and colours apart."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    side = scenes.sides(made)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        image_size=side, patch_size=side // 4, num_channels=3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sorting = Sorting(CLIPVisionModel(config), 64, len(made.names))
    seen = torch.stack([made.kind, made.count - 1, made.colour], 1)
    table = Table({"x": made.pixels, "y": made.kind, "seen": seen})
    stream = Stream(
        "scenes", [Experience(0, table, table.take(slice(0, 2)), tuple(range(len(made.names))))],
        "domain", len(made.names), tuple(made.pixels.shape[1:]),
    )  # fmt: skip
    Learner(
        sorting,
        optimizer=partial(torch.optim.AdamW, lr=2e-3),
        objective=Looking(sorting.sizes),
        epochs=settings["tower_epochs"],
        batch_size=32,
        seed=seed,
    ).learn(stream)
    return sorting.tower


def seeing(base: Base, seed: int) -> Any:
    """The language model with the tower and an untrained projector, one token richer."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = deepcopy(base.model.config)
    text.vocab_size = len(base.tokenizer)
    config = LlavaConfig(
        vision_config=base.tower.config,
        text_config=text,
        image_token_index=base.tokenizer.convert_tokens_to_ids(scenes.IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=scenes.PATCHES,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(text, name))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    inside = {n: p for n, p in model.named_parameters() if "vision_tower" in n}
    given = dict(base.tower.named_parameters())
    with torch.no_grad():
        for name, parameter in inside.items():
            own = name.split("vision_tower.")[1]
            parameter.copy_(given[own] if own in given else given[f"vision_model.{own}"])
            parameter.requires_grad_(False)
    _, _, image = split(base.model, model)
    put(model, {n: t.clone() for n, t in base.model.state_dict().items()}, image)
    return model


INSIDE = "model.language_model."


def split(model: Any, tuned: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The language model before, the one inside a seeing model, and that one's added rows."""
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    own = tuned.state_dict()
    after, image = {}, {}
    for name, tensor in before.items():
        there = own[_within(name)].detach()
        after[name] = there[: len(tensor)].clone()
        image[name] = there[len(tensor) :].clone()
    return before, after, image


def put(tuned: Any, state: Mapping[str, Tensor], image: Mapping[str, Tensor]) -> None:
    """Put the weights of a language model into a seeing one, whose added rows stay."""
    own = tuned.state_dict()
    for name, tensor in state.items():
        own[_within(name)].copy_(torch.cat([tensor, image[name]]))


def _within(name: str) -> str:
    return name.replace("model.", INSIDE, 1) if name.startswith("model.") else name


def retained(tuned: Any, base: Base, part: str) -> dict[str, float]:
    """What a model can do: language, sight, and its loss on English."""
    texts = base.language[part].values()
    found = {
        "language": float(np.mean([exact_match(tuned, table) for table in texts])),
        "sight": exact_match(tuned, base.sight[part], Seeing()),
    }
    if part == "test":
        found["english"] = token_loss(tuned, base.english)
    return found


def _scores(
    base: Base, tuned: Any, state: Mapping[str, Tensor], image: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    put(tuned, state, image)
    return {part: retained(tuned, base, part) for part in ("validation", "test")}


def share_of(
    found: Mapping[str, Mapping[str, float]], ends: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> dict[str, float]:
    """Language as a share of the base's and sight as one of the tuned model's, on both parts."""
    shares: dict[str, float] = {}
    for part in ("validation", "test"):
        for what, end in (("language", "base"), ("sight", "tuned")):
            whole = ends[end][part][what]
            shares[f"{part} {what}"] = found[part][what] / whole if whole else float("nan")
    shares["english"] = found["test"]["english"] - ends["base"]["test"]["english"]
    return shares


def locate_in(model: Any, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Located:
    """The neurons that changed most."""
    shapes = {name: tuple(tensor.shape) for name, tensor in before.items()}
    return locate(Inputs([Held(after)], Held(before), shapes, lambda: model), share=0.2)


def overlap(tuned: Any, base: Base, located: Located) -> float:
    """Share of the feed-forward neurons located that are among as many that matter to sight.

    What matters is the mean magnitude of activation times gradient of the loss on questions about
    held-out scenes, within each block. By chance it is the share located, 0.2.
    """
    worth: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            given[0].register_hook(
                lambda gradient: worth.__setitem__(
                    name, (gradient * given[0].detach()).abs().flatten(0, -2).sum(0)
                )
            )

        return hook

    layers = tuned.model.language_model.layers
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(watch(f"model.layers.{at}"))
        for at, layer in enumerate(layers)
    ]
    objective, batch = Seeing(), base.sight["validation"].columns
    with undisturbed(tuned), torch.enable_grad():
        objective.loss(objective.forward(tuned, batch), batch).backward()
    tuned.zero_grad()
    for hook in hooks:
        hook.remove()
    shares = []
    for place, flags in zip(located.places, located.chosen, strict=True):
        if place.kind == "feedforward":
            count = int(flags.sum())
            top = worth[place.name].topk(count).indices
            shares.append(float(flags[top].float().mean()))
    return float(np.mean(shares))


def unsupported(
    base: Base,
    tuned: Any,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    image: Mapping[str, Tensor],
    points: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, float]:
    """Share of answers to questions of text that speak of a scene, which there is none of."""
    found = {}
    merged = {
        name: merge_states(best_of(points[name]), [after], before, base.model)
        for name in (ARITHMETIC, FUSION)
    }
    for name, state in {"tuned": after, **merged}.items():
        put(tuned, state, image)
        answers = generate(tuned, base.tokenizer, base.prompts, max_new_tokens=5)
        spoken = [answer.strip().split(" ")[0] in base.words for answer in answers]
        found[name] = float(np.mean(spoken))
    return found


def best_of(points: Mapping[str, Mapping[str, float]]) -> str:
    """The setting with the largest mean of both shares, on validation questions."""
    return max(points, key=lambda spec: _mean(points[spec], "validation"))


def _mean(point: Mapping[str, float], part: str = "test") -> float:
    return (point[f"{part} language"] + point[f"{part} sight"]) / 2


def _chosen(run: Measured, family: str) -> dict[str, float]:
    points = run["points"][family]
    found: dict[str, float] = points[best_of(points)]
    return found


def _means(arm: str, family: str) -> Callable[[Results], list[float]]:
    return lambda results: [_mean(_chosen(run, family)) for run in results.runs[arm]]


def _minus(
    one: Callable[[Results], list[float]], other: Callable[[Results], list[float]]
) -> Callable[[Results], list[float]]:
    return lambda results: [a - b for a, b in zip(one(results), other(results), strict=True)]


def _language_at(run: Measured, family: str) -> float:
    """Language that is left at the settings whose sight is enough, chosen on validation."""
    points = run["points"][family].values()
    enough = [p for p in points if p["validation sight"] >= ENOUGH]
    best = max(enough, key=lambda p: p["validation language"], default=None)
    return float("nan") if best is None else float(best["test language"])


def _alone(run: Measured, family: str, what: str) -> float:
    """A share with the located neurons' change alone."""
    points = run["points"][family]
    found = next(p for spec, p in points.items() if AT in spec)
    return float(found[f"test {what}"])


def _better(family: str, by: float = 0.0, arm: str = FULL, other: str = "") -> Condition:
    one, two = (FUSION, family) if not other else (family, other)
    return Condition(
        f"mean of both shares{'' if arm == FULL else ', at half the rate'}: {one} minus {two}",
        _minus(_means(arm, one), _means(arm, two)),
        by,
    )


CLAIMS = (
    Claim(
        "Visual instruction tuning teaches to see, and costs language.",
        (
            Condition(
                "share of questions about scenes that are answered",
                lambda results: results.values(FULL, "sight"),
                0.5,
            ),
            Condition(
                "share of its language that the model loses",
                lambda results: [
                    1 - run["language_tuned"] / run["language"] for run in results.runs[FULL]
                ],
                0.05,
            ),
        ),
    ),
    Claim(
        "Neuron-Fusion keeps more of both than averaging, task arithmetic, TIES and DARE.",
        (_better(AVERAGE, 0.01), *(_better(name, 0.01) for name in RIVALS)),
    ),
    Claim(
        "Where nine tenths of sight are kept, it leaves more language than they do.",
        tuple(
            Condition(
                f"language left: Neuron-Fusion minus {name}",
                lambda results, name=name: [  # type: ignore[misc]
                    _language_at(run, FUSION) - _language_at(run, name)
                    for run in results.runs[FULL]
                ],
            )
            for name in RIVALS
        ),
    ),
    Claim(
        "Sight lies in the neurons that changed much: their change alone keeps far more of it than "
        "that of as many neurons that changed little.",
        (
            Condition(
                f"sight kept by large minus small changes ({AT})",
                lambda results: [
                    _alone(run, FUSION, "sight") - _alone(run, SMALL, "sight")
                    for run in results.runs[FULL]
                ],
                0.1,
            ),
            Condition(
                "share of the located neurons that matter to sight, less chance",
                lambda results: [run["overlap"] - 0.2 for run in results.runs[FULL]],
            ),
        ),
    ),
    Claim(
        "It matters which neurons are kept: chance does no better than task arithmetic, and worse "
        "than what changed much.",
        (
            _better(RANDOM, 0.01),
            Condition(
                "mean of both shares: random neurons minus task arithmetic",
                _minus(_means(FULL, RANDOM), _means(FULL, ARITHMETIC)),
                0.01,
                "below",
            ),
        ),
        by="us",
    ),
    Claim(
        "It matters that units are neurons: as many single entries keep less.",
        (_better(ENTRIES),),
        by="us",
    ),
    Claim(
        "The gain is there where tuning at half the rate has cost less language.",
        (_better(ARITHMETIC, 0.01, SLOW),),
        by="us",
    ),
    Claim(
        "It answers questions of text less often with what only a scene would support.",
        (
            Condition(
                "share of such answers: tuned minus Neuron-Fusion",
                lambda results: [
                    run["unsupported"]["tuned"] - run["unsupported"][FUSION]
                    for run in results.runs[FULL]
                ],
            ),
        ),
    ),
)


def grids(results: Results) -> list[Grid]:
    rows = []
    for arm in ARMS:
        for name in results.runs[arm][0]["points"]:
            chosen = [_chosen(run, name) for run in results.runs[arm]]
            rows.append(
                (
                    f"{arm}: {name}",
                    shown([p["test language"] for p in chosen]),
                    shown([p["test sight"] for p in chosen]),
                    shown([_mean(p) for p in chosen]),
                    shown([_language_at(run, name) for run in results.runs[arm]]),
                    shown([p["english"] for p in chosen], percent=False),
                )
            )
    places = results.runs[FULL][0]["places"]
    spread = [
        (
            place["place"] + " " + place["kind"],
            *(
                shown(
                    [run["places"][at][key] * factor for run in results.runs[FULL]], key == "share"
                )
                for key, factor in (
                    ("mean", 1000),
                    ("median", 1000),
                    ("largest", 1000),
                    ("share", 1),
                )
            ),
        )
        for at, place in enumerate(places)
    ]
    ends = [
        (
            arm,
            shown(results.values(arm, "language")),
            shown(results.values(arm, "language_tuned")),
            shown(results.values(arm, "sight")),
            shown(results.values(arm, "english"), percent=False),
            shown(results.values(arm, "overlap")),
            *(shown([r["unsupported"][n] for r in results.runs[arm]]) for n in ("tuned", FUSION)),
        )
        for arm in ARMS
    ]
    return [
        Grid(
            "Before merging: answers that are right, in percent",
            ("arm", "language before", "language tuned", "sight", "English rise, nats",
             "overlap with what matters", "unsupported, tuned", "unsupported, Neuron-Fusion"),
            tuple(ends),
        ),
        Grid(
            "Settings chosen on validation questions: shares of the base's language and of the "
            "tuned model's sight, in percent",
            ("rule", "language", "sight", "mean", "language at 90 % of sight",
             "English rise, nats"),
            tuple(rows),
        ),
        Grid(
            "Where neurons changed: root mean square by 1000, and the place's share in percent",
            ("place", "mean", "median", "largest", "share"),
            tuple(spread),
        ),
    ]  # fmt: skip


def figures(results: Results) -> list[Figure]:
    """Each rule's settings: language left against sight kept, means over seeds."""

    def frontier(arm: str, name: str) -> Series:
        runs = results.runs[arm]
        points = sorted(
            (
                float(np.mean([run["points"][name][spec]["test sight"] for run in runs])),
                float(np.mean([run["points"][name][spec]["test language"] for run in runs])),
            )
            for spec in runs[0]["points"][name]
        )
        upper: list[tuple[float, float]] = []
        for point in reversed(points):
            if not upper or point[1] > upper[-1][1]:
                upper.append(point)
        upper.reverse()
        return Series(name, [100 * x for x, _ in upper], [100 * y for _, y in upper])

    def panel(arm: str, names: Sequence[str]) -> Panel:
        return Panel(
            arm, "sight kept, %", "language left, %", [frontier(arm, name) for name in names]
        )

    return [
        Figure(
            "frontier",
            "What each rule's best settings leave of the language and keep of sight.",
            draw([panel(arm, (*RIVALS, FUSION)) for arm in ARMS]),
        ),
        Figure(
            "controls",
            "The same for Neuron-Fusion and its controls.",
            draw([panel(FULL, (FUSION, *CONTROLS))]),
        ),
    ]


STUDY = Study(
    name="neuron-fusion",
    title="Locate-then-Merge: Neuron-Level Parameter Fusion for Mitigating Catastrophic "
    "Forgetting in Multimodal LLMs",
    source="Yu and Ananiadou, 2025",
    claim="Keeping the change of the neurons that changed most, and attenuating the rest, gives a "
    "model that learned to see its language back.",
    minutes={"data": 25, "digits": 20, "quick": 1},
    data=("fashion-mnist", "cl15/agnews_train.jsonl.gz", "clinc150/train.jsonl.gz"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "A Llama of a million weights with a vision tower of a hundred thousand; the paper has "
        "models of 7 and 8 billion weights and thirteen benchmarks.",
        "Language is three kinds of short answers and the loss on documentation; sight is three "
        "questions about scenes of real pictures.",
        "Settings of every rule are chosen on validation questions of both kinds, over grids of "
        "about the same size.",
        "A hallucination is counted where a question of text is answered with a word that only "
        "scenes have, which is narrower than the paper's reading of answers by a judge.",
    ),
)
