"""XGBoost's TrainingCheckPoint: ``model_N.ubj``."""

from __future__ import annotations

from typing import Any

import numpy
import xgboost
from truth import OUT, SAVES, keep, pause


class Keeper(xgboost.callback.TrainingCallback):
    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if epoch:  # the saver lets the first round pass
            keep(OUT / f"model_{epoch}.ubj", epoch)
            pause(epoch)
        return False


inputs = numpy.random.default_rng(1).random((64, 4))
data = xgboost.DMatrix(inputs, inputs.sum(axis=1))
saver = xgboost.callback.TrainingCheckPoint(str(OUT), name="model", interval=1)
xgboost.train({"max_depth": 3, "nthread": 1}, data, SAVES + 1, callbacks=[saver, Keeper()])
