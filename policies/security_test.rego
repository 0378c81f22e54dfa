package security_test

import data.security

counts := {"CRITICAL": 0, "HIGH": 0, "MEDIUM": 3, "LOW": 4, "INFORMATIONAL": 0, "UNDEFINED": 1}

crates := {"status": "done", "packages": 83, "vulnerabilities": 0, "warnings": 0}

not_done := {"status": "not_done", "reason": "the advisory database is unreachable"}

no_training_image := {"wanted": "where_possible", "built": false, "reason": "no container engine answers", "digest": null}

good := {
	"cloud": "aws",
	"image_digest": "sha256:0a",
	"training_image": no_training_image,
	"scan": {
		"digest": "sha256:0a",
		"image": {"status": "COMPLETE", "counts": counts},
		"training_image": null,
		"crates": crates,
		"python": python,
	},
}

python := {"status": "done", "packages": 65, "vulnerabilities": 0, "warnings": 0}

unsupported := with_image({"status": "UNSUPPORTED_IMAGE", "counts": null})

cloud := "The cloud that the image ships to is not known"

digest := "The scan belongs to another image than the one that ships"

no_result(status) := sprintf("The image scan has no usable result: status %v", [status])

not_scanned(status) := sprintf("The scan of the crates is not finished: status %v", [status])

training(status) := sprintf("The scan of the training image has no usable result: status %v", [status])

python_not_scanned(status) := sprintf("The scan of the Python packages is not finished: status %v", [status])

python_vulnerable(found) := sprintf("The Python packages are not free of known vulnerabilities: %v", [found])

vulnerable(found) := sprintf("The crates in the program are not free of known vulnerabilities: %v", [found])

found(severity, number) := sprintf("The image has findings of severity %v: %v", [severity, number])

not_numbers := [null, true, false, "", "0", "NaN", [], [0], {}, {"value": 0}]

with_field(key, value) := object.union(object.remove(good, {key}), {key: value})

with_scan(key, value) := with_field("scan", object.union(object.remove(good.scan, {key}), {key: value}))

without_scan(key) := with_field("scan", object.remove(good.scan, {key}))

with_image(image) := with_scan("image", image)

with_counts(replaced) := with_image({"status": "COMPLETE", "counts": replaced})

with_count(severity, value) := with_counts(object.union(object.remove(counts, {severity}), {severity: value}))

with_crates(replaced) := with_scan("crates", replaced)

with_crate(key, value) := with_crates(object.union(object.remove(crates, {key}), {key: value}))

on(document, name) := object.union(object.remove(document, {"cloud"}), {"cloud": name})

warned(document, messages) if {
	security.allow with input as document
	security.deny == set() with input as document
	security.warn == messages with input as document
}

allowed(document) if warned(document, set())

denied(document, messages) if {
	security.allow == false with input as document
	security.deny == messages with input as document
}

test_finished_scans_without_findings_are_allowed if {
	allowed(good)
	allowed(with_image({"status": "ACTIVE", "counts": counts}))
	allowed(on(good, "embedded"))
}

nothing := {
	cloud,
	digest,
	no_result("missing"),
	not_scanned("missing"),
	vulnerable("missing"),
	training("missing"),
	python_not_scanned("missing"),
	python_vulnerable("missing"),
}

test_nothing_at_all_is_denied_for_every_reason if {
	denied({}, nothing)
	security.warn == set() with input as {}
}

test_input_that_is_not_an_object_is_denied if {
	every value in array.concat(not_numbers, [0, 1]) { denied(value, nothing) }
}

# Cloud

test_cloud_unknown if {
	denied(object.remove(good, {"cloud"}), {cloud})
	every value in array.concat(not_numbers, ["AWS", "embedded ", "gcp"]) { denied(with_field("cloud", value), {cloud}) }
}

# Digest

test_digest_missing if {
	denied(object.remove(good, {"image_digest"}), {digest})
	denied(without_scan("digest"), {digest})
	denied(object.remove(with_field("scan", object.remove(good.scan, {"digest"})), {"image_digest"}), {digest})
}

test_digest_of_another_image if {
	denied(with_field("image_digest", "sha256:0b"), {digest})
	denied(with_scan("digest", "sha256:0b"), {digest})
}

test_digest_without_a_name if {
	every value in array.concat(array.slice(not_numbers, 0, 4), [0, 1, [], {}]) {
		denied(object.union(with_scan("digest", value), {"image_digest": value}), {digest})
	}
}

# Image scan

