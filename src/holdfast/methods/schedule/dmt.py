"""DMT: special abilities first, then the general one with a little of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.streams.language.composition import IGNORED, fraction_in_range, subset

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class DMT(Method):
    """DMT: train on all special abilities together, then on the general one and a share k of them.

    The last experience of the stream is the general ability and those before it are the special
    ones. All of these are learned together in place of the first; the others of them bring no
    training, so their rows of the matrix repeat the first. The last experience is trained on its
    own examples and on the share k of each earlier one's: a part of what was seen before, drawn
    once. Each of the two stages has a fresh optimizer and a whole schedule.

    Args:
        k: Share of every earlier experience's examples that comes back with the last, 0 to 1; 0:
            mixed sequential training. `1/256` may be written so.
        seed: Of the share. Smaller shares are subsets of larger ones.

    Raises:
        UsageError: If k is out of range.

    Source:
        Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning
        Data Composition" (2024).
    """

    tags = Tags(
        family="schedule",
        title=(
            "How Abilities in Large Language Models are Affected by Supervised Fine-tuning Data "
            "Composition"
        ),
        source="Dong et al., 2024",
        scenarios=ALL_KINDS,
        needs=frozenset({"past data", "boundaries"}),
    )

    def __init__(self, k: float = 1 / 256, seed: int = 0) -> None:
        super().__init__()
        fraction_in_range(k)
        self.k, self.seed = k, seed

    def setup(self, learner: Learner) -> None:
        from holdfast.learner import Learner as Own

        if not isinstance(learner, Own):
            raise UsageError(
                "DMT must have all experiences before it, as in holdfast's own loop: in another "
                "trainer, train on holdfast.streams.language.composition.stages one by one."
            )

    def expand(self, learner: Learner, experience: Experience) -> None:
        grow = getattr(getattr(learner.model, "head", None), "grow", None)
        if grow is not None:  # the first stage has the classes of later experiences
            assert learner.stream is not None
            grow(learner.stream.classes)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if hasattr(learner, "optimizer"):  # there is none where nothing is trained
            learner.optimizer.state.clear()

    def select(self, learner: Learner, table: Table) -> Table:
        assert learner.stream is not None
        *special, general = learner.stream
        if not special:
            return table
        if learner.index == 0:
            return Table.concat([table, *(e.train for e in special[1:])])
        if learner.index < general.index:
            return table.take(slice(0, 0))
        if not self.k:
            return table
        share = [subset(e.train, self.k, self.seed, str(e.index)) for e in special]
        return Table.concat([table, *share])

    def end(self, learner: Learner, experience: Experience) -> None:
        assert learner.batches is not None
        table = learner.batches.table
        if not len(table):
            return
        spent: dict[str, int] = {"examples": len(table)}
        if "labels" in table:
            spent["tokens"] = int((table["labels"] != IGNORED).sum())
        learner.note(epochs=learner.epochs, updates=learner.step, **spent)
