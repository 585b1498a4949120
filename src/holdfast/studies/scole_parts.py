"""Parts of the study of long recurring streams: the paper's small network, and probes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.learner import Learner


class SmallConv(nn.Module):
    """The paper's network for images of 28x28: two convolutions of 5x5 and a layer of 50 units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(320, 50), nn.ReLU(),
        )  # fmt: skip
        self.width = 50

    def forward(self, x: Float[Tensor, "examples 1 28 28"]) -> Float[Tensor, "examples 50"]:
        features: Tensor = self.layers(x)
        return features


def probes(learner: Learner, train: Table, test: Table) -> tuple[float, float]:
    """Accuracy that a linear classifier and five nearest neighbours get from the features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, asked = (learner.features(table).cpu().numpy() for table in (train, test))
    y, truth = train["y"].cpu().numpy(), test["y"].cpu().numpy()
    found = []
    for classifier in (LogisticRegression(max_iter=500), KNeighborsClassifier(5)):
        model = make_pipeline(StandardScaler(), classifier).fit(known, y)
        found.append(float(model.score(asked, truth)))
    return found[0], found[1]
