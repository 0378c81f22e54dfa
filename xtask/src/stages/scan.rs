//! Scan: waits for the registry's findings about exactly this image, and looks the crates inside its program up.
//!
//! Reads build.json. Writes `scan.json` and the raw answers, `scan-registry.json` and `scan-crates.json`. It only measures;
//! what the findings mean is the gate's business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_sdk_ecr::types::ImageIdentifier;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::advisories::{self, Finding};
use crate::cloud::{Cloud, service_error};
use crate::context::Context;
use crate::dependencies::{self, LinkedCrate};
use crate::records::{self, Digests, Record, Stage};
use crate::registry::Repository;
use crate::stages::build;
use crate::terminal::{Progress, note, warning};
use crate::{digest, github, image, paths};

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The image that was scanned.
    pub image: String,
    pub registry: RegistryScan,
    pub crates: CratesScan,
    /// Everything in the words of a security scan's summary.
    pub summary: Value,
}

/// The registry's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegistryScan {
    /// As the registry names it: COMPLETE, ACTIVE, FAILED, UNSUPPORTED_IMAGE, …
    pub status: String,
    pub description: String,
    /// Findings by severity; none where the registry gave no counts, which is not the same as zero.
    pub counts: Option<BTreeMap<String, i64>>,
    pub findings: Vec<Finding>,
}

/// The scan of the crates inside the program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CratesScan {
    /// `done` or `not_done`.
    pub status: String,
    /// Why it was not done.
    pub reason: String,
    pub packages: usize,
    pub vulnerabilities: Vec<Finding>,
    pub notices: Vec<Finding>,
}

const FILES: [&str; 2] = ["scan-registry.json", "scan-crates.json"];
/// How long the registry may take to scan.
const LIMIT: Duration = Duration::from_secs(300);
/// After this long, a finished scan is made anew: advisories appear without a change here.
const FRESH_FOR_HOURS: i64 = 24;
/// After this long, a scan that could not be done is tried again.
const RETRY_AFTER_MINUTES: i64 = 10;

/// Runs the stage.
pub fn run(context: &Context) -> Result<Record<Content>> {
    if let Some(record) = context.taken_over::<Content>(Stage::Scan)? {
        set_outputs(&record)?;
        return Ok(record);
    }
    let build: Record<build::Content> = context.read(Stage::Build)?;
    let inputs = Digests::from([
        ("build.json".to_string(), context.record_digest(Stage::Build)?),
        ("configuration".to_string(), context.configuration_digest(&context.config.scan)?),
    ]);
    if let Some(record) = context.unchanged::<Content>(Stage::Scan, &inputs).filter(is_fresh) {
        context.skipped(Stage::Scan);
        set_outputs(&record)?;
        return Ok(record);
    }
    let work = context.begin(Stage::Scan)?;
    let cloud = context.cloud()?;
    let wanted = &build.content.image;
    let registry = context.block_on(registry_findings(cloud, &wanted.repository, &wanted.digest))?;
    note(&format!("registry: {} ({})", registry.status, registry.description));

    // The crates are read from the program in the pushed image, not from the one on this disk.
    let program = context.block_on(program_of(cloud, wanted))?;
    let found = digest::of_bytes(&program);
    if found != build.content.program.digest {
        bail!("the program in image {} is {found}, build.json says {}", wanted.digest, build.content.program.digest);
    }
    let linked = dependencies::read_list(&program)?;
    let crates = scan_crates(context, &linked);
    let summary = summary(context, &work.run, &registry, &crates)?;
    let results = format!("Scan Results: {}", serde_json::to_string_pretty(&summary)?);
    // With --json, standard output belongs to the record.
    if context.json {
        eprintln!("{results}")
    } else {
        println!("{results}")
    }

    records::write_atomically(&work.folder.join(FILES[0]), &serde_json::to_vec_pretty(&registry)?)?;
    records::write_atomically(&work.folder.join(FILES[1]), &serde_json::to_vec_pretty(&crates)?)?;
    let content = Content { image: wanted.digest.clone(), registry, crates, summary };
    let record = work.finish(inputs, &FILES, content)?;
    set_outputs(&record)?;
    Ok(record)
}

