//! Scan: waits for the registry's findings about exactly these images, and looks up what is known of the crates inside the
//! program and of the locked Python packages.
//!
//! Reads build.json. Writes `scan.json`, the raw answers `scan-registry.json`, `scan-crates.json` and `scan-python.json`, and
//! the program's bill of materials, `sbom.cdx.json`. It only measures; what the findings mean is the gate's business.

mod baseline;
mod packages;
mod pages;
mod registry;
mod sbom;
mod state;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::advisories::Finding;
use crate::cloud::Cloud;
use crate::context::{Context, Work};
use crate::records::{self, Digests, Record, Stage};
use crate::registry::Repository;
use crate::stages::build;
use crate::terminal::note;
use crate::{dependencies, digest, github, image};

pub use packages::PackagesScan;
pub use pages::RegistryScan;
use state::State;

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The image that was scanned.
    pub image: String,
    pub registry: RegistryScan,
    /// The training image's scan, if one was built.
    pub training_image: Option<TrainingImageScan>,
    /// The crates inside the program.
    pub crates: PackagesScan,
    /// The packages that the model is trained with.
    pub python: PackagesScan,
    /// Everything in the words of a security scan's summary.
    pub summary: Value,
}

/// What the registry says of the training image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingImageScan {
    pub image: String,
    pub registry: RegistryScan,
}

const FILES: [&str; 4] = ["scan-registry.json", "scan-crates.json", "scan-python.json", "sbom.cdx.json"];
/// After this long, a finished scan is made anew: advisories appear without a change here.
const FRESH_FOR_HOURS: i64 = 24;
/// After this long, a scan with a gap is made anew.
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
    let (mut content, bill) = look(context, &work, &build.content)?;
    let known = baseline::known(context, &content.image);
    content.summary = summary(&content, &work.run, &context.config.scan.target, &|finding| !known.has(finding));
    let results = format!("Scan Results: {}", serde_json::to_string_pretty(&content.summary)?);
    // With --json, standard output belongs to the record.
    if context.json {
        eprintln!("{results}")
    } else {
        println!("{results}")
    }
    let raw = [
        json!({"inference": content.registry, "training": content.training_image}),
        json!(content.crates),
        json!(content.python),
        bill,
    ];
    for (name, value) in FILES.iter().zip(raw) {
        records::write_atomically(&work.folder.join(name), &serde_json::to_vec_pretty(&value)?)?;
    }
    let record = work.finish(inputs, &FILES, content)?;
    set_outputs(&record)?;
    Ok(record)
}

/// Everything that can be found out about what was built, and the program's bill of materials.
fn look(context: &Context, work: &Work, build: &build::Content) -> Result<(Content, Value)> {
    let wanted = &build.image;
    let registry = ask_registry(context, &wanted.repository, &wanted.digest)?;
    let training_image = match &build.training_image.image {
        None => None,
        Some(built) => {
            let registry = ask_registry(context, &built.repository, &built.digest)?;
            Some(TrainingImageScan { image: built.digest.clone(), registry })
        }
    };
    // The crates are read from the program in the pushed image, not from the one on this disk.
    let program = context.block_on(program_of(context.cloud()?, &wanted.repository, &wanted.digest))?;
    let found = digest::of_bytes(&program);
    if found != build.program.digest {
        bail!("the program in image {} is {found}, build.json says {}", wanted.digest, build.program.digest);
    }
    let linked = dependencies::read_list(&program)?;
    let bill = sbom::bill(&context.config.inference.package, &found, &linked);
    let crates = packages::scan_crates(context, &linked);
    let python = packages::scan_python(context, work);
    let image = wanted.digest.clone();
    Ok((Content { image, registry, training_image, crates, python, summary: Value::Null }, bill))
}

fn is_fresh(record: &Record<Content>) -> bool {
    let age = Utc::now() - record.finished_at;
    if is_finished(&record.content) {
        age.num_hours() < FRESH_FOR_HOURS
    } else {
        age.num_minutes() < RETRY_AFTER_MINUTES
    }
}

/// Waits for the registry's findings about an image, and says what they are.
fn ask_registry(context: &Context, repository: &str, image: &str) -> Result<RegistryScan> {
    let subject = registry::Subject { cloud: context.cloud()?, repository, image };
    let limit = Duration::from_secs(context.config.scan.limit_seconds);
    let scan = context.block_on(registry::wait_for_findings(subject, limit))?;
    let (_, meaning) = state::meaning(&scan.status);
    note(&format!("{repository}: {}, {meaning} ({}); {} findings", scan.status, scan.description, scan.findings.len()));
    Ok(scan)
}

/// The program out of an image in the registry.
async fn program_of(cloud: &Cloud, repository: &str, image: &str) -> Result<Vec<u8>> {
    file_of(cloud, repository, image, 0, image::PROGRAM_PATH).await
}

/// A file out of a layer of an image in the registry, every digest on the way checked.
pub async fn file_of(cloud: &Cloud, repository: &str, image: &str, layer: usize, path: &str) -> Result<Vec<u8>> {
    let uri = cloud.ensure_repository(repository).await?;
    let repository = Repository::open(cloud, &uri).await?;
    let manifest = repository
        .manifest(image)
        .await?
        .with_context(|| format!("the registry has no image {image}: run `cargo xtask build`"))?;
    let described = image::describe(&manifest)?;
    let bytes = repository.layer(image, &described.layers[layer]).await?;
    image::file_in_layer(&bytes, path)
}

