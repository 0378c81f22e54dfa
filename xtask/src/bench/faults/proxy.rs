//! A proxy on loopback between a command and its cloud: it names and counts the calls, and does to one of them what a network
//! or a busy service would.
//!
//! Addresses in answers are rewritten, so that the registry's and the function's calls pass through it as well.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::calls::{Call, Refusal};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused for too many requests.
    Throttled,
    /// Status 500.
    Failed,
    /// The connection is reset before anything is done.
    Reset,
    /// Done, and answered later than anybody waits.
    Slow,
    /// Done, and the answer ends in the middle.
    Truncated,
    /// Done, and the connection breaks instead of an answer.
    Lost,
    /// Refused because another update runs.
    Conflict,
    /// Refused because the expected revision is not the newest.
    Precondition,
    /// The page after the first is the first one again.
    RepeatedPage,
    /// A page says that it is the last when it is not.
    MissingPage,
}

impl Fault {
    /// For the name of a case.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Throttled => "throttled",
            Fault::Failed => "status 500",
            Fault::Reset => "connection reset",
            Fault::Slow => "slow answer",
            Fault::Truncated => "truncated body",
            Fault::Lost => "reply lost",
            Fault::Conflict => "409 while an update runs",
            Fault::Precondition => "412",
            Fault::RepeatedPage => "repeated page",
            Fault::MissingPage => "missing page",
        }
    }
}

/// One certain call of a command: the `occurrence`-th of its name, from 1 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub call: String,
    pub occurrence: usize,
}

/// What the proxy is to do.
#[derive(Debug, Clone, Default)]
pub enum Plan {
    /// Nothing: calls pass.
    #[default]
    Pass,
    /// A fault from `place` on, for `times` calls of that name.
    Inject { place: Place, fault: Fault, times: usize },
    /// The call at `place` is held, before it is passed on or before its answer is; see [`Proxy::stopped`].
    Stop { place: Place, answered: bool },
}

/// A call as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub call: Call,
    pub occurrence: usize,
    /// Bytes of the answer's body.
    pub answer: usize,
    /// Whether the answer says that there are more pages.
    pub paged: bool,
}

/// Longer than any attempt lasts; see [`super::sandbox::ATTEMPT_SECONDS`].
const SLOW: Duration = Duration::from_millis(super::sandbox::ATTEMPT_SECONDS * 1_000 + 500);
/// Long enough for what was written to leave.
const FLUSHED: Duration = Duration::from_millis(30);
/// Keys that name the next page.
const TOKENS: [&str; 3] = ["nextToken", "NextMarker", "NextToken"];

struct Shared {
    /// `127.0.0.1:port` of the cloud.
    upstream: String,
    /// `127.0.0.1:port` of this proxy.
    own: String,
    client: reqwest::Client,
    state: Mutex<State>,
    stopped: Notify,
}

#[derive(Default)]
struct State {
    plan: Plan,
    seen: Vec<Seen>,
    fired: usize,
    /// The answer's body to the last call of the name that the plan speaks of.
    page: Option<Bytes>,
}

/// A running proxy; it ends when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts one before the cloud at `endpoint_url`.
    pub async fn start(endpoint_url: &str, plan: Plan) -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("open a port for the proxy")?;
        let own = format!("127.0.0.1:{}", listener.local_addr().context("ask for the proxy's port")?.port());
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).redirect(reqwest::redirect::Policy::none());
        let shared = Arc::new(Shared {
            upstream: endpoint_url.trim_start_matches("http://").to_string(),
            own,
            client: client.build().context("make the proxy's client")?,
            state: Mutex::new(State { plan, ..State::default() }),
            stopped: Notify::new(),
        });
        let task = tokio::spawn(accept(shared.clone(), listener));
        Ok(Proxy { shared, task })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.own)
    }

    /// Lets everything pass from now on; gives how often the plan was carried out.
    pub fn pass(&self) -> usize {
        let mut state = self.shared.state();
        state.plan = Plan::Pass;
        state.fired
    }

    /// All calls so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// Completes when the call that the plan stops at is held.
    pub async fn stopped(&self) {
        self.shared.stopped.notified().await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(shared.clone(), stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let Ok((stream, twin)) = twin(stream) else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, twin) = (shared.clone(), &twin);
        async move {
            let end = shared.respond(request).await;
            if let Err(Broken::Reset) = end {
                // Closing with the time to linger at zero is what sends a reset.
                let _ = twin.set_zero_linger();
            }
            end
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The connection, and a second handle for its settings.
fn twin(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(twin)?))
}

