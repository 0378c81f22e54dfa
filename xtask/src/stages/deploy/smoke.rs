//! Smoke tests: a version must answer every event of pipeline.toml with the right prediction by the right model.

use anyhow::{Context as _, Result};
use aws_sdk_lambda::primitives::Blob;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cloud::{Cloud, service_error};
use crate::config::SmokeTest;

/// How a version answered an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmokeResult {
    pub name: String,
    pub passed: bool,
    pub answer: String,
}

/// Asks a version every configured event and compares the answer, the model's digest included.
pub async fn smoke_tests(
    cloud: &Cloud,
    function: &str,
    qualifier: &str,
    tests: &[SmokeTest],
    model: &str,
) -> Result<Vec<SmokeResult>> {
    let mut results = Vec::new();
    for test in tests {
        let answer = cloud
            .lambda
            .invoke()
            .function_name(function)
            .qualifier(qualifier)
            .payload(Blob::new(serde_json::to_vec(&test.event)?))
            .send()
            .await
            .map_err(service_error)
            .with_context(|| format!("invoke version {qualifier} with `{}`", test.name))?;
        let payload = answer.payload().map(|payload| String::from_utf8_lossy(payload.as_ref()).into_owned());
        let payload = payload.unwrap_or_default();
        let passed = answer.function_error().is_none() && is_expected(&payload, test.prediction, model);
        results.push(SmokeResult { name: test.name.clone(), passed, answer: payload });
    }
    Ok(results)
}

/// Whether an answer is a 200 with this prediction by this model.
fn is_expected(payload: &str, prediction: i64, model: &str) -> bool {
    let Ok(answer) = serde_json::from_str::<Value>(payload) else { return false };
    let Some(body) = answer["body"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok()) else {
        return false;
    };
    answer["statusCode"] == 200 && body["prediction"] == prediction && body["model"] == model
}

/// The first test that was not passed, in words.
pub fn failed(version: &str, results: &[SmokeResult]) -> Option<String> {
    let failed = results.iter().find(|result| !result.passed)?;
    Some(format!("version {version} failed smoke test `{}`: it answered {}", failed.name, failed.answer))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_right_prediction_by_the_right_model_passes() {
        let answer = |body: &str| json!({"statusCode": 200, "body": body}).to_string();
        assert!(is_expected(&answer(r#"{"prediction": 1, "model": "sha256:a"}"#), 1, "sha256:a"));
        for wrong in [
            answer(r#"{"prediction": 0, "model": "sha256:a"}"#),
            answer(r#"{"prediction": 1, "model": "sha256:b"}"#),
            answer("no JSON"),
            json!({"statusCode": 400, "body": r#"{"prediction": 1, "model": "sha256:a"}"#}).to_string(),
            json!({"errorMessage": "Task timed out"}).to_string(),
            String::new(),
        ] {
            assert!(!is_expected(&wrong, 1, "sha256:a"), "{wrong}");
        }
    }
}
