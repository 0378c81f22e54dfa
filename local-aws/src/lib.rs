//! The embedded cloud: ECR's control plane, an image registry, S3, Lambda and its metrics on one loopback port, and as much of IAM
//! and CloudWatch Logs as they are set up with, for development and tests without an account.
//!
//! It answers as AWS does, errors included, keeps its state on disk, and refuses by name what it does not know (HTTP 501 with
//! the operation's name) instead of pretending. Any AWS client works against it, given [`LocalCloud::endpoint_url`] as the
//! endpoint, [`ACCESS_KEY_ID`] and [`SECRET_ACCESS_KEY`] as credentials and path-style S3 addresses.
//!
//! Functions are the pushed images' own programs. They run as ordinary processes from an unpacked copy of the image, with the
//! environment that Lambda gives them and nothing else: this is *not a jail*, a program may read and write whatever the user
//! who started the cloud may. Run only images that you would run without it.
//!
//! Where it is simpler than AWS: every signed caller is the account's owner, so policies decide about anonymous callers only, and
//! roles are stored, not taken; loopback counts as a secure transport; encryption is a bucket's setting, not done; an
//! asynchronous invocation is tried once; lifecycle and repository policies are stored, not enforced; a function's memory is
//! not limited; a function whose program ignores the end of its Runtime API outlives a cloud that was killed.

mod cloudwatch;
mod disk;
mod ecr;
mod iam;
mod lambda;
mod logs;
mod query_api;
mod registry;
mod s3;
mod server;
mod sigv4;
mod sts;
mod wire;

use std::{
    fs::{File, TryLockError},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use server::{Cloud, Server};

/// The access key that signs requests.
pub const ACCESS_KEY_ID: &str = "LOCALCLOUD0000000000";
/// The secret that belongs to [`ACCESS_KEY_ID`]; a constant, because the cloud listens on loopback only.
pub const SECRET_ACCESS_KEY: &str = "local-cloud-secret-access-key-0000000000";
/// The account that owns everything.
pub const ACCOUNT_ID: &str = "000000000000";

/// The layout of the state directory; raised when an older one cannot be read any more.
const FORMAT: u32 = 1;

/// How to start the cloud.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of all state; created when missing.
    pub root: PathBuf,
    /// The loopback port; 0 takes a free one.
    pub port: u16,
    /// The region that resources say they are in.
    pub region: String,
}

/// Why the cloud did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Another process serves this state.
    AlreadyRunning {
        /// Where it listens; empty while it is still starting.
        endpoint_url: String,
        /// Its process id; 0 while it is still starting.
        pid: u32,
    },
    /// Something else listens on the port.
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The state cannot be read or written.
    State(anyhow::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AlreadyRunning { pid: 0, .. } => {
                write!(f, "another process is starting the embedded cloud on this state")
            }
            Self::AlreadyRunning { endpoint_url, pid } => {
                write!(f, "the embedded cloud already runs at {endpoint_url} (process {pid})")
            }
            Self::PortTaken { port } => write!(f, "port {port} is taken by another program"),
            Self::State(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A cloud that another process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its endpoint.
    pub endpoint_url: String,
    /// Its process id.
    pub pid: u32,
}

/// What makes a state directory itself, and not another one on the same port later.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    format: u32,
    id: String,
    /// The registry's password, kept so that a client's stored login outlives a restart.
    registry_token: String,
}

/// `endpoint.json`, and what `/_local/health` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Endpoint {
    endpoint_url: String,
    pid: u32,
    id: String,
}

/// A served cloud. Dropping it ends the server and the functions' processes; [`LocalCloud::shutdown`] also waits for their end.
#[derive(Debug)]
pub struct LocalCloud {
    endpoint_url: String,
    root: PathBuf,
    server: Option<Server>,
    _lock: RootLock,
}

