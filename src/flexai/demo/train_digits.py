"""Train a small neural network on handwritten digits, writing checkpoints as the Transformers Trainer does.

    python examples/train_digits.py                     # train; checkpoints go to ./output-checkpoint
    python examples/train_digits.py --evaluate output-checkpoint/checkpoint-2000

Run by `flexai training run`, it writes where FLEXAI_OUTPUT_CHECKPOINT_DIR says and, when FLEXAI_INPUT_CHECKPOINT_DIR
is set, continues from the checkpoint there, exactly as if it had never stopped. It needs numpy and scikit-learn (for
the data: 1797 real digits in its wheel) and nothing of flexai: any program that writes folders can be captured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

BATCH = 4
Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


def split_digits() -> tuple[Array, Array, Array, Array]:
    """Images and labels to train on, and a fifth of all held out: the same split in every run."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    fifth = len(labels) // 5
    return images[fifth:], labels[fifth:], images[:fifth], labels[:fifth]


def new_model(hidden: int, rng: np.random.Generator) -> Tensors:
    """One hidden layer of rectifiers between 64 pixels and 10 digits."""
    return {
        "hidden.weight": rng.normal(0, 64**-0.5, (64, hidden)).astype(np.float32),
        "hidden.bias": np.zeros(hidden, np.float32),
        "output.weight": rng.normal(0, hidden**-0.5, (hidden, 10)).astype(np.float32),
        "output.bias": np.zeros(10, np.float32),
    }


def forward(model: Tensors, images: Array) -> tuple[Array, Array]:
    """The hidden layer's output, and for each image the probability of each digit."""
    hidden = np.maximum(images @ model["hidden.weight"] + model["hidden.bias"], 0)
    scores = hidden @ model["output.weight"] + model["output.bias"]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, weights / weights.sum(axis=1, keepdims=True)


def cross_entropy(chances: Array, labels: Array) -> float:
    """How surprised the model is by the right answers, on average."""
    return -float(np.log(chances[np.arange(len(labels)), labels] + 1e-12).mean())


def gradients(model: Tensors, images: Array, labels: Array) -> tuple[float, Tensors]:
    """The loss on a batch, and its gradient by back-propagation."""
    hidden, chances = forward(model, images)
    error = (chances - np.eye(10, dtype=np.float32)[labels]) / len(labels)
    back = (error @ model["output.weight"].T) * (hidden > 0)
    slopes = (images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0))
    return cross_entropy(chances, labels), dict(zip(model, slopes, strict=True))


def adam(model: Tensors, moments: Tensors, gradient: Tensors, step: int, rate: float) -> None:
    """One step of the Adam optimizer, in place."""
    for name, slope in gradient.items():
        mean, square = moments[f"{name}.mean"], moments[f"{name}.square"]
        mean += 0.1 * (slope - mean)
        square += 0.001 * (slope**2 - square)
        model[name] -= rate / (1 - 0.9**step) * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)


