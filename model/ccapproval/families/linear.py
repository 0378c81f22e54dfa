"""scikit-learn's logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccapproval.model_file import Decide, Refuse, Step
from ccapproval.program import Columns, Outcome, Program


def logistic_regression(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """Logistic regression: equal to the library's up to the order in which BLAS adds."""
    program.require(columns, Refuse.MISSING | Refuse.INFINITE)
    weights = np.column_stack([np.ravel(estimator.intercept_), estimator.coef_])
    scores = program.linear(columns, weights)
    if len(scores) == 1:
        probabilities = program.step(Step.SIGMOID, scores, 2, [1.0])
        return Outcome(probabilities, estimator.classes_, (Decide.ABOVE, scores[0], 0.0), scores)
    probabilities = program.step(Step.SOFTMAX_PAIRWISE, scores, len(scores))
    return Outcome(probabilities, estimator.classes_, (Decide.GREATEST, scores[0], 0.0), scores)
