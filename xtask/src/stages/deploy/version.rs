//! From an image or a zip package to a published version of the function.
//!
//! Every step begins by reading what the function is now, and ends when reading shows what was wanted. So a lost answer, a
//! conflict with an update that still runs, and a process killed half way all end the same: by going on from what is there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_sdk_ecr::types::ImageIdentifier;
use aws_sdk_lambda::types::{LastUpdateStatus, PackageType, State};

use super::alias::{has_code, is_final};
use crate::cloud::{Cloud, service_error};
use crate::config::{Architecture, Environment, Package};
use crate::function::Code;
use crate::terminal::Progress;
use crate::{digest, function, package};

/// How long an update or a new version may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the same step is tried.
const TRIES: u32 = 6;

/// The code that a version is to have, and what is said about it.
pub struct Wanted<'a> {
    pub code: Code<'a>,
    /// `sha256:…` of the image or of the zip package.
    pub digest: &'a str,
    pub repository: &'a str,
    /// Of the version: the run and the model.
    pub description: &'a str,
    pub architecture: Architecture,
}

impl Wanted<'_> {
    fn package(&self) -> Package {
        match self.code {
            Code::Image { .. } => Package::Image,
            Code::Zip { .. } => Package::Zip,
        }
    }

    /// As Lambda writes it.
    fn sha(&self) -> String {
        match self.package() {
            Package::Image => self.digest.trim_start_matches("sha256:").to_string(),
            Package::Zip => package::code_sha256(self.digest),
        }
    }

    fn in_words(&self) -> String {
        format!("{} {}", self.package().in_words(), self.digest)
    }
}

/// The function, or one version of it, as it was read.
#[derive(Debug, Clone, Default)]
struct Seen {
    package: Package,
    /// Of the image's manifest in hexadecimal, or of the zip package in base64.
    sha: String,
    revision: Option<String>,
    /// Whether it is being created or updated.
    busy: bool,
    /// Why its creation or its last update failed.
    failed: Option<String>,
}

/// What is to be done next to bring the code to the function.
#[derive(Debug, PartialEq)]
enum Next {
    Create,
    Update {
        revision: Option<String>,
    },
    Wait,
    Done {
        revision: Option<String>,
    },
    /// Somebody else put this code there meanwhile.
    TakenOver {
        sha: String,
    },
    Failed {
        reason: String,
    },
}

/// What was done so far.
#[derive(Default)]
struct Tried {
    /// The code at the beginning; none if there was no function.
    first: Option<String>,
    creations: u32,
    updates: u32,
}

fn next(seen: Option<&Seen>, wanted: &str, tried: &Tried) -> Next {
    let Some(seen) = seen else { return Next::Create };
    if seen.sha != wanted && tried.first.as_ref() != Some(&seen.sha) {
        return Next::TakenOver { sha: seen.sha.clone() };
    }
    if seen.busy {
        return Next::Wait;
    }
    match (&seen.failed, seen.sha == wanted) {
        // What failed before this command began may work now.
        (Some(reason), true) if tried.updates + tried.creations > 0 => Next::Failed { reason: reason.clone() },
        (None, true) => Next::Done { revision: seen.revision.clone() },
        _ => Next::Update { revision: seen.revision.clone() },
    }
}

/// Makes a version of the wanted code; gives its number. What was done is added to `decisions`.
///
/// # Errors
/// The code does not start, somebody else changed the function meanwhile, or it took too long.
pub async fn publish(
    cloud: &Cloud,
    environment: &Environment,
    wanted: &Wanted<'_>,
    decisions: &mut Vec<String>,
) -> Result<String> {
    let mut revision = bring_code(cloud, environment, wanted, decisions).await?;
    let function = &environment.function;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let answer = cloud
            .lambda
            .publish_version()
            .function_name(function)
            // Refused if the code is not, or no longer, the one that was judged.
            .code_sha256(wanted.sha())
            .set_revision_id(revision.clone())
            .description(wanted.description)
            .send()
            .await;
        let error = match answer {
            Ok(published) => {
                let version = published.version().context("the published version has no number")?.to_string();
                // Code that did not change since the last version makes no new one: the last one is the answer then.
                wait_until_ready(cloud, function, &version, wanted).await?;
                decisions.push(format!("version {version} has the {}", wanted.package().in_words()));
                return Ok(version);
            }
            Err(error) => error,
        };
        let found = configuration(cloud, function, None).await;
        if let Ok(Some(seen)) = &found
            && seen.sha != wanted.sha()
        {
            return Err(taken_over(cloud, wanted, &seen.sha).await);
        }
        if is_final(&error) || attempt >= TRIES {
            return Err(service_error(error)).context("publish a version");
        }
        // An update that still runs, or a revision that its end changed.
        revision = bring_code(cloud, environment, wanted, decisions).await?;
    }
}

