"""Scikit-learn's estimators by joblib: over one file, and to numbered files."""

from __future__ import annotations

import sys

import joblib
import numpy
from sklearn.linear_model import SGDClassifier
from truth import OUT, keep, saves

model = SGDClassifier()
generator = numpy.random.default_rng(1)
for number in saves():
    inputs = generator.random((32, 64))
    model.partial_fit(inputs, inputs[:, 0] > 0.5, classes=[False, True])
    path = OUT / (f"model-{number}.joblib" if sys.argv[1] == "numbered" else "model.joblib")
    joblib.dump(model, path)
    keep(path, number if sys.argv[1] == "numbered" else None)
