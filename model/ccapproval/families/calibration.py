"""scikit-learn's calibrated classifiers and decision thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccapproval import families
from ccapproval.common import InputError
from ccapproval.model_file import Decide, Step
from ccapproval.program import Columns, Outcome, Program


def frozen(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A fitted estimator that is kept from being fitted again."""
    return families.classifier(program, estimator.estimator, columns)


def calibrated(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """The mean of calibrated classifiers."""
    if estimator.method == "temperature":
        raise InputError(
            "CalibratedClassifierCV by temperature cannot be exported; "
            "supported are sigmoid and isotonic"
        )
    gathered: Columns = []
    for each in estimator.calibrated_classifiers_:
        gathered += one_calibrated(program, each, columns)
    classes = len(estimator.classes_)
    count = len(estimator.calibrated_classifiers_)
    probabilities = program.step(Step.MEAN, gathered, classes, argument=count)
    return Outcome(probabilities, estimator.classes_, (Decide.GREATEST, probabilities[0], 0.0))


def one_calibrated(program: Program, calibrated: Any, columns: Columns) -> Columns:
    """A classifier whose answers are corrected class by class."""
    inner = families.classifier(program, calibrated.estimator, columns)
    if not np.array_equal(inner.classes, calibrated.classes):
        raise InputError("CalibratedClassifierCV with a fold that lacks a class cannot be exported")
    answers = inner.scores or inner.probabilities
    if len(inner.classes) == 2:
        answers = answers[-1:]
    corrected = [
        correction(program, calibrator, slot, inner)
        for calibrator, slot in zip(calibrated.calibrators, answers, strict=True)
    ]
    if len(inner.classes) == 2:
        pair = program.step(Step.COMPLEMENT, corrected, 2)
    else:
        pair = program.step(Step.NORMALIZE, corrected, len(corrected))
    return program.step(Step.CAP, pair, len(pair))


def correction(program: Program, calibrator: Any, slot: int, inner: Outcome) -> int:
    """One calibrator on one class's answer."""
    if inner.single and not inner.scores:
        raise InputError(
            "CalibratedClassifierCV of a model in single precision (XGBoost) cannot be exported"
        )
    if type(calibrator).__name__ == "_SigmoidCalibration":
        numbers = [float(calibrator.a_), float(calibrator.b_)]
        return program.step(Step.PLATT, [slot], 1, numbers)[0]
    if type(calibrator).__name__ != "IsotonicRegression" or calibrator.out_of_bounds != "clip":
        raise InputError(f"the calibrator {calibrator!r} cannot be exported")
    places = np.asarray(calibrator.X_thresholds_, dtype=np.float64)
    heights = np.asarray(calibrator.y_thresholds_, dtype=np.float64)
    return program.step(Step.INTERPOLATE, [slot], 1, np.concatenate([places, heights]))[0]


def fixed_threshold(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A classifier that decides by a threshold which was given."""
    inner_estimator = getattr(estimator, "estimator_", estimator.estimator)
    threshold = None if estimator.threshold == "auto" else estimator.threshold
    return decided(program, inner_estimator, columns, estimator, threshold, estimator.pos_label)


def tuned_threshold(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A classifier that decides by a threshold which was found in training."""
    label = estimator._curve_scorer._get_pos_label()
    return decided(
        program, estimator.estimator_, columns, estimator, estimator.best_threshold_, label
    )


def decided(
    program: Program,
    inner_estimator: Any,
    columns: Columns,
    estimator: Any,
    threshold: float | None,
    label: Any,
) -> Outcome:
    """The inner classifier's probabilities, and a decision of one's own."""
    inner = families.classifier(program, inner_estimator, columns)
    by_scores = estimator.response_method == "decision_function"
    first = label is not None and label == inner.classes[0]
    if by_scores and (first or not inner.scores):
        raise InputError(
            f"{type(estimator).__name__} that decides by decision_function for "
            f"{'the first class' if first else 'this classifier'} cannot be exported"
        )
    if threshold is None:
        threshold = 0.0 if by_scores else 0.5
    elif inner.single and not isinstance(threshold, np.float64):
        # numpy compares a plain number in the precision of the probabilities.
        threshold = float(np.float32(threshold))
    slots = inner.scores if by_scores else inner.probabilities
    decision = (
        (Decide.FIRST_AT_LEAST, slots[0], float(threshold))
        if first
        else (Decide.AT_LEAST, slots[-1], float(threshold))
    )
    return Outcome(inner.probabilities, inner.classes, decision, inner.scores, inner.single)