/// Makes the image or the zip package the function's code; gives the revision that it has then.
async fn bring_code(
    cloud: &Cloud,
    environment: &Environment,
    wanted: &Wanted<'_>,
    decisions: &mut Vec<String>,
) -> Result<Option<String>> {
    let function = &environment.function;
    let begun = Instant::now();
    let mut progress = None;
    let mut pause = Duration::from_millis(50);
    let first = configuration(cloud, function, None).await?;
    if let Some(seen) = &first {
        same_kind(environment, seen.package)?;
    }
    let mut tried = Tried { first: first.as_ref().map(|seen| seen.sha.clone()), ..Tried::default() };
    let mut seen = first;
    loop {
        let error = match next(seen.as_ref(), &wanted.sha(), &tried) {
            Next::Create => {
                tried.creations += 1;
                let made = function::create(cloud, environment, wanted.architecture, &wanted.code).await;
                if made.is_ok() {
                    decisions.push(format!("created function {function}"));
                }
                made.err().filter(|_| tried.creations >= TRIES)
            }
            Next::Update { revision } => {
                tried.updates += 1;
                match update(cloud, function, wanted, revision).await {
                    Ok(()) => {
                        let kind = wanted.package().in_words();
                        decisions.push(format!("updated {function} to {kind} {}", digest::short(wanted.digest)));
                        None
                    }
                    Err((error, is_final)) => (is_final || tried.updates >= TRIES).then_some(error),
                }
            }
            Next::Wait => None,
            Next::Done { revision } => return Ok(revision),
            Next::TakenOver { sha } => return Err(taken_over(cloud, wanted, &sha).await),
            Next::Failed { reason } => bail!("{function} cannot run {}: {reason}", wanted.in_words()),
        };
        if let Some(error) = error {
            return Err(error);
        }
        if begun.elapsed() > LIMIT {
            bail!("{function} was not ready after {} s: run `cargo xtask deploy` again later", LIMIT.as_secs());
        }
        progress.get_or_insert_with(|| Progress::start("wait until the function has its code", None));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
        seen = configuration(cloud, function, None).await?;
    }
}

/// Asks for the update; an error comes with whether it stays one.
async fn update(
    cloud: &Cloud,
    function: &str,
    wanted: &Wanted<'_>,
    revision: Option<String>,
) -> Result<(), (anyhow::Error, bool)> {
    let request = cloud.lambda.update_function_code().function_name(function);
    let request = match wanted.code {
        Code::Image { uri } => request.image_uri(uri),
        Code::Zip { bucket, key } => request.s3_bucket(bucket).s3_key(key),
    };
    let answer = request
        // Refused if somebody changed the function since it was read.
        .set_revision_id(revision)
        .send()
        .await;
    match answer {
        Ok(_) => Ok(()),
        Err(error) => {
            let is_final = is_final(&error);
            Err((service_error(error).context(format!("update the code of {function}")), is_final))
        }
    }
}

