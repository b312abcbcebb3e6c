"""Stable-Baselines3's CheckpointCallback: ``model_N_steps.zip``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback
from truth import OUT, SAVES, keep, pause


class Room(gymnasium.Env):  # type: ignore
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        return numpy.zeros(2, numpy.float32), {}

    def step(self, action: Any) -> Any:
        return numpy.zeros(2, numpy.float32), 1.0, False, False, {}


class Keeper(CheckpointCallback):
    def _on_step(self) -> bool:
        goes_on = super()._on_step()
        if self.n_calls % self.save_freq == 0:
            keep(Path(self._checkpoint_path(extension="zip")), self.num_timesteps)
            pause(self.n_calls // self.save_freq)
        return goes_on


saver = Keeper(save_freq=8, save_path=str(OUT), name_prefix="model")
PPO("MlpPolicy", Room(), n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8 * SAVES, callback=saver)
