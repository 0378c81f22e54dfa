"""scikit-learn's pipelines and the transformers in them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_array

from ccapproval import families
from ccapproval.common import InputError
from ccapproval.families import lookup
from ccapproval.model_file import Refuse, Step
from ccapproval.program import Columns, Outcome, Program

CLIP = 1
# A text and a number that no encoder was trained with.
UNKNOWN_TEXT = "\0 unknown"


def pipeline(program: Program, estimator: Any, columns: Columns) -> Outcome:
    """A pipeline that ends in a classifier."""
    sparse, background = program.sparse, program.background
    for step in estimator.steps[:-1]:
        columns = transformed(program, step[1], columns)
    if background is not None and len(estimator.steps) > 1:
        program.background = estimator[:-1].transform(background)
    outcome = families.classifier(program, estimator.steps[-1][1], columns)
    program.sparse, program.background = sparse, background
    return outcome


def transforming_pipeline(program: Program, estimator: Any, columns: Columns) -> Columns:
    """A pipeline of transformers alone."""
    for step in estimator.steps:
        columns = transformed(program, step[1], columns)
    return columns


def transformed(program: Program, step: Any, columns: Columns) -> Columns:
    """One step of a pipeline, which may be left out."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return columns
    return families.transformer(program, step, columns)


def column_transformer(program: Program, estimator: Any, columns: Columns) -> Columns:
    """Each transformer on its columns, the results side by side."""
    result: Columns = []
    for name, transformer, _ in estimator.transformers_:
        places = estimator._transformer_to_input_indices[name]
        chosen = [columns[place] for place in places]
        if isinstance(transformer, str) and transformer == "drop":
            continue
        if chosen:
            result += transformed(program, transformer, chosen)
    program.sparse = estimator.sparse_output_
    return result


def identity(program: Program, estimator: Any, columns: Columns) -> Columns:
    """A function that only checks or passes on; any other is refused."""
    function = getattr(estimator.func, "func", estimator.func)
    if function is not None and function is not check_array:
        raise InputError(
            f"FunctionTransformer with the function {estimator.func!r} cannot be exported"
        )
    return columns


def numbers_only(program: Program, estimator: Any, columns: Columns) -> None:
    """Refuses columns of texts, and infinite values."""
    if any(column in program.text_of for column in columns):
        raise InputError(f"{type(estimator).__name__} of a column of texts cannot be exported")
    program.require(columns, Refuse.INFINITE)


def standard_scaler(program: Program, estimator: Any, columns: Columns) -> Columns:
    """`(value - mean) / scale`."""
    numbers_only(program, estimator, columns)
    count = len(columns)
    mean = estimator.mean_ if estimator.with_mean else np.zeros(count)
    scale = np.ones(count) if estimator.scale_ is None else estimator.scale_
    return program.step(Step.STANDARDIZE, columns, count, np.column_stack([mean, scale]))


def min_max_scaler(program: Program, estimator: Any, columns: Columns) -> Columns:
    """`value * scale + minimum`, held in the range if asked for."""
    numbers_only(program, estimator, columns)
    numbers = np.column_stack([estimator.scale_, estimator.min_]).ravel()
    if not estimator.clip:
        return program.step(Step.RESCALE, columns, len(columns), numbers)
    numbers = np.concatenate([numbers, estimator.feature_range])
    return program.step(Step.RESCALE, columns, len(columns), numbers, argument=CLIP)


def simple_imputer(program: Program, estimator: Any, columns: Columns) -> Columns:
    """Fills what is missing; columns that were all missing in training are left out."""
    if estimator.add_indicator:
        raise InputError("SimpleImputer with add_indicator cannot be exported")
    statistics = estimator.statistics_.tolist()
    pairs = list(zip(columns, statistics, strict=True))
    if estimator.strategy != "constant" and not estimator.keep_empty_features:
        pairs = [pair for pair in pairs if not is_missing(pair[1])]
    if not pairs:
        raise InputError("SimpleImputer that leaves no column cannot be exported")
    kept = [column for column, _ in pairs]
    for column, fill in pairs:
        if isinstance(fill, str):
            program.text(column, fill)
    marker = estimator.missing_values
    program.require(kept, Refuse.INFINITE)
    if not is_missing(marker):
        if isinstance(marker, str):
            raise InputError(f"SimpleImputer with missing_values={marker!r} cannot be exported")
        program.require(kept, Refuse.MISSING)
        kept = program.mark_missing(kept, float(marker))
    fills = [
        program.text(column, fill) if isinstance(fill, str) else float(fill)
        for column, fill in pairs
    ]
    filled = program.step(Step.IMPUTE, kept, len(kept), fills)
    for slot, (column, _) in zip(filled, pairs, strict=True):
        if column in program.text_of:
            program.text_of[slot] = program.text_of[column]
    return filled