test_scan_missing if {
	denied(object.remove(good, {"scan"}), {
		digest,
		no_result("missing"),
		not_scanned("missing"),
		vulnerable("missing"),
		python_not_scanned("missing"),
		python_vulnerable("missing"),
	})
}

test_image_scan_missing if {
	denied(without_scan("image"), {no_result("missing")})
	every value in array.concat(not_numbers, [0, 1]) { denied(with_image(value), {no_result("missing")}) }
}

test_image_scan_not_finished if {
	every status in [
		"IN_PROGRESS", "PENDING", "FAILED", "SCAN_ELIGIBILITY_EXPIRED", "FINDINGS_UNAVAILABLE", "LIMIT_EXCEEDED",
		"IMAGE_ARCHIVED", "IMAGE_SIZE_EXCEEDED", "complete", "COMPLETE ", "",
	] {
		denied(with_image({"status": status, "counts": counts}), {no_result(status)})
		denied(with_image({"status": status, "counts": null}), {no_result(status)})
		denied(with_image({"status": status}), {no_result(status)})
	}
}

test_image_status_not_a_string if {
	every status in [null, 0, 1] {
		denied(with_image({"status": status, "counts": counts}), {no_result(status)})
	}
	every status in [["COMPLETE"], {"COMPLETE": true}, true, false] {
		not security.allow with input as with_image({"status": status, "counts": counts})
		count(security.deny) == 1 with input as with_image({"status": status, "counts": counts})
	}
}

test_image_status_missing if denied(with_image({"counts": counts}), {no_result("missing")})

test_counts_missing if {
	every status in ["COMPLETE", "ACTIVE"] {
		denied(with_image({"status": status}), {no_result(status)})
		denied(with_image({"status": status, "counts": {}}), {no_result(status)})
		every value in array.concat(not_numbers, [0, 1]) {
			denied(with_image({"status": status, "counts": value}), {no_result(status)})
		}
	}
	every severity, _ in counts {
		denied(with_counts(object.remove(counts, {severity})), {no_result("COMPLETE")})
	}
}

# Each of the others, so that only the shape of the count speaks.
test_counts_not_counts if {
	every severity in ["MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"] {
		every value in array.concat(not_numbers, [-1, 0.5]) {
			denied(with_count(severity, value), {no_result("COMPLETE")})
		}
	}
	every severity in ["CRITICAL", "HIGH"] {
		every value in array.concat(not_numbers, [-1, 0.5]) {
			denied(with_count(severity, value), {no_result("COMPLETE"), found(severity, value)})
		}
	}
}

# A severity that the policy has not heard of could be the worst of all.
test_counts_of_an_unknown_severity if {
	denied(with_counts(object.union(counts, {"SEVERE": 0})), {no_result("COMPLETE")})
}

test_findings_that_block if {
	every severity in ["CRITICAL", "HIGH"] {
		every number in [1, 2, 1000] { denied(with_count(severity, number), {found(severity, number)}) }
	}
	denied(
		with_counts(object.union(counts, {"CRITICAL": 1, "HIGH": 2})),
		{found("CRITICAL", 1), found("HIGH", 2)},
	)
}

test_findings_that_do_not_block if {
	every severity in ["MEDIUM", "LOW", "INFORMATIONAL", "UNDEFINED"] { allowed(with_count(severity, 1000)) }
}

# An image that the registry cannot scan

test_unsupported_image_is_allowed_with_a_scan_of_the_crates if {
	allowed(unsupported)
	allowed(on(unsupported, "embedded"))
	allowed(with_image({"status": "UNSUPPORTED_IMAGE"}))
}

test_failed_scan_of_an_unsupported_image_is_allowed_with_a_scan_of_the_crates if {
	every description in ["UnsupportedImageError", "UnsupportedImageError: The operating system is not supported."] {
		allowed(with_image({"status": "FAILED", "description": description, "counts": null}))
		allowed(with_image({"status": "FAILED", "description": description}))
	}
}

test_failed_scan_for_another_reason if {
	every description in array.concat(not_numbers, ["Timeout", "not an UnsupportedImageError", "unsupportedimageerror"]) {
		denied(with_image({"status": "FAILED", "description": description, "counts": null}), {no_result("FAILED")})
	}
}

test_description_excuses_a_failed_scan_only if {
	every status in ["IN_PROGRESS", "COMPLETE", "PENDING"] {
		denied(
			with_image({"status": status, "description": "UnsupportedImageError", "counts": null}),
			{no_result(status)},
		)
	}
}

