# METADATA
# title: Security policy
# description: |
#   An image ships only when both of its scans are finished, belong to exactly its digest and found
#   nothing that must be fixed: the registry's scan of the image, and the scan of the crates inside the
#   program. A registry cannot look into an image without an operating system; it says so, and then the
#   scan of the crates, which is required in any case, is what vouches for the image.
#   The training image and the Python packages in it do not ship, but they make the model that does: where
#   they exist, their scans must be finished too. Findings in the training image are to be known; a known
#   vulnerability of a package stops the deployment.
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
	training_image_accepted
	python_scan_accepted
	no_python_package_vulnerable
}

# METADATA
# title: The cloud is a known one
# custom:
#   id: security.cloud
deny contains "The cloud that the image ships to is not known" if not known_cloud

# METADATA
# title: The scan is of the image that ships
# custom:
#   id: security.identity
deny contains "The scan belongs to another image than the one that ships" if not scan_of_this_image

# METADATA
# title: The registry has scanned the image, or cannot
# custom:
#   id: security.image-scan
deny contains message if {
	not image_scan_answered
	message := sprintf("The image scan has no usable result: status %v", [image_status])
}

# METADATA
# title: The image has no finding that blocks
# custom:
#   id: security.image-findings
deny contains message if {
	some severity, findings in blocking_findings
	message := sprintf("The image has findings of severity %v: %v", [severity, findings])
}

# METADATA
# title: The crates in the program were looked up
# custom:
#   id: security.crates-scan
deny contains message if {
	not crates_scan_accepted
	message := sprintf("The scan of the crates is not finished: status %v", [crates_status])
}

# METADATA
# title: No crate in the program is known to be vulnerable
# custom:
#   id: security.crates-vulnerable
deny contains message if {
	not no_crate_vulnerable
	message := sprintf("The crates in the program are not free of known vulnerabilities: %v", [vulnerabilities])
}

# METADATA
# title: The training image is there where it is required
# custom:
#   id: security.training-image
deny contains message if {
	training_image_missing
	message := sprintf("The training image is required and was not built: %v", [training_image_reason])
}

# METADATA
# title: The training image was scanned
# custom:
#   id: security.training-image-scan
deny contains message if {
	not training_image_accepted
	not training_image_missing
	message := sprintf("The scan of the training image has no usable result: status %v", [training_image_status])
}

# METADATA
# title: The Python packages were looked up
# custom:
#   id: security.python-scan
deny contains message if {
	not python_scan_accepted
	message := sprintf("The scan of the Python packages is not finished: status %v", [python_status])
}

# METADATA
# title: No Python package is known to be vulnerable
# custom:
#   id: security.python-vulnerable
deny contains message if {
	not no_python_package_vulnerable
	message := sprintf("The Python packages are not free of known vulnerabilities: %v", [python_vulnerabilities])
}

# Crates that are no longer maintained or were withdrawn: to be known, not to be stopped for.
# METADATA
# title: No crate carries a warning
# custom:
#   id: security.crates-notices
warn contains message if {
	crates_finished
	input.scan.crates.warnings > 0
	message := sprintf("Crates in the program carry a warning: %v", [input.scan.crates.warnings])
}

# METADATA
# title: The crates could be looked up
# custom:
#   id: security.crates-unscanned
warn contains message if {
	crates_excused
	message := sprintf("The crates in the program were not scanned: %v", [input.scan.crates.reason])
}

# METADATA
# title: The training image has no serious finding
# custom:
#   id: security.training-image-findings
warn contains message if {
	training_image_scanned
	some severity in blocking_severities
	findings := input.scan.training_image.image.counts[severity]
	findings > 0
	message := sprintf("The training image has findings of severity %v: %v", [severity, findings])
}

# METADATA
# title: The training image could be scanned
# custom:
#   id: security.training-image-unscanned
warn contains message if {
	training_image_excused
	message := sprintf("The training image was not scanned: status %v", [training_image_status])
}