def is_missing(value: Any) -> bool:
    """Whether a value is one of those that stand for a missing one."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def ordinal_encoder(program: Program, estimator: Any, columns: Columns) -> Columns:
    """Each category becomes its number."""
    tables = []
    for index in range(len(columns)):
        keys, rows = asked(estimator, index)
        values = [None if row is None else float(row[index]) for row in rows]
        tables.append(lookup.Table(keys, values[:-2], *values[-2:]))
    mark_texts(program, columns, tables)
    program.require(columns, Refuse.INFINITE)
    program.sparse = False
    return lookup.ordinal(program, columns, tables)


def one_hot_encoder(program: Program, estimator: Any, columns: Columns) -> Columns:
    """Each category becomes an output that is 1 where it is there."""
    widths = [int(width) for width in estimator._n_features_outs]
    begins = np.concatenate([[0], np.cumsum(widths)]).tolist()
    tables = []
    for index in range(len(columns)):
        keys, rows = asked(estimator, index)
        own = slice(begins[index], begins[index + 1])
        values = [None if row is None else hot(row[own]) for row in rows]
        tables.append(lookup.Table(keys, values[:-2], *values[-2:]))
    mark_texts(program, columns, tables)
    program.require(columns, Refuse.INFINITE)
    program.sparse = bool(estimator.sparse_output)
    return lookup.one_hot(program, columns, tables, widths)


def hot(outputs: np.ndarray) -> float:
    """Which output is 1; -1 if none is."""
    places = np.flatnonzero(outputs)
    return float(places[0]) if len(places) else -1.0


def mark_texts(program: Program, columns: Columns, tables: list[lookup.Table]) -> None:
    """Makes columns whose categories are texts columns of texts."""
    for column, table in zip(columns, tables, strict=True):
        texts = [key for key in table.keys if isinstance(key, str)]
        if texts and len(texts) < len(table.keys):
            raise InputError("an encoder of a column with texts and numbers cannot be exported")
        if texts:
            program.text(column, texts[0])
        elif column in program.text_of:
            raise InputError("an encoder of a column of texts that knows no text: train it again")


def asked(encoder: Any, index: int) -> tuple[list[Any], list[np.ndarray | None]]:
    """What an encoder makes of each category of a column, of a missing and of an unknown value.

    The encoder itself is asked, so that dropped and infrequent categories need no rules here.

    Returns:
        The categories, and a row of output for each, for missing and for unknown; None if refused.
    """
    categories = encoder.categories_[index].tolist()
    keys = [key for key in categories if not is_missing(key)]
    if not keys:
        raise InputError("an encoder of a column that was all missing cannot be exported")
    gap = next((key for key in categories if is_missing(key)), np.nan)
    unknown = UNKNOWN_TEXT if isinstance(keys[0], str) else 1.0 + max(abs(float(k)) for k in keys)
    rows: list[np.ndarray | None] = list(transformed_values(encoder, index, keys))
    for value in (gap, unknown):
        try:
            rows.append(transformed_values(encoder, index, [value])[0])
        except (TypeError, ValueError):
            rows.append(None)
    return keys, rows


def transformed_values(encoder: Any, index: int, values: list[Any]) -> np.ndarray:
    """The encoder's output for values of one column; the others hold their first category."""
    names = getattr(encoder, "feature_names_in_", range(len(encoder.categories_)))
    table = {}
    for place, (name, categories) in enumerate(zip(names, encoder.categories_, strict=True)):
        first = next(key for key in categories.tolist() if not is_missing(key))
        column = values if place == index else [first] * len(values)
        is_text = isinstance(first, str)
        table[name] = pd.Series(column, dtype=object if is_text else np.float64)
    frame = pd.DataFrame(table)
    if not hasattr(encoder, "feature_names_in_") and len(set(frame.dtypes)) == 1:
        frame = frame.to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = encoder.transform(frame)
    output = output.toarray() if hasattr(output, "toarray") else output
    return np.asarray(output, dtype=np.float64)
