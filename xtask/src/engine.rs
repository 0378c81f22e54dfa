//! The container engine that builds the training image and runs the notebook's tests in it: docker, podman or buildah.
//!
//! Nothing that ships needs one. `CONTAINER_ENGINE` names the engine to use; without it the first that answers is taken.
//! An engine's own variables (`DOCKER_HOST`, `CONTAINERS_STORAGE_CONF`, `BUILDAH_ISOLATION`, …) reach it untouched.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::paths;
use crate::process::{Ended, Program};
use crate::registry::Login;

/// The engines that are understood, in the order of preference.
const KINDS: [Kind; 3] = [Kind::Docker, Kind::Podman, Kind::Buildah];
/// Everything is built and run for what the pipeline's own machines are.
const PLATFORM: &str = "linux/amd64";
/// An unprivileged user that no machine has, whatever user the image names.
const USER: &str = "10001:10001";
/// Where a job finds what it is given, read-only.
pub const INPUT: &str = "/input";
/// The only folder, beside /tmp, that a job may write to.
pub const OUTPUT: &str = "/output";

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
    Buildah,
}

impl Kind {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
            Kind::Buildah => "buildah",
        }
    }

    /// A question that only a working engine answers. The client of docker is no engine.
    fn question(self) -> &'static [&'static str] {
        match self {
            Kind::Docker => &["version", "--format", "{{.Server.Version}}"],
            Kind::Podman | Kind::Buildah => &["info"],
        }
    }
}

/// An engine that answers.
pub struct Engine {
    kind: Kind,
    root: PathBuf,
}

/// Something to run in an image without a network, as nobody in particular.
pub struct Job<'a> {
    /// Name of the container while it runs.
    pub name: &'a str,
    /// Full name of the image, by digest.
    pub image: &'a str,
    /// Folder that is seen as [`INPUT`].
    pub input: &'a Path,
    /// Folder that is seen as [`OUTPUT`].
    pub output: &'a Path,
    pub variables: &'a [(&'a str, &'a str)],
    pub command: &'a [&'a str],
    pub limit: Duration,
}

/// The engine to use.
///
/// # Errors
/// None answers; the message says what was tried and what to install.
pub fn find(root: &Path) -> Result<Engine> {
    let asked = std::env::var("CONTAINER_ENGINE").unwrap_or_default();
    let mut tried = Vec::new();
    for kind in candidates(&asked)? {
        match answers(kind, root) {
            Ok(()) => return Ok(Engine { kind, root: root.to_path_buf() }),
            Err(reason) => tried.push(format!("{} {reason}", kind.name())),
        }
    }
    bail!(
        "no container engine answers ({}): start Docker, or install one (Debian and Ubuntu: `apt-get install buildah`, \
         macOS: `brew install podman`)",
        tried.join(", ")
    )
}

fn candidates(asked: &str) -> Result<Vec<Kind>> {
    if asked.is_empty() {
        return Ok(KINDS.to_vec());
    }
    match KINDS.iter().find(|kind| kind.name() == asked) {
        Some(kind) => Ok(vec![*kind]),
        None => bail!("CONTAINER_ENGINE is `{asked}`: it may be docker, podman or buildah"),
    }
}

fn answers(kind: Kind, root: &Path) -> std::result::Result<(), &'static str> {
    let question = Program::new("look for a container engine", kind.name(), root).args(kind.question());
    match question.limit(Duration::from_secs(30)).run_to_end(&paths::tools(root).join("engine.log")) {
        Err(_) => Err("is not installed"),
        Ok(ended) if ended.code == Some(0) => Ok(()),
        Ok(_) => Err("is installed but does not answer"),
    }
}

impl Engine {
    /// The program's name.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Builds `folder` with its Dockerfile as `image`; layers that did not change are taken from the last build.
    pub fn build(&self, image: &str, folder: &Path, log: &Path) -> Result<()> {
        self.program("build the training image")
            .args(build_arguments(self.kind, image, folder))
            // One image, not an index of an image and what is attested about it: Lambda and scanners want the former.
            .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
            .limit(Duration::from_secs(30 * 60))
            .run(log)
    }

    /// Signs in to a registry, in a folder of its own: what the user is signed in to stays as it is.
    pub fn sign_in(&self, registry: &str, login: &Login, log: &Path) -> Result<Session<'_>> {
        let folder = tempfile::tempdir().context("make a folder for the registry's token")?;
        if self.kind == Kind::Docker {
            write_docker_settings(folder.path())?;
        }
        let session = Session { engine: self, folder, plain: login.plain };
        session
            .program("sign in to the registry", "login")
            .args(["--username", &login.user, "--password-stdin", registry])
            .input(login.password.as_bytes())
            .run(log)?;
        Ok(session)
    }

    fn program(&self, what: &str) -> Program {
        Program::new(what, self.kind.name(), &self.root)
    }
}

/// An engine that is signed in to a registry; dropping it forgets the token.
pub struct Session<'a> {
    engine: &'a Engine,
    folder: TempDir,
    plain: bool,
}

