//! Programs that the pipeline needs and brings itself: uv, and through it the locked Python environments.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::Program;
use crate::{digest, paths, records, terminal};

/// The uv that the lock files were made with.
pub const UV_VERSION: &str = "0.13.9";
/// The oldest Python that the locked packages support.
const PYTHON_MINIMUM: (u32, u32) = (3, 11);

/// A Python interpreter that is new enough: `$PYTHON` if set, else the first that fits on the path.
///
/// # Errors
/// None is there, or all are too old; the message says what was found.
pub fn python() -> Result<PathBuf> {
    let asked = std::env::var_os("PYTHON").map(PathBuf::from);
    let candidates = match &asked {
        Some(asked) => vec![asked.clone()],
        None => {
            ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"].map(PathBuf::from).to_vec()
        }
    };
    let mut found = Vec::new();
    for candidate in candidates {
        let question = "import sys; print(sys.version_info[0], sys.version_info[1], sys.executable)";
        let Ok(answer) = duct::cmd(candidate.as_os_str(), ["-c", question]).stderr_null().read() else { continue };
        let mut words = answer.trim().splitn(3, ' ');
        let version =
            (words.next().and_then(|word| word.parse().ok()), words.next().and_then(|word| word.parse().ok()));
        let (Some(major), Some(minor)) = version else { continue };
        if (major, minor) >= PYTHON_MINIMUM {
            return Ok(words.next().map_or(candidate, PathBuf::from));
        }
        found.push(format!("{} is {major}.{minor}", candidate.display()));
    }
    let (major, minor) = PYTHON_MINIMUM;
    let found = if found.is_empty() { "none was found".to_string() } else { format!("found: {}", found.join(", ")) };
    bail!(
        "Python {major}.{minor} or newer is needed, {found}: install one (Debian: `apt-get install python3 python3-venv`, \
         macOS: `brew install python`), or name it with PYTHON=/path/to/python3"
    )
}

/// The locked uv: the one on the path if it is of the right version, else installed under target/tools.
pub fn uv(root: &Path) -> Result<PathBuf> {
    let home = paths::tools(root).join(format!("uv-{UV_VERSION}"));
    let installed = home.join("bin/uv");
    if installed.is_file() {
        return Ok(installed);
    }
    let right = |program: &OsStr| {
        let answer = duct::cmd(program, ["--version"]).stderr_null().read().unwrap_or_default();
        answer.split_whitespace().nth(1) == Some(UV_VERSION)
    };
    if right(OsStr::new("uv")) {
        return Ok(PathBuf::from("uv"));
    }
    terminal::note(&format!("installing uv {UV_VERSION} into {}", home.display()));
    let python = python()?;
    // Built beside its place and moved there whole, so that an interrupted installation is never taken for a finished one.
    let fresh = paths::tools(root).join(format!("uv-{UV_VERSION}.new-{}", std::process::id()));
    let log = paths::tools(root).join("uv.log");
    let install = || -> Result<()> {
        Program::new("make a Python environment for uv", &python, root)
            .args(["-m", "venv"])
            .arg(&fresh)
            .run(&log)
            .context("Debian keeps this module in its own package: `apt-get install python3-venv`")?;
        Program::new("install uv", fresh.join("bin/python"), root)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
            .arg(format!("uv=={UV_VERSION}"))
            .limit(Duration::from_secs(300))
            .run(&log)
            .context("the first run needs the network to install locked packages: connect and run `cargo xtask setup`")
    };
    let result =
        install().and_then(|()| fs::rename(&fresh, &home).with_context(|| format!("move uv to {}", home.display())));
    if result.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    result.map(|()| installed)
}

/// A locked Python environment.
pub struct Environment {
    /// Its interpreter.
    pub python: PathBuf,
    /// Where its modules' bytecode is kept. Beside the sources everybody who lists the tree would find it; and without any,
    /// every start would compile the packages anew, which takes seconds.
    pub bytecode: PathBuf,
}

/// Brings the `.venv` of the uv project in `directory` to what its uv.lock says, and gives its interpreter.
///
/// # Errors
/// No Python, no network for the first installation, or a lock that does not fit pyproject.toml.
pub fn python_environment(root: &Path, directory: &Path) -> Result<Environment> {
    let project = root.join(directory);
    let environment = Environment { python: interpreter(&project), bytecode: paths::tools(root).join("bytecode") };
    if is_installed(root, directory)? {
        return Ok(environment);
    }
    let uv = uv(root)?;
    let python = python()?;
    let log = paths::tools(root).join(format!("{}.log", directory.display().to_string().replace('/', "-")));
    terminal::note(&format!("installing the locked Python packages of {}", directory.display()));
    Program::new("install the locked Python packages", uv, root)
        .args(["sync", "--locked", "--no-progress", "--project"])
        .arg(&project)
        .arg("--python")
        .arg(python)
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env_remove("VIRTUAL_ENV")
        .run(&log)
        .context("the first run needs the network to install locked packages: connect and run `cargo xtask setup`")?;
    records::write_atomically(&project.join(STAMP), stamp(&project)?.as_bytes())?;
    Ok(environment)
}

/// Names, in a uv project, the lock that its `.venv` was brought to.
const STAMP: &str = ".venv/.locked";

/// Whether the `.venv` of the uv project in `directory` is what its uv.lock says.
pub fn is_installed(root: &Path, directory: &Path) -> Result<bool> {
    let project = root.join(directory);
    let wanted = stamp(&project)?;
    Ok(interpreter(&project).exists() && fs::read_to_string(project.join(STAMP)).is_ok_and(|found| found == wanted))
}

fn stamp(project: &Path) -> Result<String> {
    let lock = digest::of_file(&project.join("uv.lock"))?;
    let manifest = digest::of_file(&project.join("pyproject.toml"))?;
    Ok(format!("{lock} {manifest} {}", project.display()))
}

fn interpreter(project: &Path) -> PathBuf {
    project.join(".venv/bin/python")
}

impl Environment {
    /// A program of this environment: `python -m module`.
    pub fn module(&self, what: &str, module: &str, folder: &Path) -> Program {
        Program::new(what, &self.python, folder)
            .args(["-m", module])
            .env("PYTHONPYCACHEPREFIX", &self.bytecode)
            .env_remove("PYTHONDONTWRITEBYTECODE")
            .env("PYTHONUNBUFFERED", "1")
            .env_remove("PYTHONPATH")
            .env_remove("VIRTUAL_ENV")
    }
}
