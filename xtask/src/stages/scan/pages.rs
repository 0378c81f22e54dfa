//! The pages of a registry's findings, put together and held against the registry's own counts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use aws_sdk_ecr::operation::describe_image_scan_findings::DescribeImageScanFindingsOutput;
use aws_sdk_ecr::types::{EnhancedImageScanFinding, ImageScanFinding};
use serde::{Deserialize, Serialize};

use super::state::{self, State, severity_word};
use crate::advisories::Finding;

/// The registry's answer about an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistryScan {
    /// As the registry names it: COMPLETE, ACTIVE, FAILED, UNSUPPORTED_IMAGE, …
    pub status: String,
    pub description: String,
    /// Findings by severity; none where the registry gave no counts, which is not the same as zero.
    pub counts: Option<BTreeMap<String, i64>>,
    pub findings: Vec<Finding>,
}

impl RegistryScan {
    /// Whether there is nothing to wait for, or to look for, any more.
    pub fn state(&self) -> State {
        state::meaning(&self.status).0
    }
}

/// One page of the answer.
#[derive(Debug, Clone, Default)]
pub struct Page {
    scan: RegistryScan,
    next: Option<String>,
}

/// Reads a page, which has to be about the image with this digest.
pub fn page(answer: &DescribeImageScanFindingsOutput, image: &str) -> Result<Page> {
    let found = answer.image_id().and_then(|id| id.image_digest()).unwrap_or_default();
    if found != image {
        bail!("the registry answered about image {found:?} when asked about {image}");
    }
    let status = answer.image_scan_status().context("the registry's answer has no status")?;
    let mut scan = RegistryScan {
        status: status.status().map_or("", |status| status.as_str()).to_string(),
        description: status.description().unwrap_or("no description").to_string(),
        ..RegistryScan::default()
    };
    if let Some(findings) = answer.image_scan_findings() {
        let counted = findings.finding_severity_counts();
        scan.counts = counted.map(|counts| {
            counts.iter().map(|(severity, count)| (severity.as_str().to_string(), i64::from(*count))).collect()
        });
        scan.findings.extend(findings.findings().iter().map(basic));
        scan.findings.extend(findings.enhanced_findings().iter().flat_map(enhanced));
    }
    Ok(Page { scan, next: answer.next_token().map(String::from) })
}

fn basic(finding: &ImageScanFinding) -> Finding {
    let attribute = |key: &str| {
        let found = finding.attributes().iter().find(|attribute| attribute.key() == key);
        found.and_then(|attribute| attribute.value()).unwrap_or_default().to_string()
    };
    Finding {
        id: finding.name().unwrap_or_default().to_string(),
        package: attribute("package_name"),
        version: attribute("package_version"),
        severity: severity_word(finding.severity().map_or("", |severity| severity.as_str())).to_string(),
        title: finding.description().unwrap_or_default().to_string(),
    }
}

/// An enhanced finding may name several packages; it stays one, as the registry counts it.
fn enhanced(finding: &EnhancedImageScanFinding) -> Option<Finding> {
    let details = finding.package_vulnerability_details();
    let packages = details.map(|details| details.vulnerable_packages()).unwrap_or_default();
    let joined = |text: fn(&aws_sdk_ecr::types::VulnerablePackage) -> Option<&str>| {
        let distinct: BTreeSet<&str> = packages.iter().filter_map(text).collect();
        distinct.into_iter().collect::<Vec<_>>().join(", ")
    };
    Some(Finding {
        id: details.and_then(|details| details.vulnerability_id()).or(finding.title()).unwrap_or_default().to_string(),
        package: joined(|package| package.name()),
        version: joined(|package| package.version()),
        severity: severity_word(finding.severity().unwrap_or_default()).to_string(),
        title: finding.title().or(finding.description()).unwrap_or_default().to_string(),
    })
}

/// The pages read so far.
#[derive(Default)]
pub struct Pages {
    whole: Option<RegistryScan>,
    tokens: BTreeSet<String>,
}

impl Pages {
    /// Adds a page and gives the token of the next one.
    ///
    /// # Errors
    /// The page does not go with those before it, or leads back to one of them.
    pub fn add(&mut self, page: Page) -> Result<Option<String>> {
        match &mut self.whole {
            None => self.whole = Some(page.scan),
            Some(whole) => {
                if whole.status != page.scan.status {
                    bail!("the scan's status went from {} to {} between two pages", whole.status, page.scan.status);
                }
                if let Some(counts) = page.scan.counts {
                    match &whole.counts {
                        Some(known) if *known != counts => bail!("the counts of findings differ between two pages"),
                        _ => whole.counts = Some(counts),
                    }
                }
                whole.findings.extend(page.scan.findings);
            }
        }
        if let Some(token) = &page.next
            && !self.tokens.insert(token.clone())
        {
            bail!("the registry leads back to a page of findings that it already gave");
        }
        Ok(page.next)
    }

