"""A Lambda handler in the usual style: what the benchmarks measure the predictor against.

The libraries and the model are loaded while the function starts, as AWS recommends, so that an
invocation only predicts. It runs under `python -m awslambdaric handler.handler` with model.joblib
beside it.
"""

import json
import os

import joblib
import pandas as pd

model = joblib.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.joblib"))


def handler(event, context):
    """Answers one application, the bare event, with the model's prediction."""
    application = pd.DataFrame([event], columns=model.feature_names_in_)
    prediction = model.predict(application)[0]
    return {"statusCode": 200, "body": json.dumps({"prediction": int(prediction)})}
