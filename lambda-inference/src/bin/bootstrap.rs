//! The function's program: loads the model beside it and answers events of the Lambda Runtime API.
//!
//! It begins where the C library calls it, not in the standard library's own `main`: that one would ask the kernel for this
//! process's memory map and set up a handler that says "stack overflow" before the kernel ends a program, which is a fifth of what
//! is left of the start. Nothing here needs them: what is sent to a closed socket is an error and no signal, and what comes from
//! outside cannot make calls nest.

#![no_main]

use std::convert::Infallible;
use std::env;
use std::ffi::{c_char, c_int};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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

/// Called by the C library; gives the exit status.
// SAFETY: it is the only symbol of this name, and has the signature that C says.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    match serve() {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("{reason}");
            1
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
    let digest = digest_beside(&path)?;
    let cannot_read = |error| format!("read the model {}: {error}", path.display());
    let file = File::open(&path).map_err(cannot_read)?;
    // SAFETY: the file lies in the function's image, whose file system is read-only and whose layers never change; whoever names
    // another one by MODEL_PATH replaces it, if at all, by a file of its own.
    let model = unsafe { Model::map(&file, digest) }.map_err(cannot_read)?;
    model.map_err(|error| format!("refuse the model {}: {error}", path.display()))
}

/// The model's SHA-256 as whoever assembled the image wrote it down, in the form of `sha256sum`: for a large model computing
/// it takes longer than the whole start. What it says is compared with the model before and after it is deployed.
fn digest_beside(model: &Path) -> Result<Option<String>, String> {
    let path = model.with_added_extension("sha256");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("read the model's digest {}: {error}", path.display())),
    };
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match text.split_at_checked(64) {
        Some((digits, [b' ', ..])) if digits.iter().all(is_digit) => {
            Ok(Some(format!("sha256:{}", String::from_utf8_lossy(digits))))
        }
        _ => Err(format!("refuse the model's digest {}: it is not what sha256sum prints", path.display())),
    }
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
