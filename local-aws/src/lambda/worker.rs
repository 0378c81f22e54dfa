//! A function's process: one process serves one invocation at a time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpListener,
    process::Command,
    sync::{Notify, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    image::{Unpacked, inside},
    model::{Code, Config},
    runtime_api::{self, Job, Phase},
};
use crate::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, disk::lock, wire::uuid};

/// What `LogType: Tail` shows.
const TAIL: usize = 4096;

/// A process with its Runtime API. Dropping it kills the process.
pub struct Worker {
    /// Work for the process.
    pub jobs: mpsc::Sender<Job>,
    /// How far it is.
    pub phase: watch::Receiver<Phase>,
    /// Its log.
    pub log: Arc<Log>,
    /// Since when it has nothing to do.
    pub idle_since: Instant,
    kill: Arc<Notify>,
    monitor: JoinHandle<()>,
    _api: JoinSet<()>,
    _temporary: tempfile::TempDir,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The monitor owns the process, which is killed when it is dropped.
        self.monitor.abort();
    }
}

impl Worker {
    /// Kills the process and waits for its end.
    pub async fn stop(mut self) {
        self.kill.notify_one();
        let _ = (&mut self.monitor).await;
    }

    /// Whether the process can take another invocation.
    pub fn usable(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }
}

/// A function's log file, and the last lines of one process.
pub struct Log {
    file: Option<Mutex<File>>,
    tail: Mutex<Vec<u8>>,
}

impl Log {
    fn open(path: &Path) -> Self {
        // One older file is kept, so that a chatty function does not fill the disk.
        if path.metadata().is_ok_and(|metadata| metadata.len() > 16 << 20) {
            let _ = std::fs::rename(path, path.with_extension("log.1"));
        }
        let file = File::options().create(true).append(true).open(path).ok();
        Self { file: file.map(Mutex::new), tail: Mutex::default() }
    }

    /// Appends to the log. A log that cannot be written does not fail the invocation.
    pub fn write(&self, text: &[u8]) {
        if let Some(file) = &self.file {
            let _ = lock(file).write_all(text);
        }
        let mut tail = lock(&self.tail);
        tail.extend_from_slice(text);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }

    /// Begins an invocation's log.
    pub fn begin(&self) {
        lock(&self.tail).clear();
    }

    /// The end of the invocation's log.
    pub fn tail(&self) -> Vec<u8> {
        lock(&self.tail).clone()
    }
}

/// What a process is started from.
pub struct Start<'a> {
    /// The state directory.
    pub root: &'a Path,
    /// The region.
    pub region: &'a str,
    /// The function's name.
    pub function: &'a str,
    /// The version's number.
    pub version: &'a str,
    /// The version's configuration.
    pub config: &'a Config,
    /// The image or zip package.
    pub image: &'a Unpacked,
}

/// Why a process did not start.
#[derive(Debug)]
pub enum StartFailure {
    /// The code has no program, or one that cannot be run.
    Entrypoint(String),
    /// Something of ours.
    Internal(anyhow::Error),
}

impl From<anyhow::Error> for StartFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

/// Starts a process with a Runtime API of its own.
///
/// # Errors
/// See [`StartFailure`].
pub async fn start(start: Start<'_>) -> Result<Worker, StartFailure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("opening the Runtime API")?;
    let address = listener.local_addr().context("opening the Runtime API")?;
    let temporary =
        tempfile::Builder::new().prefix("fn-").tempdir_in(start.root.join("tmp")).context("creating /tmp")?;
    let log = Arc::new(Log::open(&start.root.join("logs").join(format!("{}.log", start.function))));
    let mut command = command(&start)?;
    command
        .envs(variables(&start, &address.to_string(), temporary.path()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let program = Path::new(command.as_std().get_program());
        let program = program.strip_prefix(&start.image.root).unwrap_or(program);
        StartFailure::Entrypoint(format!("fork/exec /{}: {error}", program.display()))
    })?;
    for pipe in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
        tokio::spawn(copy_log(pipe, log.clone()));
    }
    let (jobs, queue) = mpsc::channel(1);
    let (phase_sender, phase) = watch::channel(Phase::Starting);
    let phase_sender = Arc::new(phase_sender);
    let mut tasks = JoinSet::new();
    tasks.spawn(runtime_api::serve(listener, queue, phase_sender.clone()));
    let kill = Arc::new(Notify::new());
    let killed = kill.clone();
    let monitor = tokio::spawn(async move {
        let status = tokio::select! {
            status = child.wait() => status,
            () = killed.notified() => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        let text = match status {
            Ok(status) => exit_text(status),
            Err(error) => format!("Runtime could not be watched: {error}"),
        };
        phase_sender.send_modify(|phase| {
            if !matches!(phase, Phase::Failed(_)) {
                *phase = Phase::Exited(text);
            }
        });
    });
    Ok(Worker { jobs, phase, log, idle_since: Instant::now(), kill, monitor, _api: tasks, _temporary: temporary })
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

fn boxed(pipe: impl AsyncRead + Send + Unpin + 'static) -> Pipe {
    Box::new(pipe)
}

async fn copy_log(mut pipe: Pipe, log: Arc<Log>) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        log.write(&buffer[..read]);
    }
}

