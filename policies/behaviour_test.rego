package behaviour_test

import data.behaviour

check(kind) := {
	"kind": kind,
	"name": concat(" ", ["check", kind]),
	"status": "pass",
	"severity": "error",
	"n": 1,
	"violations": 0,
	"reason": "as it should be",
}

required := {"cases", "overfit", "baseline", "slices", "data", "leakage"}

good := {
	"behaviour": {
		"model": "sha256:0a",
		"pairs": 1000000,
		"checks": [check("monotone"), check("cases"), check("overfit"), check("baseline"), check("slices"), check("data"), check("leakage")],
	},
	"image_model": "sha256:0a",
}

unmeasured := "The behaviour of the model was not measured"

another := "The behaviour belongs to another model than the image"

pairs := "Fewer than 1000000 generated pairs were tried"

absent := {message |
	some kind in required
	message := sprintf("No check of the kind %q was made", [kind])
}

not_numbers := [null, true, false, "", "1", "NaN", [], [1], {}, {"value": 1}]

with_behaviour(key, value) := object.union(good, {"behaviour": object.union(object.remove(good.behaviour, {key}), {key: value})})

without_behaviour(key) := {"behaviour": object.remove(good.behaviour, {key}), "image_model": "sha256:0a"}

# The first check with something else in it.
with_first(fields) := with_behaviour("checks", array.concat(
	[object.union(object.remove(check("monotone"), {key | some key, _ in fields}), fields)],
	array.slice(good.behaviour.checks, 1, 100),
))

without_first(field) := with_behaviour("checks", array.concat(
	[object.remove(check("monotone"), {field})],
	array.slice(good.behaviour.checks, 1, 100),
))

allowed(document) if {
	behaviour.allow with input as document
	behaviour.deny == set() with input as document
	behaviour.warn == set() with input as document
}

denied(document, messages) if {
	behaviour.allow == false with input as document
	behaviour.deny == messages with input as document
}

test_good_behaviour_is_allowed if allowed(good)

test_nothing_at_all_is_denied_for_every_reason if {
	every document in [{}, {"behaviour": null}, {"behaviour": []}, [], null, "text", 1] {
		denied(document, {unmeasured, another, pairs} | absent)
	}
}

test_checks_missing if {
	denied(without_behaviour("checks"), {unmeasured} | absent)
	denied(with_behaviour("checks", []), {unmeasured} | absent)
	every value in [null, true, 1, "text"] { denied(with_behaviour("checks", value), {unmeasured} | absent) }
}

test_one_check_is_measured_and_not_enough if {
	lonely := with_behaviour("checks", [check("cases")])
	denied(lonely, {message | some message in absent; not contains(message, "cases")})
}

test_checks_as_an_object_are_no_list if {
	checks := {kind: check(kind) | some kind in required}
	denied(with_behaviour("checks", checks), {unmeasured} | absent)
}

test_every_kind_is_required if {
	every kind in required {
		checks := [each | some each in good.behaviour.checks; each.kind != kind]
		denied(with_behaviour("checks", checks), {sprintf("No check of the kind %q was made", [kind])})
	}
}

test_generated_pairs_are_of_no_required_kind if {
	allowed(with_behaviour("checks", array.slice(good.behaviour.checks, 1, 100)))
}

test_a_check_lacks_a_field if {
	every field in ["name", "kind", "n", "violations", "severity"] { denied(without_first(field), {unmeasured}) }
	document := without_first("status")
	not behaviour.allow with input as document
	unmeasured in behaviour.deny with input as document
}

test_a_check_is_of_another_type if {
	every value in [null, true, 1, [], {}] {
		denied(with_first({"name": value}), {unmeasured})
		denied(with_first({"kind": value}), {unmeasured})
	}
	every value in not_numbers {
		denied(with_first({"n": value}), {unmeasured})
		denied(with_first({"violations": value}), {unmeasured})
	}
	every value in [null, "", "passed", 1] {
		not behaviour.allow with input as with_first({"status": value})
		unmeasured in behaviour.deny with input as with_first({"status": value})
		denied(with_first({"severity": value}), {unmeasured})
	}
}

test_counts_are_whole_and_not_negative if {
	every value in [-1, 0.5] {
		denied(with_first({"n": value}), {unmeasured})
		denied(with_first({"violations": value}), {unmeasured})
		denied(with_first({"status": "fail", "severity": "warn", "n": value}), {unmeasured})
		denied(with_first({"status": "fail", "severity": "warn", "violations": value}), {unmeasured})
	}
}

test_a_pass_over_nothing_or_with_violations_is_none if {
	denied(with_first({"n": 0}), {unmeasured})
	denied(with_first({"violations": 1}), {unmeasured})
	allowed(with_first({"n": 2}))
}

test_a_failed_check_is_denied_with_its_reason if {
	every status in ["fail", "insufficient evidence"] {
		document := with_first({"status": status, "violations": 3, "reason": "3 flips"})
		denied(document, {sprintf("check monotone, %v: 3 flips", [status])})
		behaviour.warn == set() with input as document
	}
	nothing := with_first({"status": "insufficient evidence", "n": 0, "reason": "no case"})
	denied(nothing, {"check monotone, insufficient evidence: no case"})
}

test_a_failed_check_that_only_warns_warns if {
	document := with_first({"status": "fail", "severity": "warn", "violations": 3, "reason": "3 flips"})
	behaviour.allow with input as document
	behaviour.deny == set() with input as document
	behaviour.warn == {"check monotone, fail: 3 flips"} with input as document
}

test_pairs if {
	denied(without_behaviour("pairs"), {pairs})
	every value in array.concat(not_numbers, [-1, 0, 999999, 1000000.5]) {
		denied(with_behaviour("pairs", value), {pairs})
	}
	allowed(with_behaviour("pairs", 1000001))
}

test_fewer_pairs_may_be_asked_for if {
	every least in [1, 999999] {
		behaviour.allow with input as with_behaviour("pairs", 999999) with behaviour.minimum_pairs as least
	}
}

test_model_of_another_image if {
	denied(with_behaviour("model", "sha256:0b"), {another})
	denied(object.union(good, {"image_model": "sha256:0b"}), {another})
	denied(without_behaviour("model"), {another})
	denied(object.remove(good, {"image_model"}), {another})
}

test_model_without_a_name if {
	every value in [null, true, 0, 1, "", [], {}] {
		document := object.union(with_behaviour("model", value), {"image_model": value})
		denied(document, {another})
	}
}
