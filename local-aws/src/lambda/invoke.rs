//! Invocations: which version, which process, and what becomes of its answer.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::Utc;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Call, conflict, image,
    model::{Config, Function, LATEST, State},
    pool::Key,
    runtime_api::{Job, Phase, Reply},
    worker::{self, StartFailure, Worker},
};
use crate::{
    cloudwatch::{Event, Series},
    server::Cloud,
    wire::{ApiError, Response, empty_reply, header_text, json_reply, set_header, uuid},
};

/// The largest event of a synchronous invocation.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;
/// The largest event of an asynchronous invocation.
const MAX_ASYNC_PAYLOAD: usize = 1024 * 1024;
/// What a process has until it asks for its first event.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// What exactly is to be run.
pub struct Target {
    function: String,
    qualifier: Option<String>,
    arn: String,
    key: Key,
    config: Config,
}

/// A finished invocation.
pub struct Outcome {
    /// Whether the function failed.
    pub error: bool,
    /// Its answer, or the error's description.
    pub payload: Bytes,
    /// The version that ran.
    pub version: String,
    /// The request's id.
    pub request_id: String,
    log: Vec<u8>,
}

/// Finds what to run; an alias with two versions draws one.
///
/// # Errors
/// When there is no such version or the function is not ready.
pub fn target(cloud: &Cloud, function: &Function, qualifier: Option<&str>) -> Result<Target, ApiError> {
    let drawn = qualifier.and_then(|name| function.aliases.get(name)).map(|alias| {
        let other = alias.weights.iter().find(|(_, weight)| chance() < **weight);
        other.map_or(&alias.version, |(version, _)| version).clone()
    });
    let (number, version) = function.version(cloud, drawn.as_deref().or(qualifier))?;
    let latest = number == LATEST;
    if let State::Pending | State::Failed(_) = function.state
        && latest
    {
        let state = if function.state == State::Pending { "Pending" } else { "Failed" };
        return Err(conflict(format!(
            "The operation cannot be performed at this time. The function is currently in the following state: {state}"
        )));
    }
    let config = function.serving.as_ref().filter(|_| latest).unwrap_or(&version.config);
    Ok(Target {
        function: function.name.clone(),
        qualifier: qualifier.map(str::to_owned),
        arn: function.arn(cloud, qualifier),
        key: Key {
            function: function.id.clone(),
            version: number,
            generation: if latest { function.generation } else { 0 },
        },
        config: config.clone(),
    })
}

/// A number in [0, 1).
fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

/// `Invoke`
pub async fn invoke(call: &Call<'_>) -> Result<Response, ApiError> {
    let cloud = call.cloud;
    let kind = header_text(call.headers, "x-amz-invocation-type").unwrap_or("RequestResponse");
    let limit = match kind {
        "RequestResponse" | "DryRun" => MAX_PAYLOAD,
        "Event" => MAX_ASYNC_PAYLOAD,
        other => {
            return Err(super::validation(format!(
                "1 validation error detected: Value '{other}' at 'invocationType' failed to satisfy constraint: Member must satisfy enum \
                 value set: [Event, DryRun, RequestResponse]"
            )));
        }
    };
    let payload = call.body.clone();
    if payload.len() > limit {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestTooLargeException",
            format!("{} byte payload is too large for the {kind} invocation type (limit {limit} bytes)", payload.len()),
        ));
    }
    let payload = if payload.is_empty() { Bytes::from_static(b"{}") } else { payload };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload) {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "InvalidRequestContentException",
            format!("Could not parse request body into json: {error}"),
        ));
    }
    let target = cloud.lambda.read(cloud, &call.name, |function| target(cloud, function, call.qualifier.as_deref()))?;
    let context = header_text(call.headers, "x-amz-client-context")
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match kind {
        "DryRun" => Ok(empty_reply(StatusCode::NO_CONTENT)),
        "Event" => {
            // Its answer goes nowhere, its log to the function's; there is no second try.
            begin(cloud, target, payload, context);
            Ok(empty_reply(StatusCode::ACCEPTED))
        }
        _ => {
            let outcome = run(cloud, target, payload, context).await?;
            let mut response = json_reply(StatusCode::OK, super::CONTENT_TYPE, &Value::Null);
            *response.body_mut() = outcome.payload.into();
            let headers = response.headers_mut();
            set_header(headers, "x-amz-executed-version", &outcome.version);
            set_header(headers, "x-amzn-requestid", &outcome.request_id);
            if outcome.error {
                set_header(headers, "x-amz-function-error", "Unhandled");
            }
            if header_text(call.headers, "x-amz-log-type") == Some("Tail") {
                set_header(headers, "x-amz-log-result", &STANDARD.encode(&outcome.log));
            }
            Ok(response)
        }
    }
}