def evaluate(model: Tensors, images: Array, labels: Array) -> dict[str, float]:
    """The loss on held-out digits, and the share of them that the model reads correctly."""
    _, chances = forward(model, images)
    right = chances.argmax(axis=1) == labels
    return {"eval_loss": cross_entropy(chances, labels), "eval_accuracy": float(right.mean())}


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """The safetensors format: the header's length, the header as JSON, then the tensors back to back."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4").tobytes())


def read_safetensors(path: Path) -> Tensors:
    """What `write_safetensors` wrote."""
    data = path.read_bytes()
    body = 8 + struct.unpack_from("<Q", data)[0]
    tensors = {}
    for name, entry in json.loads(data[8:body]).items():
        start, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[body + start : body + end], "<f4").reshape(entry["shape"]).copy()
    return tensors


def write_json(path: Path, document: Any) -> None:
    """Readable JSON."""
    path.write_text(json.dumps(document, indent=2) + "\n")


def save_model(folder: Path, model: Tensors) -> None:
    """The weights and what they are: all that inference needs."""
    folder.mkdir(parents=True, exist_ok=True)
    # Under this name Transformers records the version of the library that wrote the model: here, of this program.
    library = {"architectures": ["DigitsMLP"], "transformers_version": "1.0.0"}
    sizes = {"input_size": 64, "hidden_size": len(model["hidden.bias"]), "num_labels": 10}
    write_json(folder / "config.json", library | sizes)
    write_safetensors(folder / "model.safetensors", model)


def train(options: argparse.Namespace, output: Path, start: Path | None) -> None:
    """Train from scratch, or on from the checkpoint in `start`."""
    images, labels, test_images, test_labels = split_digits()
    rng = np.random.default_rng(options.seed)
    model = new_model(options.hidden, rng)
    moments = {f"{name}.{kind}": np.zeros_like(model[name]) for name in model for kind in ("mean", "square")}
    state: dict[str, Any] = {"global_step": 0, "epoch": 0.0, "log_history": []}
    if start is not None:
        if not (start / "trainer_state.json").exists():
            raise SystemExit(f"{start} holds a model only: training cannot go on without trainer_state.json")
        model = read_safetensors(start / "model.safetensors")
        moments = read_safetensors(start / "optimizer.safetensors")
        rng.bit_generator.state = json.loads((start / "rng_state.json").read_text())
        state = json.loads((start / "trainer_state.json").read_text())
        print(f"Continuing training from global step {state['global_step']}", flush=True)

    per_epoch = -(-len(labels) // BATCH)
    last = options.epochs * per_epoch
    losses: list[float] = []
    for step in range(state["global_step"] + 1, last + 1):
        epoch, batch = divmod(step - 1, per_epoch)
        order = np.random.default_rng([options.seed, epoch]).permutation(len(labels))
        chosen = order[batch * BATCH : (batch + 1) * BATCH]
        noise = rng.normal(0, 0.1, (len(chosen), 64)).astype(np.float32)
        loss, gradient = gradients(model, images[chosen] + noise, labels[chosen])
        adam(model, moments, gradient, step, options.learning_rate)
        losses.append(loss)
        time.sleep(options.step_delay)
        if step % options.save_steps == 0 or step == last:
            scores = evaluate(model, test_images, test_labels)
            row = {"epoch": round(step / per_epoch, 4), "step": step}
            state |= {"global_step": step, "epoch": row["epoch"]}
            state["log_history"] += [{"loss": round(sum(losses) / len(losses), 6)} | row, scores | row]
            losses.clear()
            save_checkpoint(output, model, moments, rng, state, options.keep)
            print("step {:5}  eval loss {:.4f}  accuracy {:.4f}".format(step, *scores.values()), flush=True)
    save_model(output, model)


def save_checkpoint(
    output: Path, model: Tensors, moments: Tensors, rng: np.random.Generator, state: dict[str, Any], keep: int
) -> None:
    """All that training needs to go on, `trainer_state.json` last; then every checkpoint but the newest `keep` goes."""
    folder = output / f"checkpoint-{state['global_step']}"
    save_model(folder, model)
    write_safetensors(folder / "optimizer.safetensors", moments)
    write_json(folder / "rng_state.json", rng.bit_generator.state)
    write_json(folder / "trainer_state.json", state)
    saved = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for old in saved[:-keep]:
        shutil.rmtree(old)


def main() -> None:
    """Read the arguments and the environment, then train or evaluate."""
    parser = argparse.ArgumentParser(description="Train a small neural network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--save-steps", type=int, default=500, help="steps between two checkpoints")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=256, help="neurons in the hidden layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=int, default=2, help="newest checkpoints to keep; older ones are deleted")
    parser.add_argument("--step-delay", type=float, default=0.0, help="seconds to wait after each step")
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="only print the accuracy of the model in DIR")
    options = parser.parse_args()
    if min(options.epochs, options.save_steps, options.hidden, options.keep) < 1:
        parser.error("--epochs, --save-steps, --hidden and --keep must be at least 1")
    if options.evaluate:
        _, _, images, labels = split_digits()
        scores = evaluate(read_safetensors(options.evaluate / "model.safetensors"), images, labels)
        print(f"accuracy {scores['eval_accuracy']:.4f}")
        return
    start = os.environ.get("FLEXAI_INPUT_CHECKPOINT_DIR")
    output = os.environ.get("FLEXAI_OUTPUT_CHECKPOINT_DIR") or "output-checkpoint"
    train(options, Path(output), Path(start) if start else None)


if __name__ == "__main__":
    main()
