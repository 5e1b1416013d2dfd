"""An exponential moving average of the parameters, kept beside them and often the better model.

    average <- decay average + (1 - decay) w        behind every step, from the initial weights on

Source: Polyak, Juditsky, 1992, SIAM J. Control Optim. 30(4), of whose mean this is the forgetful form that Tarvainen,
Valpola, 2017, arXiv 1703.01780, sec. 2 use.
"""

from arch import config, tree


@config.frozen
class Config(config.Config):
    """The average.

    Attributes:
      decay: its share that stays at a step; 0 for no average.
      use: whether evaluations, samples, generation and exports take the average instead of the parameters.
    """

    decay: config.Fraction = 0.0
    use: bool = True

    def check(self):
        if self.decay == 1.0:
            raise ValueError("decay=1.0 must be below 1: the average would stay what it was at first")

    @property
    def in_use(self) -> bool:
        """Whether there is an average, and it is what is evaluated."""
        return bool(self.decay) and self.use


def after(average: tree.Tree, params: tree.Tree, trainable: tree.Tree, decay: float) -> tree.Tree:
    """The average after a step that led to `params`. Leaves that are not trained are taken as they are."""

    def mixed(path, old, new, trained):
        return decay * old + (1 - decay) * new if trained else new

    return tree.map_with_path(mixed, average, params, trainable)