/// Runs one invocation, in a waiting process or a new one.
///
/// # Errors
/// Only what is no fault of the function; its own errors are an [`Outcome`].
pub async fn run(
    cloud: &Arc<Cloud>,
    target: Target,
    payload: Bytes,
    client_context: Option<String>,
) -> Result<Outcome, ApiError> {
    let outcome = begin(cloud, target, payload, client_context);
    outcome.await.unwrap_or_else(|_| Err(ApiError::internal("the cloud is being stopped")))
}

/// Begins an invocation, which goes on when nobody waits for it any more: a caller who hangs up does not stop a function.
fn begin(
    cloud: &Arc<Cloud>,
    target: Target,
    payload: Bytes,
    client_context: Option<String>,
) -> oneshot::Receiver<Result<Outcome, ApiError>> {
    let (sender, receiver) = oneshot::channel();
    let own = cloud.clone();
    cloud.lambda.spawn(async move {
        let _ = sender.send(work(&own, target, payload, client_context).await);
    });
    receiver
}

/// Runs one invocation and counts what became of it.
async fn work(
    cloud: &Arc<Cloud>,
    target: Target,
    payload: Bytes,
    client_context: Option<String>,
) -> Result<Outcome, ApiError> {
    let series = Series {
        function: target.function.clone(),
        resource: match &target.qualifier {
            Some(qualifier) => format!("{}:{qualifier}", target.function),
            None => target.function.clone(),
        },
        executed_version: target.key.version.clone(),
    };
    let mut duration = Duration::ZERO;
    let result = attempt(cloud, target, payload, client_context, &mut duration).await;
    match &result {
        Ok(outcome) => cloud.metrics.record(series, Event::Ran { error: outcome.error, duration }),
        Err(error) if error.status == StatusCode::TOO_MANY_REQUESTS => cloud.metrics.record(series, Event::Throttled),
        Err(_) => {}
    }
    result
}

async fn attempt(
    cloud: &Arc<Cloud>,
    target: Target,
    payload: Bytes,
    client_context: Option<String>,
    duration: &mut Duration,
) -> Result<Outcome, ApiError> {
    let pool = &cloud.lambda.pool;
    let Some(_slot) = pool.slot() else {
        let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "Rate Exceeded.");
        error.extra = Some(json!({ "Reason": "ConcurrentInvocationLimitExceeded" }));
        return Err(error);
    };
    let id = uuid();
    let failed = |kind: &str, message: String| Outcome {
        error: true,
        payload: Bytes::from(
            json!({ "errorType": kind, "errorMessage": format!("RequestId: {id} Error: {message}") }).to_string(),
        ),
        version: target.key.version.clone(),
        request_id: id.clone(),
        log: Vec::new(),
    };
    let mut worker = match pool.take(&target.key) {
        Some(worker) => worker,
        None => match start(cloud, &target).await {
            Ok(worker) => worker,
            Err(StartFailure::Entrypoint(message)) => return Ok(failed("Runtime.InvalidEntrypoint", message)),
            Err(StartFailure::Internal(error)) => return Err(ApiError::internal(format!("{error:#}"))),
        },
    };
    worker.log.begin();
    let stopping = pool.stopping();
    let exchange = exchange(&mut worker, &target, &id, payload, client_context, duration);
    let ended = tokio::select! {
        ended = exchange => ended,
        () = stopping => Ended::Broken("Sandbox.Stopped", "the cloud is being stopped".to_owned()),
    };
    match ended {
        Ended::Answered(reply) => {
            let log = worker.log.tail();
            if still_current(cloud, &target) {
                pool.put(target.key.clone(), worker);
            }
            Ok(Outcome { error: reply.error, payload: reply.payload, version: target.key.version, request_id: id, log })
        }
        Ended::InitFailed(payload) => {
            let mut outcome = failed("Runtime.InitError", "the runtime failed to start".to_owned());
            if serde_json::from_slice::<serde::de::IgnoredAny>(&payload).is_ok() {
                outcome.payload = payload;
            }
            outcome.log = worker.log.tail();
            worker.stop().await;
            Ok(outcome)
        }
        Ended::Broken(kind, message) => {
            let mut outcome = failed(kind, message.clone());
            worker.log.write(format!("RequestId: {id} Error: {message}\n").as_bytes());
            outcome.log = worker.log.tail();
            worker.stop().await;
            Ok(outcome)
        }
    }
}