fn is_fresh(record: &Record<Content>) -> bool {
    let age = Utc::now() - record.finished_at;
    match record.content.crates.status.as_str() {
        "done" => age.num_hours() < FRESH_FOR_HOURS,
        _ => age.num_minutes() < RETRY_AFTER_MINUTES,
    }
}

/// Waits until the registry has an answer about the image with this digest.
async fn registry_findings(cloud: &Cloud, repository: &str, image: &str) -> Result<RegistryScan> {
    let _progress = Progress::start("wait for the registry's scan", None);
    let begun = Instant::now();
    loop {
        match ask_registry(cloud, repository, image).await? {
            Some(scan) if !matches!(scan.status.as_str(), "IN_PROGRESS" | "PENDING") => return Ok(scan),
            // Right after a push there is no scan yet.
            _ if begun.elapsed() > LIMIT => bail!(
                "the registry has not finished scanning {repository}@{image} after {} s: run `cargo xtask scan` again later",
                LIMIT.as_secs()
            ),
            _ => tokio::time::sleep(Duration::from_secs(2)).await,
        }
    }
}

/// All pages of the registry's answer; none while there is no scan.
async fn ask_registry(cloud: &Cloud, repository: &str, image: &str) -> Result<Option<RegistryScan>> {
    let mut scan =
        RegistryScan { status: String::new(), description: String::new(), counts: None, findings: Vec::new() };
    let mut next = None;
    loop {
        let answer = cloud
            .ecr
            .describe_image_scan_findings()
            .repository_name(repository)
            .image_id(ImageIdentifier::builder().image_digest(image).build())
            .set_next_token(next.take())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_scan_not_found_exception()) => {
                return Ok(None);
            }
            Err(error) => return Err(service_error(error)).context("ask the registry for its findings"),
        };
        let found = answer.image_id().and_then(|id| id.image_digest()).unwrap_or_default();
        if found != image {
            bail!("the registry answered about image {found} when asked about {image}");
        }
        let status = answer.image_scan_status().context("the registry's answer has no status")?;
        scan.status = status.status().map(|status| status.as_str().to_string()).unwrap_or_default();
        scan.description = status.description().unwrap_or("no description").to_string();
        if let Some(findings) = answer.image_scan_findings() {
            if let Some(counts) = findings.finding_severity_counts() {
                let counts = counts.iter().map(|(severity, count)| (severity.as_str().to_string(), i64::from(*count)));
                scan.counts = Some(counts.collect());
            }
            for finding in findings.findings() {
                let attribute = |key: &str| {
                    let found = finding.attributes().iter().find(|attribute| attribute.key() == key);
                    found.and_then(|attribute| attribute.value()).unwrap_or_default().to_string()
                };
                scan.findings.push(Finding {
                    id: finding.name().unwrap_or_default().to_string(),
                    package: attribute("package_name"),
                    version: attribute("package_version"),
                    severity: severity_word(finding.severity().map_or("UNDEFINED", |severity| severity.as_str())),
                    title: finding.description().unwrap_or_default().to_string(),
                });
            }
        }
        next = answer.next_token().map(String::from);
        if next.is_none() {
            return Ok(Some(scan));
        }
    }
}

fn severity_word(severity: &str) -> String {
    match severity {
        "CRITICAL" => "Critical",
        "HIGH" => "High",
        "MEDIUM" => "Medium",
        "LOW" => "Low",
        "INFORMATIONAL" => "Info",
        _ => "Unassigned",
    }
    .to_string()
}

/// The program out of the image in the registry.
async fn program_of(cloud: &Cloud, wanted: &build::ImageRecord) -> Result<Vec<u8>> {
    file_of(cloud, wanted, 0, image::PROGRAM_PATH).await
}

/// A file out of a layer of the image in the registry, every digest on the way checked.
pub async fn file_of(cloud: &Cloud, wanted: &build::ImageRecord, layer: usize, path: &str) -> Result<Vec<u8>> {
    let uri = cloud.ensure_repository(&wanted.repository).await?;
    let repository = Repository::open(cloud, &uri).await?;
    let manifest = repository
        .manifest(&wanted.digest)
        .await?
        .with_context(|| format!("the registry has no image {}: run `cargo xtask build`", wanted.digest))?;
    let described = image::describe(&manifest)?;
    let bytes = repository.layer(&wanted.digest, &described.layers[layer]).await?;
    image::file_in_layer(&bytes, path)
}

