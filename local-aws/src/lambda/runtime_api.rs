//! The Runtime API that a function's process speaks.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    disk::lock,
    wire::{Response, empty_reply, json_reply, read_body, set_header, uuid},
};

/// What a function may answer.
const MAX_RESPONSE: usize = 6_291_556;
/// An invocation on its way to the process.
pub struct Job {
    /// The request's id.
    pub id: String,
    /// The ARN that was invoked.
    pub arn: String,
    /// When the process is to be ready, in milliseconds since 1970.
    pub deadline: i64,
    /// The event.
    pub payload: Bytes,
    /// The `ClientContext` header, decoded.
    pub client_context: Option<String>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// What the process answered.
#[derive(Debug)]
pub struct Reply {
    /// Whether it is an error.
    pub error: bool,
    /// The answer, or the error's description.
    pub payload: Bytes,
}

/// How far a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not yet asking for work.
    Starting,
    /// It asked for work.
    Ready,
    /// It said that it cannot start; its description.
    Failed(Bytes),
    /// It ended.
    Exited(String),
}

/// The Runtime API of one process.
struct Api {
    queue: tokio::sync::Mutex<mpsc::Receiver<Job>>,
    current: Mutex<Option<(String, oneshot::Sender<Reply>)>>,
    phase: Arc<watch::Sender<Phase>>,
}

/// Serves a process until it is dropped.
pub async fn serve(listener: TcpListener, queue: mpsc::Receiver<Job>, phase: Arc<watch::Sender<Phase>>) {
    let api = Arc::new(Api { queue: tokio::sync::Mutex::new(queue), current: Mutex::default(), phase });
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true);
        let api = api.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(api.respond(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Api {
    async fn respond(&self, request: http::Request<Incoming>) -> Response {
        let (parts, body) = request.into_parts();
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let accepted = || json_reply(StatusCode::ACCEPTED, "application/json", &json!({ "status": "OK" }));
        match (&parts.method, &path[..]) {
            (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => self.next().await,
            (&Method::POST, ["2018-06-01", "runtime", "invocation", id, kind @ ("response" | "error")]) => {
                if lock(&self.current).as_ref().is_none_or(|(current, _)| current != id) {
                    return refusal(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID");
                }
                let body = read_body(Body::new(body), MAX_RESPONSE).await;
                let reply = lock(&self.current).take_if(|(current, _)| current == id);
                let (Some((_, reply)), fits) = (reply, body.is_some()) else {
                    return refusal(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID");
                };
                let _ = reply.send(match body {
                    Some(payload) => Reply { error: *kind == "error", payload },
                    None => Reply {
                        error: true,
                        payload: Bytes::from(
                            json!({
                                "errorType": "Function.ResponseSizeTooLarge",
                                "errorMessage":
                                    format!("Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE} bytes)."),
                            })
                            .to_string(),
                        ),
                    },
                });
                if fits {
                    accepted()
                } else {
                    refusal(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "RequestEntityTooLarge",
                        "Exceeded maximum allowed payload size",
                    )
                }
            }
            (&Method::POST, ["2018-06-01", "runtime", "init", "error"]) => {
                let payload = read_body(Body::new(body), 1 << 20).await.unwrap_or_default();
                self.phase.send_modify(|phase| *phase = Phase::Failed(payload));
                accepted()
            }
            _ => refusal(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                &format!("{} {}", parts.method, parts.uri.path()),
            ),
        }
    }

    async fn next(&self) -> Response {
        self.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Ready;
            }
            starting
        });
        // When the process goes away while it waits, the invocation stays in the queue: receiving is cancel safe.
        let Some(job) = self.queue.lock().await.recv().await else {
            return empty_reply(StatusCode::GONE);
        };
        let mut response = empty_reply(StatusCode::OK);
        let headers = response.headers_mut();
        set_header(headers, "content-type", "application/json");
        set_header(headers, "lambda-runtime-aws-request-id", &job.id);
        set_header(headers, "lambda-runtime-invoked-function-arn", &job.arn);
        set_header(headers, "lambda-runtime-deadline-ms", &job.deadline.to_string());
        let trace = uuid().replace('-', "");
        set_header(headers, "lambda-runtime-trace-id", &format!("Root=1-{}-{};Sampled=0", &trace[..8], &trace[8..]));
        if let Some(context) = &job.client_context {
            set_header(headers, "lambda-runtime-client-context", context);
        }
        *lock(&self.current) = Some((job.id, job.reply));
        *response.body_mut() = Body::from(job.payload);
        response
    }
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response {
    json_reply(status, "application/json", &json!({ "errorType": kind, "errorMessage": message }))
}