/// Whether another invocation could use the same process.
fn still_current(cloud: &Cloud, target: &Target) -> bool {
    let key = &target.key;
    let current = cloud.lambda.read(cloud, &target.function, |function| {
        Ok(function.id == key.function
            && match key.version.parse() {
                Ok(number) => function.versions.contains_key(&number),
                Err(_) => function.generation == key.generation,
            })
    });
    current.unwrap_or(false)
}

async fn start(cloud: &Arc<Cloud>, target: &Target) -> Result<Worker, StartFailure> {
    let image = image::unpacked(cloud, &target.config.code).await?;
    worker::start(worker::Start {
        root: &cloud.root,
        region: &cloud.region,
        function: &target.function,
        version: &target.key.version,
        config: &target.config,
        image: &image,
    })
    .await
}

enum Ended {
    Answered(Reply),
    InitFailed(Bytes),
    Broken(&'static str, String),
}

/// Hands the event to the process and waits for its answer, its end or the time limit; `duration` is set to what that took.
async fn exchange(
    worker: &mut Worker,
    target: &Target,
    id: &str,
    payload: Bytes,
    client_context: Option<String>,
    duration: &mut Duration,
) -> Ended {
    let begun = timeout(INIT_LIMIT, worker.phase.wait_for(|phase| *phase != Phase::Starting)).await;
    match begun.map(|phase| phase.map(|phase| phase.clone())) {
        Ok(Ok(Phase::Failed(payload))) => return Ended::InitFailed(payload),
        Ok(Ok(Phase::Exited(text))) => return Ended::Broken("Runtime.ExitError", text),
        Ok(Ok(_)) => {}
        Ok(Err(_)) => {
            return Ended::Broken("Runtime.ExitError", "Runtime exited without providing a reason".to_owned());
        }
        Err(_) => {
            let message = format!("Task timed out after {}.00 seconds in its init phase", INIT_LIMIT.as_secs());
            return Ended::Broken("Sandbox.Timedout", message);
        }
    }
    let limit = Duration::from_secs(target.config.timeout);
    worker.log.write(format!("START RequestId: {id} Version: {}\n", target.key.version).as_bytes());
    let begun = std::time::Instant::now();
    let (sender, reply) = oneshot::channel();
    let job = Job {
        id: id.to_owned(),
        arn: target.arn.clone(),
        deadline: (Utc::now() + limit).timestamp_millis(),
        payload,
        client_context,
        reply: sender,
    };
    let answer = async {
        let _ = worker.jobs.send(job).await;
        let exited = worker.phase.wait_for(|phase| matches!(phase, Phase::Exited(_) | Phase::Failed(_)));
        tokio::select! {
            // An answer counts even if the process ends right after it.
            biased;
            Ok(reply) = reply => Ended::Answered(reply),
            phase = exited => match phase.map(|phase| phase.clone()) {
                Ok(Phase::Exited(text)) => Ended::Broken("Runtime.ExitError", text),
                Ok(Phase::Failed(payload)) => Ended::InitFailed(payload),
                _ => Ended::Broken("Runtime.ExitError", "Runtime exited without providing a reason".to_owned()),
            },
        }
    };
    let ended = timeout(limit, answer).await.unwrap_or_else(|_| {
        Ended::Broken("Sandbox.Timedout", format!("Task timed out after {}.00 seconds", limit.as_secs()))
    });
    *duration = begun.elapsed();
    let log = format!(
        "END RequestId: {id}\nREPORT RequestId: {id}\tDuration: {:.2} ms\tBilled Duration: {} ms\tMemory Size: {} MB\n",
        duration.as_secs_f64() * 1000.0,
        duration.as_millis() + 1,
        target.config.memory
    );
    worker.log.write(log.as_bytes());
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_even() {
        let draws: Vec<f64> = (0..100_000).map(|_| chance()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        for weight in [0.1, 0.3, 0.45, 0.9] {
            let share = f64::from(u32::try_from(draws.iter().filter(|draw| **draw < weight).count()).expect("a count"))
                / 100_000.0;
            // Six standard deviations at most.
            assert!((share - weight).abs() < 0.01, "{weight}: {share}");
        }
    }
}