test_unsupported_image_with_counts_contradicts_itself if {
	denied(with_image({"status": "UNSUPPORTED_IMAGE", "counts": counts}), {no_result("UNSUPPORTED_IMAGE")})
	denied(with_image({"status": "UNSUPPORTED_IMAGE", "counts": {}}), {no_result("UNSUPPORTED_IMAGE")})
	denied(with_image({"status": "UNSUPPORTED_IMAGE", "counts": false}), {no_result("UNSUPPORTED_IMAGE")})
	denied(
		with_image({"status": "FAILED", "description": "UnsupportedImageError", "counts": counts}),
		{no_result("FAILED")},
	)
}

test_unsupported_image_of_another_digest if {
	denied(object.union(unsupported, {"image_digest": "sha256:0b"}), {digest})
}

# Scan of the crates

test_crates_missing if {
	denied(without_scan("crates"), {not_scanned("missing"), vulnerable("missing")})
	every value in array.concat(not_numbers, [0, 1]) {
		denied(with_crates(value), {not_scanned("missing"), vulnerable("missing")})
	}
}

test_crates_status_unknown if {
	every status in [null, "", "DONE", "running", "failed", 1] {
		denied(with_crate("status", status), {not_scanned(status), vulnerable(0)})
	}
}

test_crates_of_no_packages if {
	denied(with_crates(object.remove(crates, {"packages"})), {not_scanned("done")})
	every value in array.concat(not_numbers, [0, -1, 0.5]) {
		denied(with_crate("packages", value), {not_scanned("done")})
	}
	allowed(with_crate("packages", 1))
}

test_crates_with_warnings if {
	warned(with_crate("warnings", 2), {"Crates in the program carry a warning: 2"})
	warned(with_crate("warnings", 1), {"Crates in the program carry a warning: 1"})
	denied(with_crates(object.remove(crates, {"warnings"})), {not_scanned("done")})
	every value in array.concat(not_numbers, [-1, 0.5]) {
		denied(with_crate("warnings", value), {not_scanned("done")})
		security.warn == set() with input as with_crate("warnings", value)
	}
}

test_crates_vulnerable if {
	denied(with_crates(object.remove(crates, {"vulnerabilities"})), {vulnerable("missing")})
	every value in [null, 1, 83, -1, 0.5, "0", "NaN"] {
		denied(with_crate("vulnerabilities", value), {vulnerable(value)})
	}
	every value in [true, false, [], [0], {}] {
		not security.allow with input as with_crate("vulnerabilities", value)
		count(security.deny) == 1 with input as with_crate("vulnerabilities", value)
	}
}

test_crates_vulnerable_in_the_embedded_cloud_too if {
	denied(on(with_crate("vulnerabilities", 1), "embedded"), {vulnerable(1)})
}

test_crates_not_scanned_is_a_warning_in_the_embedded_cloud_only if {
	excuse := {"The crates in the program were not scanned: the advisory database is unreachable"}
	every document in [
		with_crates(not_done),
		with_crates(object.union(not_done, {"vulnerabilities": null})),
		with_crates(object.union(not_done, {"vulnerabilities": 0, "warnings": 3})),
		object.union(unsupported, {"scan": object.union(object.remove(unsupported.scan, {"crates"}), {"crates": not_done})}),
	] {
		warned(on(document, "embedded"), excuse)
		denied(on(document, "aws"), {not_scanned("not_done")})
		security.warn == set() with input as document
	}
}

test_crates_not_scanned_without_a_reason if {
	denied(on(with_crates({"status": "not_done"}), "embedded"), {not_scanned("not_done")})
	every value in array.concat(array.slice(not_numbers, 0, 4), [0, 1, [], {}]) {
		denied(on(with_crates({"status": "not_done", "reason": value}), "embedded"), {not_scanned("not_done")})
	}
}

test_a_reason_excuses_only_a_scan_that_was_not_done if {
	broken := {"status": "done", "reason": "interrupted", "vulnerabilities": 0}
	denied(on(with_crates(broken), "embedded"), {not_scanned("done")})
}

test_crates_not_scanned_but_vulnerable_contradicts_itself if {
	every value in [1, -1, "0", "many"] {
		document := with_crates(object.union(not_done, {"vulnerabilities": value}))
		denied(on(document, "embedded"), {vulnerable(value)})
	}
}

test_crates_not_scanned_does_not_excuse_the_image if {
	document := object.union(on(with_crates(not_done), "embedded"), {"scan": {"image": {"status": "IN_PROGRESS"}}})
	denied(document, {no_result("IN_PROGRESS")})
}

