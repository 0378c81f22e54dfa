//! What a registry's word about a scan means.
//!
//! Every word that is known has its meaning here; one that is not known is no finished scan.

/// What is known of an image after asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The answer is still being made.
    Waiting,
    /// The findings are all there.
    Finished,
    /// There will be no findings without somebody doing something.
    Unusable,
}

/// The state that a status stands for, and what it means for people.
pub fn meaning(status: &str) -> (State, &'static str) {
    use State::{Finished, Unusable, Waiting};
    match status {
        "PENDING" => (Waiting, "the scan has not begun"),
        "IN_PROGRESS" => (Waiting, "the scan is running"),
        "COMPLETE" => (Finished, "the scan is finished"),
        "ACTIVE" => (Finished, "the image is scanned continuously"),
        "FAILED" => (Unusable, "the scan failed"),
        "UNSUPPORTED_IMAGE" => (Unusable, "the registry cannot look into this kind of image"),
        "SCAN_ELIGIBILITY_EXPIRED" => (Unusable, "the image is too old to be scanned: push it again"),
        "FINDINGS_UNAVAILABLE" => (Unusable, "the registry has no findings to show for this image"),
        "LIMIT_EXCEEDED" => (Unusable, "the account's quota of scans is used up: ask for a higher one"),
        "IMAGE_ARCHIVED" => (Unusable, "the image is archived: restore it"),
        "IMAGE_SIZE_EXCEEDED" => (Unusable, "the image is too large for the scanner"),
        _ => (Unusable, "a status that is not known here, so not a finished scan"),
    }
}

/// A registry's severity in the words of the scan's summary.
pub fn severity_word(severity: &str) -> &'static str {
    match severity {
        "CRITICAL" => "Critical",
        "HIGH" => "High",
        "MEDIUM" => "Medium",
        "LOW" => "Low",
        "INFORMATIONAL" => "Info",
        _ => "Unassigned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SDK's words, and one that the service learnt after it.
    const KNOWN: [&str; 11] = [
        "ACTIVE",
        "COMPLETE",
        "FAILED",
        "FINDINGS_UNAVAILABLE",
        "IMAGE_ARCHIVED",
        "IMAGE_SIZE_EXCEEDED",
        "IN_PROGRESS",
        "LIMIT_EXCEEDED",
        "PENDING",
        "SCAN_ELIGIBILITY_EXPIRED",
        "UNSUPPORTED_IMAGE",
    ];

    #[test]
    fn every_known_status_has_a_meaning_and_no_other_is_finished() {
        for status in aws_sdk_ecr::types::ScanStatus::values() {
            assert!(KNOWN.contains(status), "the registry has learnt a word: {status}");
        }
        let unknown = meaning("SOMETHING_NEW");
        assert_eq!(unknown.0, State::Unusable);
        for status in KNOWN {
            assert_ne!(meaning(status).1, unknown.1, "{status}");
        }
        let of = |state| KNOWN.into_iter().filter(|status| meaning(status).0 == state).collect::<Vec<_>>();
        assert_eq!(of(State::Finished), ["ACTIVE", "COMPLETE"]);
        assert_eq!(of(State::Waiting), ["IN_PROGRESS", "PENDING"]);
        for status in ["", "complete", "COMPLETE ", "Active"] {
            assert_eq!(meaning(status).0, State::Unusable, "{status}");
        }
    }

    #[test]
    fn an_unknown_severity_is_not_lost() {
        assert_eq!(severity_word("UNTRIAGED"), "Unassigned");
        assert_eq!(severity_word("HIGH"), "High");
    }
}
