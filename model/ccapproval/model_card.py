"""The model card: what a run's records say of the model, and what only its owners can say.

The owners' part is `model_card.toml` beside the notebook. The sections are those of Mitchell et
al., "Model Cards for Model Reporting" (2019). A card with an empty section is refused: a card
that says nothing of a model's limits would read as if there were none.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ccapproval.common import InputError, read_bytes
from ccapproval.model_file import Model

FILE = "model_card.toml"
# What the owners write: key, and the section that it becomes.
WRITTEN = {
    "name": "Model",
    "owner": "Owner",
    "intended_use": "Intended use",
    "out_of_scope": "Out of scope",
    "training_data": "Training data",
    "ethical_considerations": "Ethical considerations",
    "caveats": "Caveats and recommendations",
}


def read_card(file: Path) -> dict[str, str]:
    """The owners' texts, by key.

    Raises:
        InputError: no such file, not TOML, an unknown key, or a section without a text.
    """
    try:
        texts = tomllib.loads(read_bytes(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid TOML: {error}") from error
    unknown = sorted(set(texts) - set(WRITTEN))
    if unknown:
        raise InputError(
            f"{file} has unknown keys {', '.join(unknown)}: {', '.join(WRITTEN)} exist"
        )
    for key in WRITTEN:
        text = texts.get(key)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{file}: the section {key} of the model card is empty: write it")
    return {key: " ".join(texts[key].split()) for key in WRITTEN}


def sections(
    card: dict[str, str], metrics: dict[str, Any], training: dict[str, Any], model: Model
) -> list[tuple[str, str]]:
    """The card's sections in their order: title and text.

    Args:
        card: from `read_card`.
        metrics: the content of metrics.json.
        training: the content of training.json.
        model: the model file that both name.

    Raises:
        InputError: the records leave a section empty.
    """
    data = training["dataset"]
    versions = training["versions"]
    groups = []
    for name, found in metrics["groups"].items():
        sizes = ", ".join(f"{label}: {each['n']:,} rows" for label, each in found.items())
        groups.append(f"{name} ({sizes})")
    positives = metrics["overall"]["tp"] + metrics["overall"]["fn"]
    features = ", ".join(feature.name for feature in model.features)
    result = [
        (WRITTEN["name"], f"{card['name']}, {training['estimator']}, digest {metrics['model']}."),
        (WRITTEN["owner"], card["owner"]),
        (WRITTEN["intended_use"], card["intended_use"]),
        (WRITTEN["out_of_scope"], card["out_of_scope"]),
        (
            "Inputs and output",
            f"Reads {features}; answers one of the classes "
            f"{', '.join(str(label) for label in model.classes)} and the probability of "
            f"{training['positive_class']}.",
        ),
        (
            "Factors",
            f"Examined by {'; '.join(groups)}."
            if groups
            else "No sensitive attribute is recorded: differences between groups are unknown.",
        ),
        (
            "Evaluation data",
            f"{metrics['rows']:,} rows of {data['file']} that training did not see, "
            f"{positives:,} of them of class {training['positive_class']}.",
        ),
        (
            WRITTEN["training_data"],
            f"{card['training_data']} {training['train_rows']:,} rows of {data['file']}, "
            f"digest {data['sha256']}.",
        ),
        (
            "Made with",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ),
        (WRITTEN["ethical_considerations"], card["ethical_considerations"]),
        (WRITTEN["caveats"], card["caveats"]),
    ]
    for title, text in result:
        if not text.strip(" ."):
            raise InputError(f"the section {title} of the model card is empty: train again")
    return result
