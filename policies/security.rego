# METADATA
# title: Security policy
# description: |
#   An image ships only when both of its scans are finished, belong to exactly its digest and found
#   nothing that must be fixed: the registry's scan of the image, and the scan of the crates inside the
#   program. A registry cannot look into an image without an operating system; it says so, and then the
#   scan of the crates, which is required in any case, is what vouches for the image.
package security

severities := {"CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"}

blocking_severities := {"CRITICAL", "HIGH"}

# ACTIVE is the finished state of a registry that scans continuously.
finished_statuses := {"COMPLETE", "ACTIVE"}

clouds := {"embedded", "aws"}

default allow := false

allow if {
	known_cloud
	scan_of_this_image
	image_scan_answered
	crates_scan_accepted
	count(blocking_findings) == 0
	no_crate_vulnerable
}

deny contains "The cloud that the image ships to is not known" if not known_cloud

deny contains "The scan belongs to another image than the one that ships" if not scan_of_this_image

deny contains message if {
	not image_scan_answered
	message := sprintf("The image scan has no usable result: status %v", [image_status])
}

deny contains message if {
	some severity, findings in blocking_findings
	message := sprintf("The image has findings of severity %v: %v", [severity, findings])
}

deny contains message if {
	not crates_scan_accepted
	message := sprintf("The scan of the crates is not finished: status %v", [crates_status])
}

deny contains message if {
	not no_crate_vulnerable
	message := sprintf("The crates in the program are not free of known vulnerabilities: %v", [vulnerabilities])
}

# Crates that are no longer maintained or were withdrawn: to be known, not to be stopped for.
warn contains message if {
	crates_finished
	input.scan.crates.warnings > 0
	message := sprintf("Crates in the program carry a warning: %v", [input.scan.crates.warnings])
}

warn contains message if {
	crates_excused
	message := sprintf("The crates in the program were not scanned: %v", [input.scan.crates.reason])
}

known_cloud if input.cloud in clouds

scan_of_this_image if {
	is_string(input.image_digest)
	input.image_digest != ""
	input.scan.digest == input.image_digest
}

image_scan_answered if image_counted

image_scan_answered if image_unsupported

# All severities, no others, and each with a number: an absent count is not zero.
image_counted if {
	input.scan.image.status in finished_statuses
	is_object(input.scan.image.counts)
	object.keys(input.scan.image.counts) == severities
	every findings in input.scan.image.counts {
		is_count(findings)
	}
}

image_unsupported if {
	input.scan.image.status == "UNSUPPORTED_IMAGE"
	not image_has_counts
}

# Basic scanning has no status of its own for it: it fails, and the description begins with the reason.
image_unsupported if {
	input.scan.image.status == "FAILED"
	is_string(input.scan.image.description)
	startswith(input.scan.image.description, "UnsupportedImageError")
	not image_has_counts
}

# A registry that could not scan has nothing to count.
image_has_counts if input.scan.image.counts != null

blocking_findings[severity] := findings if {
	some severity in blocking_severities
	findings := input.scan.image.counts[severity]
	findings != 0
}

crates_scan_accepted if crates_finished

crates_scan_accepted if crates_excused

# A scan of no packages found nothing because it looked at nothing.
crates_finished if {
	input.scan.crates.status == "done"
	is_count(input.scan.crates.packages)
	input.scan.crates.packages > 0
	is_count(input.scan.crates.warnings)
}

# Without a network there is no advisory database. On a developer's machine that is said, anywhere else
# it stops the deployment.
crates_excused if {
	input.scan.crates.status == "not_done"
	input.cloud == "embedded"
	is_string(input.scan.crates.reason)
	input.scan.crates.reason != ""
}

no_crate_vulnerable if {
	input.scan.crates.status == "done"
	input.scan.crates.vulnerabilities == 0
}

# Not looked at is neither clean nor vulnerable, unless it says that something was found.
no_crate_vulnerable if {
	input.scan.crates.status == "not_done"
	not crates_counted
}

crates_counted if {
	input.scan.crates.vulnerabilities != null
	input.scan.crates.vulnerabilities != 0
}

default image_status := "missing"

image_status := input.scan.image.status

default crates_status := "missing"

crates_status := input.scan.crates.status

default vulnerabilities := "missing"

vulnerabilities := input.scan.crates.vulnerabilities

is_count(x) if {
	is_number(x)
	x >= 0
	x == floor(x)
}