    /// The whole answer.
    ///
    /// # Errors
    /// There are more or fewer findings of a severity than the registry counts, so a page is missing or came twice.
    pub fn finish(self) -> Result<RegistryScan> {
        let whole = self.whole.context("the registry gave no page")?;
        let Some(counts) = whole.counts.as_ref().filter(|_| whole.state() == State::Finished) else { return Ok(whole) };
        let mut counted: BTreeMap<&str, i64> = BTreeMap::new();
        for (severity, count) in counts {
            *counted.entry(severity_word(severity)).or_default() += count;
        }
        for severity in ["Critical", "High", "Medium", "Low", "Info", "Unassigned"] {
            let expected = counted.get(severity).copied().unwrap_or(0);
            let given = whole.findings.iter().filter(|finding| finding.severity == severity).count();
            if usize::try_from(expected).ok() != Some(given) {
                bail!("the registry counts {expected} findings of severity {severity} and gave {given}");
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &str, severity: &str) -> Finding {
        Finding {
            id: id.to_string(),
            package: "p".to_string(),
            version: "1".to_string(),
            severity: severity.to_string(),
            title: String::new(),
        }
    }

    fn of(status: &str, counts: Option<&[(&str, i64)]>, findings: &[Finding], next: Option<&str>) -> Page {
        Page {
            scan: RegistryScan {
                status: status.to_string(),
                counts: counts.map(|counts| counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()),
                findings: findings.to_vec(),
                ..RegistryScan::default()
            },
            next: next.map(String::from),
        }
    }

    fn all(pages: Vec<Page>) -> Result<RegistryScan> {
        let mut whole = Pages::default();
        for page in pages {
            whole.add(page)?;
        }
        whole.finish()
    }

    #[test]
    fn pages_make_one_answer() {
        let counts: &[_] = &[("HIGH", 1), ("UNDEFINED", 1)];
        let first = of("COMPLETE", Some(counts), &[finding("a", "High")], Some("2"));
        let second = of("COMPLETE", Some(counts), &[finding("b", "Unassigned")], None);
        assert_eq!(all(vec![first, second]).unwrap().findings.len(), 2);
    }

    #[test]
    fn a_missing_a_repeated_and_a_looping_page_are_errors() {
        let counts: &[_] = &[("HIGH", 2)];
        let page = |id: &str, next| of("ACTIVE", Some(counts), &[finding(id, "High")], next);
        let missing = all(vec![page("a", None)]).unwrap_err().to_string();
        assert!(missing.contains("counts 2 findings of severity High and gave 1"), "{missing}");
        assert!(all(vec![page("a", Some("2")), page("b", Some("3")), page("b", None)]).is_err());
        let looping = all(vec![page("a", Some("2")), page("b", Some("2"))]).unwrap_err().to_string();
        assert!(looping.contains("already gave"), "{looping}");
    }

    #[test]
    fn pages_of_different_answers_are_not_mixed() {
        let page = |status: &str, count| of(status, Some(&[("LOW", count)]), &[finding("a", "Low")], None);
        assert!(all(vec![page("COMPLETE", 2), page("IN_PROGRESS", 2)]).is_err());
        assert!(all(vec![page("COMPLETE", 2), page("COMPLETE", 3)]).is_err());
        assert!(all(vec![page("COMPLETE", 2), page("COMPLETE", 2)]).is_ok());
        assert!(all(vec![]).is_err());
    }

    #[test]
    fn absent_counts_stay_absent_and_findings_are_kept() {
        let scan = all(vec![of("COMPLETE", None, &[finding("a", "Critical")], None)]).unwrap();
        assert_eq!((scan.counts, scan.findings.len()), (None, 1));
        let unfinished = all(vec![of("IN_PROGRESS", Some(&[("LOW", 2)]), &[], None)]).unwrap();
        assert_eq!(unfinished.state(), State::Waiting);
        assert!(all(vec![of("COMPLETE", Some(&[("LOW", -1)]), &[], None)]).is_err());
    }
}
