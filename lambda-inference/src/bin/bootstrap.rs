//! The function's program: loads the model beside it and answers events of the Lambda Runtime API.

use std::convert::Infallible;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use lambda_inference::runtime_api::{Client, Delivery, Error, Event};
use lambda_inference::{Model, request};

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
    let mut api = Client::new(runtime_api()?);
    // The connection is made while the model is read; whether there is anybody matters only after that.
    let connected = api.connect();
    let model = load().inspect_err(|reason| {
        if connected.is_ok() {
            // Whoever cannot be told so sees the program end.
            let _ = api.fail_to_start("Runtime.ModelRefused", reason);
        }
    })?;
    match connected.and_then(|()| answer_events(&mut api, &model)) {
        Ok(never) => match never {},
        Err(error) => Err(format!("speak to the Runtime API: {error}")),
    }
}

fn load() -> Result<Model, String> {
    let path = model_path()?;
    let bytes = std::fs::read(&path).map_err(|error| format!("read the model {}: {error}", path.display()))?;
    Model::from_bytes(&bytes).map_err(|error| format!("refuse the model {}: {error}", path.display()))
}

/// Ends only when the Runtime API does.
fn answer_events(api: &mut Client, model: &Model) -> Result<Infallible, Error> {
    let (mut event, mut answer) = (Event::default(), Vec::new());
    loop {
        api.next(&mut event)?;
        answer.clear();
        let delivery = match std::str::from_utf8(&event.payload) {
            Ok(text) => {
                // Memory takes everything, and the answer holds nothing that JSON cannot.
                let _ = serde_json::to_writer(&mut answer, &request::answer(model, text));
                api.respond(&event, &answer)?
            }
            Err(error) => api.fail(&event, "Runtime.InvalidEvent", &format!("the event is not UTF-8: {error}"))?,
        };
        if let Delivery::Refused(status) = delivery {
            eprintln!("the Runtime API refused the answer to {} with status {status}", event.id);
        }
    }
}

/// Where the Runtime API is: Lambda says so in numbers.
fn runtime_api() -> Result<SocketAddr, String> {
    const NAME: &str = "AWS_LAMBDA_RUNTIME_API";
    let api = env::var(NAME).map_err(|_| format!("{NAME} is not set: Lambda starts this program"))?;
    api.parse().map_err(|_| format!("{NAME} is {api:?}: not an address and a port, such as 127.0.0.1:9001"))
}

/// `MODEL_PATH`, or the file beside this program, wherever the image was unpacked.
fn model_path() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("MODEL_PATH") {
        return Ok(PathBuf::from(path));
    }
    let program = env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    Ok(program.with_file_name("model.bin"))
}