# METADATA
# title: No Python package carries a warning
# custom:
#   id: security.python-notices
warn contains message if {
	python_finished
	input.scan.python.warnings > 0
	message := sprintf("Python packages carry a warning: %v", [input.scan.python.warnings])
}

# METADATA
# title: The Python packages could be looked up
# custom:
#   id: security.python-unscanned
warn contains message if {
	python_excused
	message := sprintf("The Python packages were not scanned: %v", [input.scan.python.reason])
}

known_cloud if input.cloud in clouds

scan_of_this_image if {
	is_string(input.image_digest)
	input.image_digest != ""
	input.scan.digest == input.image_digest
}

image_scan_answered if image_counted

image_scan_answered if image_unsupported

image_counted if counted(input.scan.image)

# All severities, no others, and each with a number: an absent count is not zero.
counted(scan) if {
	scan.status in finished_statuses
	is_object(scan.counts)
	object.keys(scan.counts) == severities
	every findings in scan.counts {
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

crates_finished if packages_looked_up(input.scan.crates)

crates_excused if unavoidable(input.scan.crates)

no_crate_vulnerable if free_of_vulnerabilities(input.scan.crates)

training_image_accepted if training_image_absent

training_image_accepted if training_image_scanned

training_image_accepted if training_image_excused

# None was built, none was scanned, nobody requires one, and there is a reason.
training_image_absent if {
	input.training_image.built == false
	input.training_image.wanted in {"off", "where_possible"}
	is_text(input.training_image.reason)
	not training_image_has_scan
}

training_image_missing if {
	input.training_image.built == false
	not input.training_image.wanted in {"off", "where_possible"}
}

training_image_has_scan if input.scan.training_image != null

training_image_scanned if {
	scan_of_this_training_image
	counted(input.scan.training_image.image)
}

# The embedded cloud has no scanner and says so. A registry that should have one and has nothing to say
# does not vouch for the image.
training_image_excused if {
	scan_of_this_training_image
	input.cloud == "embedded"
	input.scan.training_image.image.status == "FINDINGS_UNAVAILABLE"
	not training_image_has_counts
}

training_image_has_counts if input.scan.training_image.image.counts != null

scan_of_this_training_image if {
	input.training_image.built == true
	is_text(input.training_image.digest)
	input.scan.training_image.digest == input.training_image.digest
}

python_scan_accepted if python_finished

python_scan_accepted if python_excused

python_finished if packages_looked_up(input.scan.python)

python_excused if unavoidable(input.scan.python)

# Whoever switches the scan off in pipeline.toml is told so at every run.
python_excused if {
	input.scan.python.status == "off"
	is_text(input.scan.python.reason)
}

no_python_package_vulnerable if free_of_vulnerabilities(input.scan.python)

# A scan of no packages found nothing because it looked at nothing.
packages_looked_up(scan) if {
	scan.status == "done"
	is_count(scan.packages)
	scan.packages > 0
	is_count(scan.warnings)
}

# Without a network nobody knows the advisories. On a developer's machine that is said, anywhere else it
# stops the deployment.
unavoidable(scan) if {
	scan.status == "not_done"
	input.cloud == "embedded"
	is_text(scan.reason)
}

free_of_vulnerabilities(scan) if {
	scan.status == "done"
	scan.vulnerabilities == 0
}

# Not looked at is neither clean nor vulnerable, unless it says that something was found.
free_of_vulnerabilities(scan) if {
	scan.status in {"not_done", "off"}
	not says_vulnerable(scan)
}

says_vulnerable(scan) if {
	scan.vulnerabilities != null
	scan.vulnerabilities != 0
}

default training_image_status := "missing"

training_image_status := input.scan.training_image.image.status

default training_image_reason := "missing"

training_image_reason := input.training_image.reason

default python_status := "missing"

python_status := input.scan.python.status

default python_vulnerabilities := "missing"

python_vulnerabilities := input.scan.python.vulnerabilities

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

is_text(x) if {
	is_string(x)
	x != ""
}
