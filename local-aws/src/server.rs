//! One port for all services: connections, and which service a request is for.

use std::{convert::Infallible, panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use axum::body::Body;
use futures_util::FutureExt;
use http::{Method, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    Endpoint, Identity,
    cloudwatch::{self, Metrics},
    ecr::{self, Repositories},
    iam::Iam,
    lambda::{self, Lambda},
    logs::{self, Logs},
    query_api,
    registry::{self, Uploads},
    s3,
    sigv4::{self, Authorization},
    sts,
    wire::{ApiError, Request, Response, header_text, json_reply, read_body, set_header, uuid},
};

/// Everything that requests are answered from.
pub struct Cloud {
    /// The state directory.
    pub root: PathBuf,
    /// The region that resources say they are in.
    pub region: String,
    /// `127.0.0.1:<port>`, the registry's host.
    pub host: String,
    /// The registry's password.
    pub registry_token: String,
    /// Image repositories, shared by ECR, the registry and Lambda.
    pub repositories: Repositories,
    /// Blob uploads in progress.
    pub uploads: Uploads,
    /// Functions and their processes.
    pub lambda: Lambda,
    iam: Iam,
    logs: Logs,
    /// What is counted about invocations.
    pub metrics: Metrics,
    /// Buckets, shared by S3 and Lambda.
    pub buckets: s3::Buckets,
    s3: s3s::service::S3Service,
    endpoint: Endpoint,
}

impl Cloud {
    /// Reads all state; what an interrupted process left half done is removed.
    ///
    /// # Errors
    /// When a state file is damaged or the directory cannot be written.
    pub fn load(
        root: PathBuf,
        region: String,
        port: u16,
        identity: Identity,
        endpoint: Endpoint,
    ) -> anyhow::Result<Self> {
        crate::disk::fresh_directory(&root.join("tmp"))?;
        std::fs::create_dir_all(root.join("logs"))?;
        std::fs::create_dir_all(root.join("findings"))?;
        let buckets = s3::Buckets::load(&root, &region)?;
        Ok(Self {
            repositories: Repositories::load(&root)?,
            uploads: Uploads::new(&root)?,
            lambda: Lambda::load(&root)?,
            iam: Iam::load(&root)?,
            logs: Logs::load(&root, &region)?,
            metrics: Metrics::load(&root)?,
            s3: s3::service(&buckets),
            buckets,
            host: format!("127.0.0.1:{port}"),
            registry_token: identity.registry_token,
            root,
            region,
            endpoint,
        })
    }
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    cloud: Arc<Cloud>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cloud").field("root", &self.root).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves until it is stopped or dropped.
    pub fn start(cloud: Arc<Cloud>, listener: TcpListener) -> Self {
        let (stop, stopped) = watch::channel(false);
        lambda::resume(&cloud);
        cloudwatch::flush_regularly(&cloud);
        let task = tokio::spawn(accept(cloud.clone(), listener, stopped));
        Self { cloud, stop, task }
    }

    /// Ends the functions, finishes requests in flight and waits.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        self.cloud.lambda.stop().await;
        self.cloud.metrics.flush();
        if tokio::time::timeout(Duration::from_secs(3), &mut self.task).await.is_err() {
            // Aborting the accept loop drops its set of connections, which ends them too.
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.cloud.lambda.kill();
        self.cloud.metrics.flush();
    }
}

/// Completes when the server is to stop, or was dropped.
async fn stop_asked(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await.map(|_| ());
}

async fn accept(cloud: Arc<Cloud>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, for example: wait for connections to end instead of spinning.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = stop_asked(&mut stopped) => break,
        };
        let _ = stream.set_nodelay(true);
        let (cloud, mut stopped) = (cloud.clone(), stopped.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let cloud = cloud.clone();
                async move { Ok::<_, Infallible>(respond(&cloud, request.map(Body::new)).await) }
            });
            let mut connection = std::pin::pin!(
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service)
            );
            tokio::select! {
                _ = connection.as_mut() => return,
                () = stop_asked(&mut stopped) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers one request; a bug in a handler costs that request only.
async fn respond(cloud: &Arc<Cloud>, request: Request) -> Response {
    let mut response = match AssertUnwindSafe(dispatch(cloud, request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => ApiError::internal("the request's handler failed").into_response("application/json"),
    };
    let headers = response.headers_mut();
    if !headers.contains_key("x-amzn-requestid") && !headers.contains_key("x-amz-request-id") {
        set_header(headers, "x-amzn-requestid", &uuid());
    }
    response
}

/// Whether a request is addressed to this machine by a name that nobody else can point at it: a page whose own name was made to
/// resolve to loopback is of another origin than it says.
fn local_host(request: &Request) -> bool {
    let host = header_text(request.headers(), "host").unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

async fn dispatch(cloud: &Arc<Cloud>, request: Request) -> Response {
    if !local_host(&request) {
        let message =
            "the embedded cloud answers to 127.0.0.1 and localhost only; S3 clients need path-style addresses";
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "NotImplemented", message)
            .into_response("application/json");
    }
    let path = request.uri().path();
    if path == "/v2" || path.starts_with("/v2/") {
        return registry::respond(cloud, request).await;
    }
    if path.starts_with("/_url/") {
        return lambda::url_request(cloud, request).await;
    }
    if path.starts_with("/_code/") && request.method() == Method::GET {
        return lambda::download(cloud, path);
    }
    if path == "/_local/health" && request.method() == Method::GET {
        let body = serde_json::to_value(&cloud.endpoint).unwrap_or_default();
        return json_reply(StatusCode::OK, "application/json", &body);
    }
    let target = header_text(request.headers(), "x-amz-target").unwrap_or_default().to_owned();
    // The credential's scope names the service; unsigned requests are told apart by their form, to be refused in the right one.
    let service = match Authorization::read(request.headers()) {
        Some(authorization) => authorization.service.to_owned(),
        None if target.starts_with(ecr::TARGET_PREFIX) => "ecr".to_owned(),
        None if target.starts_with(logs::TARGET_PREFIX) => "logs".to_owned(),
        None if lambda::is_api_path(path) => "lambda".to_owned(),
        None => "s3".to_owned(),
    };
    match service.as_str() {
        "s3" => s3_request(cloud, request).await,
        "ecr" | "lambda" | "logs" => {
            let content_type = if service == "lambda" { lambda::CONTENT_TYPE } else { ecr::CONTENT_TYPE };
            let (parts, body) = request.into_parts();
            let (limit, too_large) = lambda::body_limit(&parts);
            let Some(body) = read_body(body, limit).await else {
                return too_large.into_response(content_type);
            };
            let result = match sigv4::verify(&parts, &body) {
                Err(error) => Err(error),
                Ok(()) if service == "ecr" => ecr::call(cloud, &target, &body).await,
                Ok(()) if service == "logs" => cloud.logs.call(&target, &body),
                Ok(()) => lambda::call(cloud, &parts, body).await,
            };
            result.unwrap_or_else(|error| error.into_response(content_type))
        }
        "iam" | "sts" | "monitoring" => {
            let (parts, body) = request.into_parts();
            let Some(body) = read_body(body, lambda::MAX_BODY).await else {
                return query_api::xml_error(lambda::too_large());
            };
            let call = query_api::Call::read(&body);
            let result = match sigv4::verify(&parts, &body) {
                Err(error) => Err(error),
                Ok(()) if service == "iam" => cloud.iam.call(&call),
                Ok(()) if service == "sts" => sts::call(&call),
                // CloudWatch's newer protocols name the operation in the path or a header.
                Ok(()) if call.action().is_empty() => {
                    let path = parts.uri.path();
                    let operation = target.rsplit('.').next().filter(|operation| !operation.is_empty());
                    let operation = operation.or(path.rsplit('/').next()).unwrap_or_default();
                    Err(ApiError::not_implemented(format!("monitoring: {operation} in another protocol than Query")))
                }
                Ok(()) => cloudwatch::call(cloud, &call),
            };
            result.unwrap_or_else(query_api::xml_error)
        }
        _ => unknown_service(&service, &target, request).await,
    }
}

/// Refuses a service that is not served, by its operation's name and in the form that its clients read.
async fn unknown_service(service: &str, target: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let form = header_text(&parts.headers, "content-type")
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if form {
        let body = read_body(body, lambda::MAX_BODY).await.unwrap_or_default();
        let call = query_api::Call::read(&body);
        return query_api::xml_error(ApiError::not_implemented(format!("{service}: {}", call.action())));
    }
    let operation = match target.rsplit_once('.') {
        Some((_, operation)) => operation.to_owned(),
        None => format!("{} {}", parts.method, parts.uri.path()),
    };
    ApiError::not_implemented(format!("{service}: {operation}")).into_response("application/json")
}

async fn s3_request(cloud: &Cloud, request: Request) -> Response {
    match s3::respond(&cloud.s3, request).await {
        Some(response) => response,
        None => ApiError::internal("the S3 request failed").into_response("application/json"),
    }
}