/// How a connection ends instead of an answer.
#[derive(Debug)]
enum Broken {
    Reset,
    Closed,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self:?}")
    }
}

impl std::error::Error for Broken {}

/// An answer of the cloud.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Reply>, Broken> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken::Closed)?.to_bytes();
        let call = Call::of(&parts.method, &parts.uri, &parts.headers, &body);
        let (index, occurrence) = self.note(&call);
        match self.due(&call, occurrence) {
            Some(Due::Fault(Fault::Throttled)) => return Ok(refused(call.throttled())),
            Some(Due::Fault(Fault::Failed)) => return Ok(refused(call.failed())),
            Some(Due::Fault(Fault::Conflict)) => return Ok(refused(call.conflict())),
            Some(Due::Fault(Fault::Precondition)) => return Ok(refused(call.precondition_failed())),
            Some(Due::Fault(Fault::Reset)) => return Err(Broken::Reset),
            Some(Due::Fault(fault)) => {
                let answer = self.forward(&parts, body, index).await?;
                return self.spoil(fault, answer).await;
            }
            Some(Due::Stop { answered }) => {
                if answered {
                    self.forward(&parts, body.clone(), index).await?;
                }
                self.stopped.notify_one();
                std::future::pending::<Infallible>().await;
            }
            None => {}
        }
        Ok(answered(self.forward(&parts, body, index).await?))
    }

    /// Counts a call; gives its place in the list and which of its name it is.
    fn note(&self, call: &Call) -> (usize, usize) {
        let mut state = self.state();
        let occurrence = state.seen.iter().filter(|seen| seen.call.name == call.name).count() + 1;
        state.seen.push(Seen { call: call.clone(), occurrence, answer: 0, paged: false });
        (state.seen.len() - 1, occurrence)
    }

    /// What is due at a call.
    fn due(&self, call: &Call, occurrence: usize) -> Option<Due> {
        let mut state = self.state();
        let due = match &state.plan {
            Plan::Inject { place, fault, times } if place.call == call.name => {
                let passed = occurrence.checked_sub(place.occurrence)?;
                (passed < *times).then_some(Due::Fault(*fault))
            }
            Plan::Stop { place, answered } if place.call == call.name && place.occurrence == occurrence => {
                Some(Due::Stop { answered: *answered })
            }
            _ => None,
        };
        state.fired += usize::from(due.is_some());
        due
    }

    async fn forward(&self, parts: &http::request::Parts, body: Bytes, index: usize) -> Result<Answer, Broken> {
        let url = format!("http://{}{}", self.upstream, parts.uri);
        let request = self.client.request(parts.method.clone(), url).headers(parts.headers.clone()).body(body);
        let answer = request.send().await.map_err(|_| Broken::Closed)?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        let body = self.rewritten(&mut headers, answer.bytes().await.map_err(|_| Broken::Closed)?);
        let mut state = self.state();
        let seen = &mut state.seen[index];
        seen.answer = body.len();
        seen.paged = token(&body).is_some();
        let page = body.clone();
        let first = seen.occurrence == 1;
        if first {
            state.page = Some(page);
        }
        drop(state);
        Ok(Answer { status, headers, body })
    }

    /// The answer with this proxy's address in place of the cloud's.
    fn rewritten(&self, headers: &mut HeaderMap, body: Bytes) -> Bytes {
        for value in headers.values_mut() {
            if let Some(changed) = value.to_str().ok().filter(|text| text.contains(&self.upstream))
                && let Ok(changed) = changed.replace(&self.upstream, &self.own).parse()
            {
                *value = changed;
            }
        }
        match std::str::from_utf8(&body) {
            Ok(text) if text.contains(&self.upstream) => Bytes::from(text.replace(&self.upstream, &self.own)),
            _ => body,
        }
    }

    /// What becomes of an answer on its way back.
    async fn spoil(&self, fault: Fault, mut answer: Answer) -> Result<Response<Reply>, Broken> {
        match fault {
            Fault::Lost => return Err(Broken::Closed),
            Fault::Slow => tokio::time::sleep(SLOW).await,
            Fault::Truncated => {
                let length = answer.body.len();
                let half = answer.body.slice(..length / 2);
                let mut response = answered(Answer { body: half, ..answer });
                response.headers_mut().insert("content-length", length.into());
                response.body_mut().breaks = Some(Box::pin(tokio::time::sleep(FLUSHED)));
                return Ok(response);
            }
            Fault::RepeatedPage => answer.body = self.state().page.clone().unwrap_or(answer.body),
            Fault::MissingPage => answer.body = without_token(answer.body),
            _ => {}
        }
        Ok(answered(answer))
    }
}

