"""A line, and how to get a better one."""

import numpy as np


def points(count, noise, seed):
    """Points around y = 2 x + 1."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, count)
    return x, 2 * x + 1 + random.normal(0, noise, count)


class Line:
    """y = slope x + offset."""

    def __init__(self):
        self.slope = 0.0
        self.offset = 0.0

    def improve(self, x, y, rate):
        """One step of gradient descent; the loss before it."""
        error = self.slope * x + self.offset - y
        self.slope -= rate * float(np.mean(error * x))
        self.offset -= rate * float(np.mean(error))
        return float(np.mean(error**2))