impl LocalCloud {
    /// Starts serving the state in `options.root`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let root = prepare_root(&options.root).map_err(StartError::State)?;
        let lock = lock_root(&root).await?;
        let identity = identity(&root).map_err(StartError::State)?;
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port))).await.map_err(
            |error| match error.kind() {
                io::ErrorKind::AddrInUse => StartError::PortTaken { port: options.port },
                _ => {
                    StartError::State(anyhow::Error::new(error).context(format!("listening on port {}", options.port)))
                }
            },
        )?;
        let port = listener.local_addr().context("asking for the port").map_err(StartError::State)?.port();
        let endpoint = Endpoint {
            endpoint_url: format!("http://127.0.0.1:{port}"),
            pid: std::process::id(),
            id: identity.id.clone(),
        };
        let cloud =
            Cloud::load(root.clone(), options.region, port, identity, endpoint.clone()).map_err(StartError::State)?;
        disk::write_json(&root.join("endpoint.json"), &endpoint).map_err(StartError::State)?;
        let server = Server::start(Arc::new(cloud), listener);
        Ok(Self { endpoint_url: endpoint.endpoint_url, root, server: Some(server), _lock: lock })
    }

    /// The endpoint for AWS clients, `http://127.0.0.1:4600` for example.
    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// Ends the functions' processes and the server, waits for them, and releases the state.
    pub async fn shutdown(mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
        // Dropping self removes the endpoint file and then releases the lock.
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        drop(self.server.take());
        // A stale file would only cost readers one refused connection.
        let _ = disk::remove_file(&self.root.join("endpoint.json"));
    }
}

/// Finds the cloud that serves the state in `root`, if one does.
pub async fn running(root: &Path) -> Option<Running> {
    let endpoint: Endpoint = disk::read_json(&root.join("endpoint.json")).ok().flatten()?;
    let answer = tokio::time::timeout(Duration::from_secs(2), health(&endpoint.endpoint_url)).await.ok().flatten()?;
    // After a crash another program, or another state's cloud, may listen on that port.
    (answer.id == endpoint.id).then_some(Running { endpoint_url: endpoint.endpoint_url, pid: answer.pid })
}

async fn health(endpoint_url: &str) -> Option<Endpoint> {
    let address: SocketAddr = endpoint_url.strip_prefix("http://")?.parse().ok()?;
    if !address.ip().is_loopback() {
        return None;
    }
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /_local/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    stream.take(64 << 10).read_to_end(&mut reply).await.ok()?;
    let body = reply.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    serde_json::from_slice(&reply[body..]).ok()
}

fn prepare_root(root: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    root.canonicalize().with_context(|| format!("resolving {}", root.display()))
}

/// The lock of a root, released when dropped and, by the system, when the process is killed.
#[derive(Debug)]
struct RootLock(File);

impl Drop for RootLock {
    fn drop(&mut self) {
        // Closing the file alone is too late while a child that was just forked still has a copy of it.
        let _ = self.0.unlock();
    }
}

async fn lock_root(root: &Path) -> Result<RootLock, StartError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
        .map_err(StartError::State)?;
    // The other process may have the lock and not yet its port, or be about to end.
    for _ in 0..10 {
        match file.try_lock() {
            Ok(()) => return Ok(RootLock(file)),
            Err(TryLockError::Error(error)) => {
                return Err(StartError::State(
                    anyhow::Error::new(error).context(format!("locking {}", path.display())),
                ));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(Running { endpoint_url, pid }) = running(root).await {
            return Err(StartError::AlreadyRunning { endpoint_url, pid });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(StartError::AlreadyRunning { endpoint_url: String::new(), pid: 0 })
}

fn identity(root: &Path) -> anyhow::Result<Identity> {
    let path = root.join("identity.json");
    if let Some(identity) = disk::read_json::<Identity>(&path)? {
        anyhow::ensure!(
            identity.format == FORMAT,
            "{} says format {}, this version reads format {FORMAT}; delete the directory to start anew",
            path.display(),
            identity.format
        );
        return Ok(identity);
    }
    let identity = Identity {
        format: FORMAT,
        id: wire::uuid(),
        registry_token: format!("{}{}", wire::uuid(), wire::uuid()).replace('-', ""),
    };
    disk::write_json(&path, &identity)?;
    Ok(identity)
}