/// The summary of a security scan.
fn summary(content: &Content, run: &str, target: &str, is_new: &dyn Fn(&Finding) -> bool) -> Value {
    let training = content.training_image.iter().flat_map(|scan| &scan.registry.findings);
    let of_images = content.registry.findings.iter().chain(training);
    let all: Vec<&Finding> = of_images.chain(content.crates.findings()).chain(content.python.findings()).collect();
    let new: Vec<&Finding> = all.iter().copied().filter(|finding| is_new(finding)).collect();
    let mut counts = serde_json::Map::from_iter([
        ("ExternalPolicyFailures".to_string(), json!(0)),
        ("Ignored".to_string(), json!(0)),
    ]);
    for severity in ["Critical", "High", "Medium", "Low", "Info", "Unassigned"] {
        let count = |findings: &[&Finding]| findings.iter().filter(|finding| finding.severity == severity).count();
        counts.insert(severity.to_string(), json!(count(&all)));
        counts.insert(format!("New{severity}"), json!(count(&new)));
    }
    json!({
        "jobId": run,
        "target": target,
        "variant": run,
        "status": if is_finished(content) { "Succeeded" } else { "NotDone" },
        "issuesCount": all.len(),
        "newIssuesCount": new.len(),
        "issuesBySeverityCount": counts,
    })
}

/// Whether everything that can be scanned was. Nobody can look into an image without an operating system; there the scan
/// of the crates is what counts.
fn is_finished(content: &Content) -> bool {
    let finished = |scan: &RegistryScan| scan.state() == State::Finished;
    let unsupported = content.registry.status == "UNSUPPORTED_IMAGE"
        || content.registry.status == "FAILED" && content.registry.description.starts_with("UnsupportedImageError");
    content.crates.is_settled()
        && content.python.is_settled()
        && (finished(&content.registry) || unsupported)
        && content.training_image.as_ref().is_none_or(|scan| finished(&scan.registry))
}

fn set_outputs(record: &Record<Content>) -> Result<()> {
    github::output("scan_status", &record.content.registry.status)?;
    github::output("scan_issues", &record.content.summary["issuesCount"].to_string())?;
    github::output("scan_new_issues", &record.content.summary["newIssuesCount"].to_string())?;
    github::summary(&format!("### Scan\n\n```json\n{}\n```", serde_json::to_string_pretty(&record.content.summary)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn finding(id: &str, severity: &str) -> Finding {
        Finding {
            id: id.into(),
            package: "p".into(),
            version: "1".into(),
            severity: severity.into(),
            title: String::new(),
        }
    }

    /// A scan without findings.
    pub fn content() -> Content {
        let packages = || PackagesScan {
            status: "done".into(),
            reason: String::new(),
            packages: 1,
            vulnerabilities: Vec::new(),
            notices: Vec::new(),
        };
        let registry = RegistryScan { status: "COMPLETE".into(), ..RegistryScan::default() };
        Content {
            image: "sha256:1".into(),
            registry,
            training_image: None,
            crates: packages(),
            python: packages(),
            summary: Value::Null,
        }
    }

    #[test]
    fn both_images_and_all_packages_are_counted_and_new_ones_apart() {
        let mut content = content();
        content.registry.findings.push(finding("a", "High"));
        content.crates.vulnerabilities.push(finding("b", "High"));
        content.crates.notices.push(finding("c", "Info"));
        content.python.vulnerabilities.push(finding("d", "Unassigned"));
        let mut training = TrainingImageScan { image: "sha256:2".into(), registry: content.registry.clone() };
        training.registry.findings = vec![finding("e", "Medium")];
        content.training_image = Some(training);
        let summary = summary(&content, "r", "t", &|finding| finding.id != "a");
        assert_eq!((&summary["issuesCount"], &summary["newIssuesCount"]), (&json!(5), &json!(4)));
        let counts = &summary["issuesBySeverityCount"];
        assert_eq!((&counts["High"], &counts["NewHigh"], &counts["Medium"]), (&json!(2), &json!(1), &json!(1)));
        assert_eq!(summary["status"], "Succeeded");
        assert_eq!(counts.as_object().unwrap().len(), 14);
    }

    #[test]
    fn a_scan_with_a_gap_has_not_succeeded() {
        let status = |change: fn(&mut Content)| {
            let mut content = content();
            change(&mut content);
            summary(&content, "r", "t", &|_| true)["status"].clone()
        };
        assert_eq!(status(|_| ()), "Succeeded");
        assert_eq!(status(|content| content.registry.status = "UNSUPPORTED_IMAGE".into()), "Succeeded");
        assert_eq!(status(|content| content.python.status = "off".into()), "Succeeded");
        assert_eq!(status(|content| content.registry.status = "FAILED".into()), "NotDone");
        assert_eq!(status(|content| content.crates.status = "not_done".into()), "NotDone");
        assert_eq!(status(|content| content.python.status = "not_done".into()), "NotDone");
        let unscanned = status(|content| {
            let registry = RegistryScan { status: "UNSUPPORTED_IMAGE".into(), ..RegistryScan::default() };
            content.training_image = Some(TrainingImageScan { image: "sha256:2".into(), registry });
        });
        assert_eq!(unscanned, "NotDone");
    }
}
