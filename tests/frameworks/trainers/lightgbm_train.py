"""LightGBM's ``save_model`` in a callback: ``model_N.txt``."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy
from truth import OUT, SAVES, keep, pause


def save(environment: Any) -> None:
    number = environment.iteration + 1
    environment.model.save_model(OUT / f"model_{number}.txt")
    keep(OUT / f"model_{number}.txt", number)
    pause(number)


inputs = numpy.random.default_rng(1).random((512, 4))
data = lightgbm.Dataset(inputs, inputs.sum(axis=1))
lightgbm.train({"verbose": -1, "num_threads": 1, "objective": "regression"}, data, SAVES, callbacks=[save])
