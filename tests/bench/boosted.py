"""Trains the large model of `cargo xtask bench cold`: boosted.py ROWS MODEL

300 trees on the rows of a run that the shipped model was not trained on, with a fifth of the labels turned round, so that the
trees find something to split down to their greatest depth. Runs in the environment of model/.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost
from ccapproval.export import export

FEATURES = ["Num_Children", "Income", "Own_Car", "Own_Housing"]
TREES = 300

rows = pd.read_csv(sys.argv[1])
turned = np.random.default_rng(0).random(len(rows)) < 0.2
model = xgboost.XGBClassifier(n_estimators=TREES, max_depth=6, min_child_weight=0)
model.fit(rows[FEATURES], rows["Target"] ^ turned)
content = export(model)
Path(sys.argv[2]).write_bytes(content)
print(len(content))