fn exit_text(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            let name = match signal {
                4 => "illegal instruction",
                6 => "aborted",
                9 => "killed",
                11 => "segmentation fault",
                15 => "terminated",
                _ => return format!("Runtime exited with error: signal {signal}"),
            };
            return format!("Runtime exited with error: signal: {name}");
        }
    }
    match status.code() {
        Some(0) | None => "Runtime exited without providing a reason".to_owned(),
        Some(code) => format!("Runtime exited with error: exit status {code}"),
    }
}

/// The program of the image, with the function's overrides, to be run from the unpacked copy.
fn command(start: &Start) -> Result<Command, StartFailure> {
    let program = &start.image.program;
    let overrides = start.config.image_config.clone().unwrap_or_default();
    // A new entry point drops the image's command, as in containers.
    let command_of_image = if overrides.entry_point.is_some() { None } else { program.cmd.clone() };
    let entry_point = overrides.entry_point.or_else(|| program.entrypoint.clone()).unwrap_or_default();
    let arguments = overrides.command.or(command_of_image).unwrap_or_default();
    let mut line = entry_point.into_iter().chain(arguments);
    let Some(name) = line.next().filter(|name| !name.is_empty()) else {
        return Err(StartFailure::Entrypoint("couldn't find valid entrypoint: the image names no program".to_owned()));
    };
    let root = &start.image.root;
    let working = overrides.working_directory.or_else(|| program.working_dir.clone()).filter(|path| !path.is_empty());
    let working = working.unwrap_or_else(|| "/".to_owned());
    let missing = |name: &str| StartFailure::Entrypoint(format!("fork/exec {name}: no such file or directory"));
    let resolved = if name.starts_with('/') {
        inside(root, Path::new(&name))?
    } else if name.contains('/') {
        inside(root, &Path::new(&working).join(&name))?
    } else {
        let path = program.env.iter().flatten().find_map(|pair| pair.strip_prefix("PATH="));
        let places = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(':');
        let mut candidates = places.filter_map(|place| inside(root, &Path::new(place).join(&name)).ok());
        candidates.find(|path| path.is_file()).ok_or_else(|| missing(&name))?
    };
    let Ok(metadata) = resolved.metadata() else {
        return Err(match start.config.code {
            Code::Image(_) => missing(&name),
            Code::Zip(_) => {
                StartFailure::Entrypoint(format!("Couldn't find valid bootstrap(s): [{name} /opt/bootstrap]"))
            }
        });
    };
    if !metadata.is_file() || !executable(&metadata) {
        return Err(StartFailure::Entrypoint(format!("fork/exec {name}: permission denied")));
    }
    let directory = inside(root, Path::new(&working))?;
    if !directory.is_dir() {
        return Err(StartFailure::Entrypoint(format!("chdir {working}: no such file or directory")));
    }
    let mut command = Command::new(resolved);
    command.args(line).current_dir(directory).env_clear();
    Ok(command)
}

#[cfg(unix)]
fn executable(metadata: &std::fs::Metadata) -> bool {
    // Everybody's permissions count, because Lambda runs programs as a user who owns none of them.
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o001 != 0
}

#[cfg(not(unix))]
fn executable(_metadata: &std::fs::Metadata) -> bool {
    true
}

fn variables(start: &Start, api: &str, temporary: &Path) -> BTreeMap<String, String> {
    let image = start.image.program.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    let mut variables: BTreeMap<String, String> =
        image.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    variables.extend(start.config.environment.clone());
    let task = start.image.root.join("var").join("task");
    let own: [(&str, String); 16] = [
        ("AWS_LAMBDA_RUNTIME_API", api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", start.function.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", start.version.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", start.config.memory.to_string()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", start.function)),
        (
            "AWS_LAMBDA_LOG_STREAM_NAME",
            format!("{}/[{}]{}", chrono::Utc::now().format("%Y/%m/%d"), start.version, uuid().replace('-', "")),
        ),
        ("AWS_REGION", start.region.to_owned()),
        ("AWS_DEFAULT_REGION", start.region.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        ("LAMBDA_TASK_ROOT", path_text(task)),
        ("LAMBDA_RUNTIME_DIR", path_text(start.image.root.join("var").join("runtime"))),
        ("TMPDIR", path_text(temporary.to_owned())),
        ("TZ", ":UTC".to_owned()),
        ("HOME", path_text(temporary.to_owned())),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if let Some(handler) = &start.config.handler {
        variables.insert("_HANDLER".to_owned(), handler.clone());
    }
    variables.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
    variables
}

fn path_text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