async fn wait_until_ready(cloud: &Cloud, function: &str, version: &str, wanted: &Wanted<'_>) -> Result<()> {
    let begun = Instant::now();
    let mut progress = None;
    let mut pause = Duration::from_millis(50);
    loop {
        let seen = configuration(cloud, function, Some(version)).await?;
        let seen = seen.with_context(|| format!("version {version} of {function} is gone again"))?;
        if seen.sha != wanted.sha() {
            bail!(
                "version {version} of {function} has code {}, not {} of {}",
                seen.sha,
                wanted.sha(),
                wanted.in_words()
            );
        }
        if let Some(reason) = seen.failed {
            bail!("version {version} of {function} cannot run {}: {reason}", wanted.in_words());
        }
        if !seen.busy {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("version {version} of {function} was not ready after {} s", LIMIT.as_secs());
        }
        progress.get_or_insert_with(|| Progress::start("wait until the version is ready", None));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn configuration(cloud: &Cloud, function: &str, version: Option<&str>) -> Result<Option<Seen>> {
    let request = cloud.lambda.get_function_configuration().function_name(function);
    let answer = match request.set_qualifier(version.map(String::from)).send().await {
        Ok(answer) => answer,
        Err(error) if has_code(&error, "ResourceNotFoundException") => return Ok(None),
        Err(error) => return Err(service_error(error)).with_context(|| format!("ask for the function {function}")),
    };
    let creation_failed = answer.state() == Some(&State::Failed);
    let update_failed = answer.last_update_status() == Some(&LastUpdateStatus::Failed);
    let reason = match (creation_failed, update_failed) {
        (true, _) => Some(answer.state_reason().unwrap_or("no reason given")),
        (_, true) => Some(answer.last_update_status_reason().unwrap_or("no reason given")),
        _ => None,
    };
    Ok(Some(Seen {
        package: kind(answer.package_type()),
        sha: answer.code_sha256().unwrap_or_default().to_string(),
        revision: answer.revision_id().map(String::from),
        busy: answer.state() == Some(&State::Pending)
            || answer.last_update_status() == Some(&LastUpdateStatus::InProgress),
        failed: reason.map(String::from),
    }))
}

/// What a function is made of, in Lambda's words.
pub fn kind(package_type: Option<&PackageType>) -> Package {
    match package_type {
        Some(PackageType::Image) => Package::Image,
        // Also where nothing is said, as by functions that are older than images.
        _ => Package::Zip,
    }
}

/// Fails if the function is made of something else than the environment says: Lambda never changes that.
pub fn same_kind(environment: &Environment, found: Package) -> Result<()> {
    let Environment { function, package: wanted, .. } = environment;
    if found != *wanted {
        bail!(
            "{function} is made of a{} {}, pipeline.toml says package = \"{}\", and Lambda does not change the kind of a function: \
             write package = \"{}\", or name another function there",
            if found == Package::Image { "n" } else { "" },
            found.in_words(),
            wanted.name(),
            found.name()
        );
    }
    Ok(())
}

/// The error that names who changed the function.
async fn taken_over(cloud: &Cloud, wanted: &Wanted<'_>, sha: &str) -> anyhow::Error {
    if let Code::Zip { bucket, key } = wanted.code {
        return anyhow::anyhow!(
            "the function has code {sha}, not {} of {}: another deployer changed it meanwhile, or s3://{bucket}/{key} was altered; \
             no traffic was moved here; run `cargo xtask deploy` again if yours is to follow",
            wanted.sha(),
            wanted.in_words()
        );
    }
    let image = format!("sha256:{sha}");
    let identifier = ImageIdentifier::builder().image_digest(&image).build();
    let request = cloud.ecr.describe_images().repository_name(wanted.repository).image_ids(identifier);
    // The image's tag is the run that built it.
    let tags = match request.send().await {
        Ok(answer) => answer.image_details().iter().flat_map(|image| image.image_tags().to_vec()).collect(),
        Err(_) => Vec::new(),
    };
    let whose = if tags.is_empty() {
        "somebody outside of the pipeline".to_string()
    } else {
        format!("run {}", tags.join(", "))
    };
    anyhow::anyhow!(
        "another deployer gave the function image {image} meanwhile, of {whose}: no traffic was moved here; \
         run `cargo xtask deploy` again if yours is to follow"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sha: &str) -> Seen {
        Seen { sha: sha.into(), revision: Some("r".into()), ..Seen::default() }
    }

    fn tried(first: Option<&str>, creations: u32, updates: u32) -> Tried {
        Tried { first: first.map(String::from), creations, updates }
    }

    #[test]
    fn the_next_step_follows_from_what_is_there() {
        let revision = Some("r".to_string());
        assert_eq!(next(None, "new", &tried(None, 0, 0)), Next::Create);
        assert_eq!(
            next(Some(&seen("old")), "new", &tried(Some("old"), 0, 0)),
            Next::Update { revision: revision.clone() }
        );
        assert_eq!(
            next(Some(&seen("new")), "new", &tried(Some("old"), 0, 1)),
            Next::Done { revision: revision.clone() }
        );
        let busy = Seen { busy: true, ..seen("new") };
        assert_eq!(next(Some(&busy), "new", &tried(Some("old"), 0, 1)), Next::Wait);
        // A creation whose answer was lost, and one that somebody else made.
        assert_eq!(next(Some(&seen("new")), "new", &tried(None, 1, 0)), Next::Done { revision: revision.clone() });
        let other = Next::TakenOver { sha: "other".into() };
        assert_eq!(next(Some(&seen("other")), "new", &tried(None, 1, 0)), other);
        assert_eq!(next(Some(&seen("other")), "new", &tried(Some("old"), 0, 1)), other);
    }

    #[test]
    fn a_function_of_the_other_kind_is_refused_and_what_helps_is_named() {
        let config = crate::config::parse(include_str!("../../../../pipeline.toml")).unwrap();
        let mut environment = config.environment("local").unwrap().clone();
        same_kind(&environment, Package::Image).unwrap();
        environment.package = Package::Zip;
        same_kind(&environment, kind(None)).unwrap();
        let refused = same_kind(&environment, kind(Some(&PackageType::Image))).unwrap_err().to_string();
        assert!(refused.contains("made of an image") && refused.contains("write package = \"image\""), "{refused}");
    }

    #[test]
    fn a_failure_from_before_is_tried_again_and_an_own_one_is_not() {
        let broken = Seen { failed: Some("InvalidImage".into()), ..seen("new") };
        assert_eq!(next(Some(&broken), "new", &tried(Some("new"), 0, 0)), Next::Update { revision: Some("r".into()) });
        assert_eq!(
            next(Some(&broken), "new", &tried(Some("new"), 0, 1)),
            Next::Failed { reason: "InvalidImage".into() }
        );
    }
}
