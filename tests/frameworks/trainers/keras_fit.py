"""Keras' ModelCheckpoint: numbered models, the best model in place, and weights in place."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy
from truth import OUT, SAVES, keep, pause

layout = sys.argv[1]
name = {"numbered": "model-{epoch:02d}.keras", "best": "best.keras", "weights": "model.weights.h5"}[layout]


class Keeper(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        path = OUT / name.format(epoch=epoch + 1)
        keep(path, epoch + 1 if layout == "numbered" else None)
        pause(epoch + 1)


model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1)])
model.compile("adam", "mse")
saver = keras.callbacks.ModelCheckpoint(str(OUT / name), save_weights_only=layout == "weights")
generator = numpy.random.default_rng(1)
inputs = generator.random((64, 8))
model.fit(inputs, inputs.sum(axis=1), epochs=SAVES, verbose=0, callbacks=[saver, Keeper()])