enum Due {
    Fault(Fault),
    Stop { answered: bool },
}

/// The name of the key in a JSON body that says where the next page begins.
fn token(body: &[u8]) -> Option<&'static str> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    TOKENS.into_iter().find(|name| value[*name].is_string())
}

fn without_token(body: Bytes) -> Bytes {
    let Some(name) = token(&body) else { return body };
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&body) else { return body };
    value[name] = serde_json::Value::Null;
    Bytes::from(value.to_string())
}

fn answered(answer: Answer) -> Response<Reply> {
    let mut response = Response::new(Reply { rest: Some(answer.body), breaks: None });
    *response.status_mut() = answer.status;
    for (name, value) in &answer.headers {
        // What describes the connection to the cloud says nothing about this one.
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            response.headers_mut().append(name, value.clone());
        }
    }
    if let Some(length) = answer.headers.get("content-length").filter(|_| response.body().is_empty()) {
        // The answer to a HEAD: the length of what would have come.
        response.headers_mut().insert("content-length", length.clone());
    }
    response
}

fn refused(refusal: Refusal) -> Response<Reply> {
    let mut response = Response::new(Reply { rest: Some(Bytes::from(refusal.body)), breaks: None });
    *response.status_mut() = refusal.status;
    for (name, value) in refusal.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A body that may break off.
struct Reply {
    rest: Option<Bytes>,
    /// Over when what came so far is on its way, and the connection ends.
    breaks: Option<Pin<Box<Sleep>>>,
}

impl Reply {
    fn is_empty(&self) -> bool {
        self.rest.as_ref().is_none_or(Bytes::is_empty)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match (self.rest.take(), &mut self.breaks) {
            (Some(rest), _) if !rest.is_empty() => Poll::Ready(Some(Ok(Frame::data(rest)))),
            (_, Some(breaks)) => breaks.as_mut().poll(context).map(|()| Some(Err(Broken::Closed))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.breaks.is_none() && self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(rest) if self.breaks.is_none() => SizeHint::with_exact(rest.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::faults::fixtures::serve;

    /// What a request to the embedded cloud's health page comes to, with a fault at the second one.
    async fn second(fault: Fault) -> (reqwest::Result<String>, StatusCode) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let state = tempfile::tempdir().unwrap();
        let cloud = serve(state.path()).await.unwrap();
        let place = Place { call: " unknown".into(), occurrence: 2 };
        let proxy = Proxy::start(cloud.endpoint_url(), Plan::Inject { place, fault, times: 1 }).await.unwrap();
        // On a connection that served before, the client would try again by itself.
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(0).build().unwrap();
        let mut results = Vec::new();
        for _ in 0..3 {
            results.push(match client.get(format!("{}/_local/health", proxy.url())).send().await {
                Ok(answer) => (answer.status(), answer.text().await),
                Err(error) => (StatusCode::IM_A_TEAPOT, Err(error)),
            });
        }
        assert_eq!(proxy.pass(), 1);
        assert_eq!(proxy.seen().len(), 3);
        for (status, body) in [&results[0], &results[2]] {
            let body = body.as_ref().unwrap();
            assert!(
                status.is_success() && body.contains(&proxy.url()),
                "the proxy's address stands for the cloud's: {body}"
            );
        }
        let (status, body) = results.swap_remove(1);
        (body, status)
    }

    #[tokio::test]
    async fn each_fault_is_what_its_name_says() {
        assert_eq!(second(Fault::Throttled).await.1, 400);
        assert_eq!(second(Fault::Failed).await.1, 500);
        for broken in [Fault::Reset, Fault::Lost] {
            assert!(second(broken).await.0.unwrap_err().is_request(), "{broken:?}");
        }
        let (body, status) = second(Fault::Truncated).await;
        let error = body.unwrap_err();
        assert!(status.is_success() && (error.is_body() || error.is_decode()), "{status} {error:?}");
    }

    #[test]
    fn the_next_page_is_forgotten() {
        let page = Bytes::from_static(br#"{"findings":[1],"nextToken":"2"}"#);
        assert_eq!(token(&page), Some("nextToken"));
        assert_eq!(token(&without_token(page)), None);
    }
}