test_a_clean_scan_of_the_crates_does_not_excuse_the_findings if {
	denied(on(with_count("CRITICAL", 1), "embedded"), {found("CRITICAL", 1)})
}

# Training image

built := {"wanted": "required", "built": true, "reason": "built by buildah", "digest": "sha256:0c"}

scanned := {"digest": "sha256:0c", "image": {"status": "COMPLETE", "counts": counts}}

with_training(image, scan) := object.union(
	with_scan("training_image", scan),
	{"training_image": image},
)

with_training_scan(key, value) := with_training(built, object.union(object.remove(scanned, {key}), {key: value}))

test_training_image_with_a_finished_scan_is_allowed if {
	every status in ["COMPLETE", "ACTIVE"] { allowed(with_training_scan("image", {"status": status, "counts": counts})) }
	every wanted in ["off", "where_possible", "required"] {
		allowed(with_training(object.union(built, {"wanted": wanted}), scanned))
	}
}

test_training_image_that_was_not_built if {
	every wanted in ["off", "where_possible"] {
		allowed(with_field("training_image", object.union(object.remove(no_training_image, {"wanted"}), {"wanted": wanted})))
	}
	every wanted in ["required", "", null, 0, "OFF"] {
		denied(
			with_field("training_image", object.union(object.remove(no_training_image, {"wanted"}), {"wanted": wanted})),
			{"The training image is required and was not built: no container engine answers"},
		)
	}
	denied(
		with_field("training_image", {"built": false}),
		{"The training image is required and was not built: missing"},
	)
}

test_training_image_that_was_not_built_needs_a_reason if {
	every reason in array.concat(array.slice(not_numbers, 0, 4), [0, 1, [], {}]) {
		document := object.union(object.remove(no_training_image, {"reason"}), {"reason": reason})
		denied(with_field("training_image", document), {training("missing")})
	}
}

test_training_image_that_was_not_built_but_scanned_contradicts_itself if {
	denied(with_training(no_training_image, scanned), {training("COMPLETE")})
	denied(with_training(no_training_image, false), {training("missing")})
}

test_training_image_not_said if {
	denied(object.remove(good, {"training_image"}), {training("missing")})
	every value in array.concat(not_numbers, [0, 1]) { denied(with_field("training_image", value), {training("missing")}) }
	every value in [null, "true", 1, "", [], {}] {
		denied(with_training(object.union(object.remove(built, {"built"}), {"built": value}), scanned), {training("COMPLETE")})
	}
}

test_training_image_scan_missing if {
	every wanted in ["off", "where_possible", "required"] {
		denied(with_field("training_image", object.union(built, {"wanted": wanted})), {training("missing")})
	}
	denied(with_field("training_image", built), {training("missing")})
	denied(object.union(without_scan("training_image"), {"training_image": built}), {training("missing")})
	every value in array.concat(not_numbers, [0, 1]) { denied(with_training(built, value), {training("missing")}) }
}

test_training_image_scan_of_another_image if {
	denied(with_training_scan("digest", "sha256:0d"), {training("COMPLETE")})
	denied(with_training(object.remove(built, {"digest"}), scanned), {training("COMPLETE")})
	unscanned := object.union(scanned, {"digest": "sha256:0d", "image": {"status": "FINDINGS_UNAVAILABLE", "counts": null}})
	denied(on(with_training(built, unscanned), "embedded"), {training("FINDINGS_UNAVAILABLE")})
	denied(with_training(object.union(built, {"digest": ""}), object.union(scanned, {"digest": ""})), {training("COMPLETE")})
}

test_training_image_scan_not_finished if {
	every status in [
		"IN_PROGRESS", "PENDING", "FAILED", "UNSUPPORTED_IMAGE", "SCAN_ELIGIBILITY_EXPIRED", "FINDINGS_UNAVAILABLE",
		"LIMIT_EXCEEDED", "IMAGE_ARCHIVED", "IMAGE_SIZE_EXCEEDED", "complete", "",
	] {
		denied(with_training_scan("image", {"status": status, "counts": counts}), {training(status)})
		denied(with_training_scan("image", {"status": status, "counts": null}), {training(status)})
	}
}

test_training_image_without_counts if {
	denied(with_training_scan("image", {"status": "COMPLETE"}), {training("COMPLETE")})
	every severity, _ in counts {
		fewer := object.remove(counts, {severity})
		denied(with_training_scan("image", {"status": "COMPLETE", "counts": fewer}), {training("COMPLETE")})
		every value in array.concat(not_numbers, [-1, 0.5]) {
			odd := object.union(fewer, {severity: value})
			denied(with_training_scan("image", {"status": "COMPLETE", "counts": odd}), {training("COMPLETE")})
		}
	}
}

