//! What was already known of the image that was deployed before this one: findings that are not new.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::registry::{self, Subject};
use super::{Content, program_of};
use crate::advisories::{self, Finding};
use crate::cloud::{Cloud, service_error};
use crate::context::Context;
use crate::records::{self, Stage};
use crate::registry::Repository;
use crate::stages::deploy::{self, Live};
use crate::terminal::warning;
use crate::{dependencies, paths};

/// Findings by advisory and package: the same one in another version of the package is not new.
#[derive(Default)]
pub struct Known(BTreeSet<(String, String)>);

impl Known {
    fn add<'a>(&mut self, findings: impl IntoIterator<Item = &'a Finding>) {
        self.0.extend(findings.into_iter().map(|finding| (finding.id.clone(), finding.package.clone())));
    }

    pub fn has(&self, finding: &Finding) -> bool {
        self.0.contains(&(finding.id.clone(), finding.package.clone()))
    }
}

/// What is known today of the images that the last deployed version was made with; nothing where none was deployed. What
/// cannot be found out counts as not known, so that everything about it is new.
pub fn known(context: &Context, image: &str) -> Known {
    let mut known = Known::default();
    let deployed = context.cloud().and_then(|cloud| context.block_on(deployed_before(context, cloud, image)));
    let deployed = match deployed {
        Ok(Some(deployed)) => deployed,
        Ok(None) => return known,
        Err(error) => {
            warning(&format!("what is deployed is not known, so all findings count as new: {error:#}"));
            return known;
        }
    };
    let parts: [(&str, Result<Vec<Finding>>); 4] = [
        (
            "the registry's findings",
            registry_findings(context, &context.environment.inference_repository, &deployed.image),
        ),
        ("its crates", crates(context, &deployed.image)),
        ("the findings about its training image", training_image_findings(context, &deployed)),
        ("its Python packages", python(context, &deployed)),
    ];
    for (what, findings) in parts {
        match findings {
            Ok(findings) => known.add(&findings),
            Err(error) => {
                warning(&format!("{what} of version {} could not be had for comparison: {error:#}", deployed.version))
            }
        }
    }
    known
}

/// The live version; where that is this very image, the newest one before it that is not.
async fn deployed_before(context: &Context, cloud: &Cloud, image: &str) -> Result<Option<Live>> {
    let environment = &context.environment;
    let Some(live) = deploy::live_version(cloud, environment).await? else { return Ok(None) };
    if live.image != image {
        return Ok(Some(live));
    }
    let mut versions =
        cloud.lambda.list_versions_by_function().function_name(&environment.function).into_paginator().items().send();
    let mut before: Option<(u64, Live)> = None;
    while let Some(version) = versions.next().await {
        let version = version.map_err(service_error).context("list the function's versions")?;
        let number: Option<u64> = version.version().and_then(|version| version.parse().ok());
        let Some(number) = number.filter(|number| Some(*number) < live.version.parse().ok()) else { continue };
        let found = Live::new(
            &number.to_string(),
            version.package_type(),
            version.code_sha256(),
            version.last_modified(),
            version.description(),
        );
        if found.image != image && before.as_ref().is_none_or(|(newest, _)| number > *newest) {
            before = Some((number, found));
        }
    }
    Ok(before.map(|(_, live)| live))
}

fn registry_findings(context: &Context, repository: &str, image: &str) -> Result<Vec<Finding>> {
    let cloud = context.cloud()?;
    let scan = context.block_on(registry::finished_findings(Subject { cloud, repository, image }))?;
    Ok(scan.map(|scan| scan.findings).unwrap_or_default())
}

/// The crates inside the deployed program, looked up in today's advisory database.
fn crates(context: &Context, image: &str) -> Result<Vec<Finding>> {
    let program = context.block_on(program_of(context.cloud()?, &context.environment.inference_repository, image))?;
    let linked = dependencies::read_list(&program)?;
    let folder = advisories::database_folder(&context.root, &context.config.scan.advisory_database)?;
    let (vulnerabilities, notices) = advisories::look_up(&folder, &linked)?;
    Ok(vulnerabilities.into_iter().chain(notices).collect())
}

/// The run that a version was published by, as its description says.
fn run_of(description: &str) -> Option<&str> {
    let mut words = description.split_whitespace();
    words.by_ref().find(|word| *word == "run")?;
    words.next()
}

fn training_image_findings(context: &Context, deployed: &Live) -> Result<Vec<Finding>> {
    let Some(run) = run_of(&deployed.description) else { return Ok(Vec::new()) };
    let name = &context.environment.training_repository;
    let cloud = context.cloud()?;
    let image = context.block_on(async {
        let uri = cloud.ensure_repository(name).await?;
        Repository::open(cloud, &uri).await?.digest_of_tag(run).await
    })?;
    image.map_or(Ok(Vec::new()), |image| registry_findings(context, name, &image))
}

/// What the deployed run's own scan said, if this clone still has it: an image does not say which packages trained it.
fn python(context: &Context, deployed: &Live) -> Result<Vec<Finding>> {
    let Some(run) = run_of(&deployed.description) else { return Ok(Vec::new()) };
    let folder = paths::run(&context.root, run);
    if !folder.join(Stage::Scan.file()).is_file() {
        return Ok(Vec::new());
    }
    let record = records::read::<Content>(&folder, Stage::Scan)?;
    Ok(record.content.python.findings().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_is_read_from_the_description() {
        assert_eq!(run_of("run 123-1 model sha256:1"), Some("123-1"));
        assert_eq!(run_of("made by hand"), None);
        assert_eq!(run_of("run"), None);
    }

    #[test]
    fn the_same_advisory_for_another_version_is_known() {
        let finding = |version: &str, package: &str| Finding {
            id: "CVE-1".into(),
            package: package.into(),
            version: version.into(),
            severity: "Low".into(),
            title: String::new(),
        };
        let mut known = Known::default();
        known.add(&[finding("1", "openssl")]);
        assert!(known.has(&finding("2", "openssl")));
        assert!(!known.has(&finding("1", "zlib")));
    }
}