impl Session<'_> {
    /// Pushes an image under its full name.
    pub fn push(&self, image: &str, log: &Path) -> Result<()> {
        self.program("push the training image", "push").arg(image).limit(Duration::from_secs(30 * 60)).run(log)
    }

    /// Pulls the job's image and runs the job in it.
    ///
    /// # Errors
    /// It cannot be started, or takes longer than its limit. How it ended is the caller's to judge.
    pub fn run(&self, job: &Job<'_>, log: &Path) -> Result<Ended> {
        let pull_log = log.with_extension("pull.log");
        self.remove(job.name, &pull_log);
        if self.engine.kind == Kind::Buildah {
            let working_container = self.program("pull the training image", "from").args(["--name", job.name]);
            working_container.arg(job.image).run(&pull_log)?;
        } else {
            self.program("pull the training image", "pull").arg(job.image).run(&pull_log)?;
        }
        let ended = self
            .engine
            .program("run the notebook's tests in the training image")
            .args(run_arguments(self.engine.kind, job))
            // In a mere chroot buildah would not say that it leaves the network open.
            .env_remove("BUILDAH_ISOLATION")
            .limit(job.limit)
            .run_to_end(log);
        // Ending the engine's client does not end the container.
        self.remove(job.name, &pull_log);
        ended
    }

    fn remove(&self, container: &str, log: &Path) {
        let arguments: &[&str] = if self.engine.kind == Kind::Buildah { &["rm"] } else { &["rm", "--force"] };
        let _ =
            self.engine.program("remove the container").args(arguments.iter().copied()).arg(container).run_to_end(log);
    }

    /// A subcommand that talks to the registry.
    fn program(&self, what: &str, subcommand: &str) -> Program {
        let program = self.engine.program(what).arg(subcommand);
        if self.engine.kind == Kind::Docker {
            // Docker itself allows a registry without TLS on loopback, and nowhere else.
            return program.env("DOCKER_CONFIG", self.folder.path());
        }
        let program = program.arg("--authfile").arg(self.folder.path().join("auth.json"));
        if self.plain { program.arg("--tls-verify=false") } else { program }
    }
}

fn build_arguments(kind: Kind, image: &str, folder: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["build", "--platform", PLATFORM, "--tag", image].map(OsString::from).into();
    if kind != Kind::Docker {
        // What docker does anyway.
        arguments.extend(["--layers", "--format", "docker"].map(OsString::from));
    }
    arguments.push("--file".into());
    arguments.push(folder.join("Dockerfile").into());
    arguments.push(folder.into());
    arguments
}

fn run_arguments(kind: Kind, job: &Job<'_>) -> Vec<OsString> {
    let volume = |from: &Path, to: &str, options: &str| {
        let mut argument = OsString::from("--volume=");
        argument.push(from);
        argument.push(format!(":{to}:{options}"));
        argument
    };
    let mut arguments: Vec<OsString> = ["run", "--network=none", &format!("--user={USER}")].map(OsString::from).into();
    if kind != Kind::Buildah {
        arguments.extend(["--rm", "--pull=never", "--name", job.name].map(OsString::from));
        arguments.extend(["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"].map(OsString::from));
        arguments.push("--security-opt=no-new-privileges".into());
    }
    // `Z` lets the container in where SELinux guards the machine's folders.
    arguments.push(volume(job.input, INPUT, "ro,Z"));
    arguments.push(volume(job.output, OUTPUT, "rw,Z"));
    arguments.extend(job.variables.iter().map(|(name, value)| format!("--env={name}={value}").into()));
    if kind == Kind::Buildah {
        arguments.extend([job.name, "--"].map(OsString::from));
    } else {
        arguments.push(job.image.into());
    }
    arguments.extend(job.command.iter().map(OsString::from));
    arguments
}

/// Settings of docker that know where its engine is, as the user's do, and nothing of what the user is signed in to.
fn write_docker_settings(folder: &Path) -> Result<()> {
    let own = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let Some(own) = own else { return Ok(()) };
    let settings: Value = fs::read(own.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let kept = match &settings["currentContext"] {
        Value::String(context) => json!({"currentContext": context}),
        _ => json!({}),
    };
    fs::write(folder.join("config.json"), kept.to_string()).context("write docker's settings")?;
    for shared in ["contexts", "cli-plugins"] {
        if own.join(shared).is_dir() {
            std::os::unix::fs::symlink(own.join(shared), folder.join(shared)).context("write docker's settings")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job<'static> {
        Job {
            name: "test",
            image: "host/name@sha256:1",
            input: Path::new("/in"),
            output: Path::new("/out"),
            variables: &[("KEY", "value")],
            command: &["python", "-m", "pytest"],
            limit: Duration::from_secs(1),
        }
    }

    fn texts(arguments: Vec<OsString>) -> Vec<String> {
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn the_engine_asked_for_is_the_only_candidate() {
        assert_eq!(candidates("").unwrap(), KINDS);
        assert_eq!(candidates("podman").unwrap(), [Kind::Podman]);
        assert!(candidates("lxc").unwrap_err().to_string().contains("docker, podman or buildah"));
    }

    #[test]
    fn a_job_has_no_network_and_no_privilege_whatever_the_engine() {
        for kind in KINDS {
            let arguments = texts(run_arguments(kind, &job()));
            for needed in ["--network=none", "--user=10001:10001", "--volume=/in:/input:ro,Z", "--env=KEY=value"] {
                assert!(arguments.iter().any(|argument| argument == needed), "{kind:?} without {needed}");
            }
            assert_eq!(arguments[arguments.len() - 3..], ["python", "-m", "pytest"]);
            // Buildah has no such options: there the user is what keeps the image as it is.
            let read_only = arguments.iter().any(|argument| argument == "--read-only");
            assert_eq!(read_only, kind != Kind::Buildah);
        }
    }

    #[test]
    fn layers_are_kept_and_the_platform_is_named() {
        for kind in KINDS {
            let arguments = texts(build_arguments(kind, "host/name:1", Path::new("/model")));
            assert!(arguments.windows(2).any(|pair| pair == ["--platform", "linux/amd64"]));
            assert_eq!(arguments.contains(&"--layers".to_string()), kind != Kind::Docker);
            assert_eq!(arguments[arguments.len() - 2..], ["/model/Dockerfile", "/model"]);
        }
    }

    #[test]
    fn dockers_own_sign_ins_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        write_docker_settings(folder.path()).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        assert!(written["auths"].is_null() && written["credsStore"].is_null());
    }
}