/// Looks the crates up, or says why that could not be done.
fn scan_crates(context: &Context, linked: &[LinkedCrate]) -> CratesScan {
    let looked_up = advisories::database_folder(&context.root, &context.config.scan.advisory_database)
        .and_then(|folder| advisories::look_up(&folder, linked));
    match looked_up {
        Ok((vulnerabilities, notices)) => {
            note(&format!("crates: {} looked up, {} vulnerabilities", linked.len(), vulnerabilities.len()));
            let status = "done".to_string();
            CratesScan { status, reason: String::new(), packages: linked.len(), vulnerabilities, notices }
        }
        Err(error) => {
            // The first line says what; a program's whole output stays in its log.
            let reason = format!("{error:#}");
            let reason = reason.lines().next().unwrap_or_default().to_string();
            warning(&format!("the scan of {} crates was not done: {reason}", linked.len()));
            CratesScan {
                status: "not_done".to_string(),
                reason,
                packages: linked.len(),
                vulnerabilities: Vec::new(),
                notices: Vec::new(),
            }
        }
    }
}

/// The summary of a security scan; new are the findings that the last deployed run's scan did not have.
fn summary(context: &Context, run: &str, registry: &RegistryScan, crates: &CratesScan) -> Result<Value> {
    let known = known_findings(context, run);
    let all: Vec<&Finding> = registry.findings.iter().chain(&crates.vulnerabilities).chain(&crates.notices).collect();
    let is_new = |finding: &&&Finding| !known.contains(&(finding.id.clone(), finding.package.clone()));
    let count = |severity: &str| all.iter().filter(|finding| finding.severity == severity).count();
    let count_new = |severity: &str| all.iter().filter(is_new).filter(|finding| finding.severity == severity).count();
    let mut counts = serde_json::Map::from_iter([
        ("ExternalPolicyFailures".to_string(), json!(0)),
        ("Ignored".to_string(), json!(0)),
    ]);
    for severity in ["Critical", "High", "Medium", "Low", "Info", "Unassigned"] {
        counts.insert(severity.to_string(), json!(count(severity)));
        counts.insert(format!("New{severity}"), json!(count_new(severity)));
    }
    let finished =
        crates.status == "done" && matches!(registry.status.as_str(), "COMPLETE" | "ACTIVE" | "UNSUPPORTED_IMAGE");
    Ok(json!({
        "jobId": run,
        "target": context.config.scan.target,
        "variant": run,
        "status": if finished { "Succeeded" } else { "NotDone" },
        "issuesCount": all.len(),
        "newIssuesCount": all.iter().filter(is_new).count(),
        "issuesBySeverityCount": counts,
    }))
}

/// Findings of the newest other run that was deployed.
fn known_findings(context: &Context, run: &str) -> BTreeSet<(String, String)> {
    let Ok(entries) = std::fs::read_dir(paths::runs(&context.root)) else { return BTreeSet::new() };
    let scans = entries.flatten().filter(|entry| entry.file_name() != run && entry.file_name() != "latest");
    let deployed = scans.filter(|entry| entry.path().join(Stage::Deploy.file()).is_file());
    let newest = deployed
        .filter_map(|entry| records::read::<Content>(&entry.path(), Stage::Scan).ok())
        .max_by_key(|record| record.finished_at);
    newest.map_or_else(BTreeSet::new, |record| {
        let content = record.content;
        let all =
            content.registry.findings.into_iter().chain(content.crates.vulnerabilities).chain(content.crates.notices);
        all.map(|finding| (finding.id, finding.package)).collect()
    })
}

fn set_outputs(record: &Record<Content>) -> Result<()> {
    github::output("scan_status", &record.content.registry.status)?;
    github::output("scan_issues", &record.content.summary["issuesCount"].to_string())?;
    github::summary(&format!("### Scan\n\n```json\n{}\n```", serde_json::to_string_pretty(&record.content.summary)?))
}
