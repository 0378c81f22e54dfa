//! Where a case runs: a clone made of links to the real one, with run folders and a cloud's state that are put back before
//! each case, and the pipeline's program as a process of its own.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::{config, paths};

/// The environment that is worked in.
pub const ENVIRONMENT: &str = "preprod";
/// How long one attempt of a call may take here.
pub const ATTEMPT_SECONDS: u64 = 2;
/// A command that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Files from this size on are linked instead of copied: no stage writes into a file, all of them replace it.
const LINKED: u64 = 64 << 10;

/// A clone, and the state of a cloud.
pub struct Sandbox {
    pub clone: PathBuf,
    pub cloud: PathBuf,
    advisories: PathBuf,
    /// All is on loopback without TLS, and reading all certificates of the system takes longer than a deployment does.
    certificate: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// None if it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Sandbox {
    /// Makes the clone in `folder`.
    pub fn new(root: &Path, folder: &Path) -> Result<Sandbox> {
        let clone = folder.join("clone");
        fs::create_dir_all(&clone).with_context(|| format!("make {}", clone.display()))?;
        for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
            let name = entry.context("list the clone")?.file_name();
            let own = name.to_str().is_some_and(|name| ["target", "pipeline.toml"].contains(&name));
            let hidden = name.to_str().is_none_or(|name| name.starts_with('.'));
            if !own && !hidden {
                symlink(root.join(&name), clone.join(&name)).with_context(|| format!("link {}", name.display()))?;
            }
        }
        let advisories = folder.join("advisories");
        write_advisories(&advisories).context("make a database of advisories")?;
        let certificate = write_certificate(&folder.join("certificate.pem")).context("write a certificate")?;
        let sandbox = Sandbox { clone, cloud: folder.join("cloud"), advisories, certificate };
        sandbox.configure(root)?;
        Ok(sandbox)
    }

    /// The real pipeline.toml, without the pauses in which nothing happens.
    fn configure(&self, root: &Path) -> Result<()> {
        let text = fs::read_to_string(root.join("pipeline.toml")).context("read pipeline.toml")?;
        let mut table: toml::Table = text.parse().context("understand pipeline.toml")?;
        shorten(&mut table);
        fs::write(self.clone.join("pipeline.toml"), toml::to_string(&table)?).context("write pipeline.toml")?;
        config::read(&self.clone).map(|_| ())
    }

    /// The folder of all runs.
    pub fn runs(&self) -> PathBuf {
        paths::runs(&self.clone)
    }

    /// Puts runs and cloud back as they were kept in two folders.
    pub fn restore(&self, runs: &Path, cloud: &Path) -> Result<()> {
        replace(runs, &self.runs())?;
        replace(cloud, &self.cloud)
    }

    /// Starts a command of the pipeline against the cloud at `endpoint_url`.
    pub fn start(&self, command: &[&str], endpoint_url: &str) -> Result<Child> {
        let program = std::env::current_exe().context("find this program")?;
        let mut child = Command::new(program);
        child.args(command).args(["--env", ENVIRONMENT]).current_dir(&self.clone);
        for (name, _) in std::env::vars_os() {
            let foreign = name.to_str().is_none_or(|name| name.starts_with("GITHUB_") || name.starts_with("AWS_"));
            if foreign {
                child.env_remove(name);
            }
        }
        child
            .env("AWS_ENDPOINT_URL", endpoint_url)
            .env("AWS_ACCESS_KEY_ID", local_aws::ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", local_aws::SECRET_ACCESS_KEY)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("XTASK_ATTEMPT_TIMEOUT_SECONDS", ATTEMPT_SECONDS.to_string())
            .env("XTASK_RETRY_PAUSE_MILLISECONDS", "10")
            .env("RUSTSEC_ADVISORY_DB", &self.advisories)
            .env("NO_COLOR", "1")
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(certificate) = &self.certificate {
            child.env("SSL_CERT_FILE", certificate);
        }
        child.spawn().with_context(|| format!("start `{}`", command.join(" ")))
    }

    /// Runs a command to its end.
    pub async fn run(&self, command: &[&str], endpoint_url: &str) -> Result<Ended> {
        ended(self.start(command, endpoint_url)?).await
    }

    /// Runs a command that has to end well.
    pub async fn must(&self, command: &[&str], endpoint_url: &str) -> Result<Ended> {
        let ended = self.run(command, endpoint_url).await?;
        match ended.code {
            Some(0) => Ok(ended),
            code => bail!("`{}` ended with {code:?}:\n{}", command.join(" "), ended.errors),
        }
    }
}

/// Waits for a command, for so long.
pub async fn ended(child: Child) -> Result<Ended> {
    match tokio::time::timeout(LIMIT, child.wait_with_output()).await {
        Ok(output) => {
            let output = output.context("wait for the command")?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(Ended { code: output.status.code(), output: text(&output.stdout), errors: text(&output.stderr) })
        }
        Err(_) => bail!("the command hung for {} s", LIMIT.as_secs()),
    }
}

/// Takes out of a configuration what takes long without a call: pauses, the training image, services of others.
fn shorten(table: &mut toml::Table) {
    fn inner<'a>(table: &'a mut toml::Table, keys: &[&str]) -> Option<&'a mut toml::Table> {
        keys.iter().try_fold(table, |table, key| table.get_mut(*key)?.as_table_mut())
    }
    let mut set = |keys: &[&str], key: &str, value: toml::Value| {
        if let Some(found) = inner(table, keys).and_then(|table| table.get_mut(key)) {
            *found = value;
        }
    };
    set(&["environments", ENVIRONMENT, "rollout"], "pause_seconds", 0.into());
    set(&["environments", ENVIRONMENT], "training_image", "off".into());
    set(&["monitor"], "mail_to", toml::Value::Array(Vec::new()));
    set(&["github"], "repository", "example/model".into());
    if let Some(scan) = inner(table, &["scan"]) {
        scan.remove("python_advisories");
    }
}

/// A database of advisories that knows none about the program, so that no network is needed.
fn write_advisories(folder: &Path) -> io::Result<()> {
    let crates = folder.join("crates/not-in-the-program");
    fs::create_dir_all(&crates)?;
    let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-2020-9999\"\npackage = \"not-in-the-program\"\n\
                    date = \"2020-01-01\"\n\n[versions]\npatched = []\n```\n\n# Made up\n\nSo that there is one.\n";
    fs::write(crates.join("RUSTSEC-2020-9999.md"), advisory)
}

/// Writes the first of the system's certificates, where they lie as most Linux systems have them.
fn write_certificate(path: &Path) -> io::Result<Option<PathBuf>> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let Ok(all) = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") else { return Ok(None) };
    let Some(end) = all.find(END) else { return Ok(None) };
    fs::write(path, &all[..end + END.len()])?;
    Ok(Some(path.to_path_buf()))
}

/// Makes `to` what `from` is.
pub fn replace(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.metadata()?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.len() >= LINKED {
            fs::hard_link(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