test_training_image_findings_warn if {
	worse := object.union(counts, {"CRITICAL": 1, "HIGH": 2})
	warned(with_training_scan("image", {"status": "COMPLETE", "counts": worse}), {
		"The training image has findings of severity CRITICAL: 1",
		"The training image has findings of severity HIGH: 2",
	})
}

test_findings_of_another_training_image_do_not_warn if {
	worse := object.union(counts, {"CRITICAL": 1})
	document := with_training(built, {"digest": "sha256:0d", "image": {"status": "COMPLETE", "counts": worse}})
	security.warn == set() with input as document
}

test_training_image_unscanned_is_a_warning_in_the_embedded_cloud_only if {
	every image in [{"status": "FINDINGS_UNAVAILABLE", "counts": null}, {"status": "FINDINGS_UNAVAILABLE"}] {
		document := with_training_scan("image", image)
		warned(on(document, "embedded"), {"The training image was not scanned: status FINDINGS_UNAVAILABLE"})
		denied(document, {training("FINDINGS_UNAVAILABLE")})
	}
	contradiction := with_training_scan("image", {"status": "FINDINGS_UNAVAILABLE", "counts": counts})
	denied(on(contradiction, "embedded"), {training("FINDINGS_UNAVAILABLE")})
	denied(on(with_training_scan("image", {"status": "FAILED"}), "embedded"), {training("FAILED")})
}

# Python packages

with_python(replaced) := with_scan("python", replaced)

with_python_field(key, value) := with_python(object.union(object.remove(python, {key}), {key: value}))

test_python_missing if {
	denied(without_scan("python"), {python_not_scanned("missing"), python_vulnerable("missing")})
	every value in array.concat(not_numbers, [0, 1]) {
		denied(with_python(value), {python_not_scanned("missing"), python_vulnerable("missing")})
	}
}

test_python_status_unknown if {
	every status in [null, "", "DONE", "running", "OFF", 1] {
		denied(with_python_field("status", status), {python_not_scanned(status), python_vulnerable(0)})
	}
}

test_python_of_no_packages if {
	denied(with_python(object.remove(python, {"packages"})), {python_not_scanned("done")})
	every value in array.concat(not_numbers, [0, -1, 0.5]) {
		denied(with_python_field("packages", value), {python_not_scanned("done")})
	}
}

test_python_with_warnings if {
	every number in [1, 2] {
		warned(with_python_field("warnings", number), {sprintf("Python packages carry a warning: %v", [number])})
	}
	every value in array.concat(not_numbers, [-1, 0.5]) {
		denied(with_python_field("warnings", value), {python_not_scanned("done")})
		security.warn == set() with input as with_python_field("warnings", value)
	}
}

test_python_vulnerable if {
	denied(with_python(object.remove(python, {"vulnerabilities"})), {python_vulnerable("missing")})
	every value in [null, 1, 65, -1, 0.5, "0"] {
		denied(with_python_field("vulnerabilities", value), {python_vulnerable(value)})
		denied(on(with_python_field("vulnerabilities", value), "embedded"), {python_vulnerable(value)})
	}
}

test_python_not_scanned_is_a_warning_in_the_embedded_cloud_only if {
	every document in [with_python(not_done), with_python(object.union(not_done, {"vulnerabilities": 0, "warnings": 3}))] {
		warned(on(document, "embedded"), {"The Python packages were not scanned: the advisory database is unreachable"})
		denied(document, {python_not_scanned("not_done")})
		security.warn == set() with input as document
	}
}

test_python_switched_off_is_a_warning_everywhere if {
	off := {"status": "off", "reason": "nobody is to be asked", "vulnerabilities": 0}
	every name in ["aws", "embedded"] {
		warned(on(with_python(off), name), {"The Python packages were not scanned: nobody is to be asked"})
	}
}

test_python_not_scanned_without_a_reason if {
	every status in ["off", "not_done"] {
		every value in array.concat(array.slice(not_numbers, 0, 4), [0, 1, [], {}]) {
			denied(on(with_python({"status": status, "reason": value}), "embedded"), {python_not_scanned(status)})
		}
	}
}

test_python_not_scanned_but_vulnerable_contradicts_itself if {
	every status in ["off", "not_done"] {
		document := with_python({"status": status, "reason": "no network", "vulnerabilities": 3})
		denied(on(document, "embedded"), {python_vulnerable(3)})
	}
}
