//! The function's program: loads the model beside it and answers events of the Lambda Runtime API.

use std::convert::Infallible;
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use http::uri::Authority;
use lambda_inference::{Model, request};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use serde_json::value::RawValue;

/// The list of crates in this program, for those who scan it.
#[cfg(dependency_list)]
// SAFETY: the section holds plain bytes that nothing executes, and that nothing reads at run time; its name is not one that the
// linker or the loader gives a meaning.
#[unsafe(link_section = ".dep-v0")]
#[used]
static DEPENDENCY_LIST: [u8; include!(concat!(env!("OUT_DIR"), "/dependency-list-length"))] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/dependency-list"));

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    check_environment()?;
    let path = model_path()?;
    let bytes = std::fs::read(&path).map_err(|error| format!("read the model {}: {error}", path.display()))?;
    let model = Model::from_bytes(&bytes).map_err(|error| format!("refuse the model {}: {error}", path.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start the asynchronous runtime: {error}"))?;
    let model = &model;
    let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        Ok::<Value, Infallible>(request::answer(model, event.payload.get()))
    });
    runtime.block_on(lambda_runtime::run(handler)).map_err(|error| format!("speak to the Runtime API: {error}"))
}

/// The variables that the Lambda service sets, without which the runtime library would panic.
fn check_environment() -> Result<(), String> {
    let value = |name: &str| env::var(name).map_err(|_| format!("{name} is not set: Lambda starts this program"));
    let api = value("AWS_LAMBDA_RUNTIME_API")?;
    api.parse::<Authority>().map_err(|error| format!("AWS_LAMBDA_RUNTIME_API is {api:?}: {error}"))?;
    value("AWS_LAMBDA_FUNCTION_NAME")?;
    value("AWS_LAMBDA_FUNCTION_VERSION")?;
    let memory = value("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")?;
    memory.parse::<i32>().map_err(|error| format!("AWS_LAMBDA_FUNCTION_MEMORY_SIZE is {memory:?}: {error}"))?;
    Ok(())
}

/// `MODEL_PATH`, or the file beside this program, wherever the image was unpacked.
fn model_path() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("MODEL_PATH") {
        return Ok(PathBuf::from(path));
    }
    let program = env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    Ok(program.with_file_name("model.bin"))
}
