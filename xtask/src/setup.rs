//! Setup: the one command of a new contributor. Everything it installs lies inside the clone.

use anyhow::Result;
use serde_json::json;

use crate::context::Context;
use crate::{terminal, tools};

/// Installs the locked Python environment and compiles nothing; `pipeline` would do the same on its way.
pub fn run(context: &Context) -> Result<()> {
    let environment = tools::python_environment(&context.root, &context.config.model.directory)?;
    let target = context.config.inference.architecture.rust_target();
    let installed = has_rust_target(target);
    if !installed {
        terminal::warning(&format!("the Rust target {target} is missing: `rustup target add {target}`"));
    }
    if context.json {
        println!(
            "{}",
            json!({"python": environment.python, "rust_target": target, "rust_target_installed": installed})
        );
    } else {
        println!("Python environment: {}", environment.python.display());
        println!("next: `cargo xtask pipeline`, then `cargo xtask local`");
    }
    Ok(())
}

/// Whether the standard library is there for a target.
pub fn has_rust_target(target: &str) -> bool {
    let library = duct::cmd("rustc", ["--print", "target-libdir", "--target", target]).stderr_null().read();
    library.is_ok_and(|folder| std::path::Path::new(folder.trim()).is_dir())
}
