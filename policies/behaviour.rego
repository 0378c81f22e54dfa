# METADATA
# title: Behaviour policy
# description: |
#   A model ships only if it was shown to behave: every kind of check must be there, be about the model in
#   the image, have looked at something, and have passed. A check that pipeline.toml lists in `warn_only`
#   warns instead, but must have been made all the same.
package behaviour

# Kinds without which nothing is proven. The checks of generated pairs depend on what is declared.
required_kinds := {"cases", "overfit", "baseline", "slices", "data", "leakage"}

minimum_pairs := 1000000

default allow := false

allow if {
	checks_proven
	model_proven
	pairs_proven
	kinds_proven
	count(not_passed("error")) == 0
}

# METADATA
# title: The checks are there and say what they found
# custom:
#   id: behaviour.checks
deny contains "The behaviour of the model was not measured" if not checks_proven

# METADATA
# title: The checks are of the model in the image
# custom:
#   id: behaviour.identity
deny contains "The behaviour belongs to another model than the image" if not model_proven

# METADATA
# title: Enough generated pairs were tried
# custom:
#   id: behaviour.pairs
deny contains sprintf("Fewer than %d generated pairs were tried", [minimum_pairs]) if not pairs_proven

# METADATA
# title: Every kind of check was made
# custom:
#   id: behaviour.kinds
deny contains sprintf("No check of the kind %q was made", [kind]) if {
	some kind in required_kinds
	not kind in kinds
}

# METADATA
# title: Every check passed
# custom:
#   id: behaviour.passed
deny contains message if some message in not_passed("error")

# METADATA
# title: Every check that only warns passed
# custom:
#   id: behaviour.warn-only
warn contains message if some message in not_passed("warn")

checks_proven if {
	count(checks) > 0
	every check in checks { is_check(check) }
}

# What a check is, so that a missing status is not taken for a pass.
is_check(check) if {
	is_string(check.name)
	is_string(check.kind)
	check.severity in {"error", "warn"}
	is_count(check.n)
	is_count(check.violations)
	consistent(check)
}

# A status is one of three, and a pass has looked at something and found nothing.
consistent(check) if {
	check.status == "pass"
	check.n > 0
	check.violations == 0
}

consistent(check) if check.status in {"fail", "insufficient evidence"}

model_proven if {
	is_string(input.behaviour.model)
	input.behaviour.model != ""
	input.behaviour.model == input.image_model
}

pairs_proven if {
	is_count(input.behaviour.pairs)
	input.behaviour.pairs >= minimum_pairs
}

# No check can be taken out of what is no list.
checks := input.behaviour.checks if is_array(input.behaviour.checks)

else := []

kinds contains kind if {
	some check in checks
	kind := check.kind
}

kinds_proven if {
	every kind in required_kinds { kind in kinds }
}

not_passed(severity) := {message |
	some check in checks
	check.severity == severity
	check.status != "pass"
	message := sprintf("%v, %v: %v", [check.name, check.status, check.reason])
}

is_count(x) if {
	is_number(x)
	x >= 0
	x == floor(x)
}
