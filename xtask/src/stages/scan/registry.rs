//! Asking the registry for its findings about an image, until it has some or says that it never will.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use aws_sdk_ecr::types::ImageIdentifier;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::pages::{self, Pages, RegistryScan};
use super::state::{State, meaning};
use crate::cloud::{Cloud, service_error};
use crate::terminal::{Progress, note};

/// An image to ask about.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub cloud: &'a Cloud,
    pub repository: &'a str,
    /// Digest of the image; an answer about any other does not count.
    pub image: &'a str,
}

/// How long a repository that scans on push may take to begin before it is asked to.
const GRACE: Duration = Duration::from_secs(20);
/// How often an answer may contradict itself, as it does while findings are being added.
const CONTRADICTIONS: u32 = 3;

/// Why asking gave no answer.
enum Trouble {
    /// The registry is busy or cannot be reached: ask again.
    Busy(Error),
    /// Its answer does not fit together: ask again, but not for ever.
    Contradiction(Error),
    Fatal(Error),
}

/// Waits until the registry has an answer about the image, at most for `limit`.
///
/// # Errors
/// It has none by then, or its answers make no sense.
pub async fn wait_for_findings(subject: Subject<'_>, limit: Duration) -> Result<RegistryScan> {
    let Subject { repository, image, .. } = subject;
    let _progress = Progress::start(&format!("wait for the registry's scan of {repository}"), None);
    let begun = Instant::now();
    let mut pause = Duration::from_millis(500);
    let mut contradictions = 0;
    let mut asked_to_scan = false;
    let mut latest = "there is no scan yet".to_string();
    loop {
        match ask(subject).await {
            Ok(Some(scan)) if scan.state() != State::Waiting => return Ok(scan),
            Ok(Some(scan)) => latest = format!("{}: {}", scan.status, meaning(&scan.status).1),
            // Right after a push there is no scan yet, unless nobody is going to begin one.
            Ok(None) if asked_to_scan => {}
            Ok(None) => {
                if begun.elapsed() > GRACE || !scans_on_push(subject).await? {
                    start_scan(subject).await?;
                    asked_to_scan = true;
                }
            }
            Err(Trouble::Busy(error)) => latest = format!("{error:#}"),
            Err(Trouble::Contradiction(error)) => {
                contradictions += 1;
                if contradictions == CONTRADICTIONS {
                    return Err(error).with_context(|| format!("read the findings about {repository}@{image}"));
                }
            }
            Err(Trouble::Fatal(error)) => return Err(error),
        }
        if begun.elapsed() + pause > limit {
            bail!(
                "the registry has no findings about {repository}@{image} after {} s ({latest}): run `cargo xtask scan` again \
                 later, or raise limit_seconds under [scan] in pipeline.toml",
                limit.as_secs()
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(8));
    }
}

/// What the registry has about the image now, if it is a finished scan.
pub async fn finished_findings(subject: Subject<'_>) -> Result<Option<RegistryScan>> {
    match ask(subject).await {
        Ok(scan) => Ok(scan.filter(|scan| scan.state() == State::Finished)),
        Err(Trouble::Busy(error) | Trouble::Contradiction(error) | Trouble::Fatal(error)) => Err(error),
    }
}

/// All pages of the registry's answer; none while there is no scan.
async fn ask(subject: Subject<'_>) -> Result<Option<RegistryScan>, Trouble> {
    let mut pages = Pages::default();
    let mut next = None;
    loop {
        let answer = subject
            .cloud
            .ecr
            .describe_image_scan_findings()
            .repository_name(subject.repository)
            .image_id(ImageIdentifier::builder().image_digest(subject.image).build())
            .set_next_token(next.take())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_scan_not_found_exception()) => {
                return Ok(None);
            }
            Err(error) => {
                let busy = is_busy(&error);
                let error = service_error(error).context("ask the registry for its findings");
                return Err(if busy { Trouble::Busy(error) } else { Trouble::Fatal(error) });
            }
        };
        let page = pages::page(&answer, subject.image).map_err(Trouble::Fatal)?;
        next = pages.add(page).map_err(Trouble::Contradiction)?;
        if next.is_none() {
            return pages.finish().map(Some).map_err(Trouble::Contradiction);
        }
    }
}

/// Whether the same call may well succeed a little later.
fn is_busy<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    match error.code() {
        Some(code) => is_busy_code(code),
        // No answer, or none that could be read.
        None => !matches!(error, SdkError::ConstructionFailure(_)),
    }
}

fn is_busy_code(code: &str) -> bool {
    const CODES: [&str; 6] = [
        "ServerException",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
    ];
    CODES.contains(&code) || code.starts_with("Throttl")
}

async fn scans_on_push(subject: Subject<'_>) -> Result<bool> {
    let answer = subject
        .cloud
        .ecr
        .describe_repositories()
        .repository_names(subject.repository)
        .send()
        .await
        .map_err(service_error)
        .with_context(|| format!("describe the image repository `{}`", subject.repository))?;
    let settings = answer.repositories().first().and_then(|found| found.image_scanning_configuration());
    Ok(settings.is_some_and(|settings| settings.scan_on_push()))
}

/// Asks for a scan, once. The registry allows one a day for an image, and none by hand where it scans by itself.
async fn start_scan(subject: Subject<'_>) -> Result<()> {
    let Subject { cloud, repository, image } = subject;
    let id = ImageIdentifier::builder().image_digest(image).build();
    match cloud.ecr.start_image_scan().repository_name(repository).image_id(id).send().await {
        Ok(_) => note(&format!("asked the registry to scan {repository}")),
        Err(error) => {
            let tolerated = is_busy(&error)
                || error
                    .as_service_error()
                    .is_some_and(|error| error.is_limit_exceeded_exception() || error.is_validation_exception());
            let error = service_error(error);
            if !tolerated {
                return Err(error).with_context(|| format!("ask the registry to scan {repository}@{image}"));
            }
            note(&format!("the registry did not begin a scan of {repository} when asked to ({error:#})"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_asked_again_and_a_refusal_is_not() {
        for code in ["ThrottlingException", "Throttling", "TooManyRequestsException", "ServerException"] {
            assert!(is_busy_code(code), "{code}");
        }
        for code in ["AccessDeniedException", "RepositoryNotFoundException", "ImageNotFoundException", ""] {
            assert!(!is_busy_code(code), "{code}");
        }
    }
}
