"""How each supported estimator becomes steps of a model file.

`classifier` and `transformer` find the exporter of an estimator by its exact type: a subclass may
answer differently from what it extends. Libraries are known by name, so that none has to be
installed but the one whose model is exported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from ccapproval.common import InputError
from ccapproval.families import (
    calibration,
    lightgbm,
    linear,
    preprocessing,
    trees,
    xgboost,
)
from ccapproval.program import Columns, Outcome, Program

CLASSIFIERS: dict[str, Callable[[Program, Any, Columns], Outcome]] = {
    "lightgbm.basic.Booster": lightgbm.booster,
    "lightgbm.sklearn.LGBMClassifier": lightgbm.classifier,
    "sklearn.calibration.CalibratedClassifierCV": calibration.calibrated,
    "sklearn.ensemble._forest.ExtraTreesClassifier": trees.forest,
    "sklearn.ensemble._forest.RandomForestClassifier": trees.forest,
    "sklearn.ensemble._gb.GradientBoostingClassifier": trees.gradient_boosting,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier": (
        trees.histogram_boosting
    ),
    "sklearn.frozen._frozen.FrozenEstimator": calibration.frozen,
    "sklearn.linear_model._logistic.LogisticRegression": linear.logistic_regression,
    "sklearn.linear_model._logistic.LogisticRegressionCV": linear.logistic_regression,
    "sklearn.model_selection._classification_threshold.FixedThresholdClassifier": (
        calibration.fixed_threshold
    ),
    "sklearn.model_selection._classification_threshold.TunedThresholdClassifierCV": (
        calibration.tuned_threshold
    ),
    "sklearn.pipeline.Pipeline": preprocessing.pipeline,
    "sklearn.tree._classes.DecisionTreeClassifier": trees.decision_tree,
    "sklearn.tree._classes.ExtraTreeClassifier": trees.decision_tree,
    "xgboost.core.Booster": xgboost.booster,
    "xgboost.sklearn.XGBClassifier": xgboost.classifier,
}

TRANSFORMERS: dict[str, Callable[[Program, Any, Columns], Columns]] = {
    "sklearn.compose._column_transformer.ColumnTransformer": preprocessing.column_transformer,
    "sklearn.impute._base.SimpleImputer": preprocessing.simple_imputer,
    "sklearn.pipeline.Pipeline": preprocessing.transforming_pipeline,
    "sklearn.preprocessing._data.MinMaxScaler": preprocessing.min_max_scaler,
    "sklearn.preprocessing._data.StandardScaler": preprocessing.standard_scaler,
    "sklearn.preprocessing._encoders.OneHotEncoder": preprocessing.one_hot_encoder,
    "sklearn.preprocessing._encoders.OrdinalEncoder": preprocessing.ordinal_encoder,
    "sklearn.preprocessing._function_transformer.FunctionTransformer": preprocessing.identity,
}


def full_name(estimator: Any) -> str:
    """Module and name of an estimator's type."""
    return f"{type(estimator).__module__}.{type(estimator).__qualname__}"


def exporter_of(kinds: dict[str, Callable[..., Any]], estimator: Any) -> Callable[..., Any]:
    """The exporter for a fitted estimator.

    Raises:
        InputError: its type is not supported, or it is not fitted.
    """
    name = full_name(estimator)
    if name not in kinds:
        supported = ", ".join(sorted(each.rpartition(".")[2] for each in kinds))
        raise InputError(f"{name} cannot be exported; supported are {supported}")
    if not name.endswith(".Booster"):
        try:
            check_is_fitted(estimator)
        except NotFittedError as error:
            raise InputError(f"{type(estimator).__name__} is not fitted: call fit first") from error
    return kinds[name]


def classifier(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """Appends the steps of a fitted classifier that sees these columns."""
    return exporter_of(CLASSIFIERS, estimator)(program, estimator, columns)


def transformer(program: Program, estimator: Any, columns: Columns) -> Columns:
    """Appends the steps of a fitted transformer that sees these columns."""
    return exporter_of(TRANSFORMERS, estimator)(program, estimator, columns)
