package strict_test

import data.main
import data.strict

shipped := {
	"accuracy": 0.92662,
	"fairnessScoreEqualOpportunity": 20.8,
	"rows": 100000,
	"parity": {"rows": 20000, "class_differences": 0, "probability_differences": 0},
	"tests": {"total": 12, "passed": 12, "failed": 0, "skipped": 0},
	"metrics_model": "sha256:0a",
	"image_model": "sha256:0a",
}

thresholds := "Deny: Accuracy less than 95% or fairness score difference greater than 19%"

allowed(document) if {
	strict.allow with input as document
	strict.deny == set() with input as document
}

denied(document, messages) if {
	strict.allow == false with input as document
	strict.deny == messages with input as document
}

test_figures_that_the_model_policy_allows_are_denied if {
	main.allow with input as shipped
	denied(shipped, {thresholds})
}

test_either_figure_alone_is_denied if {
	denied(object.union(shipped, {"accuracy": 0.95}), {thresholds})
	denied(object.union(shipped, {"fairnessScoreEqualOpportunity": 19}), {thresholds})
}

test_figures_on_the_bounds_are_allowed if {
	allowed(object.union(shipped, {"accuracy": 0.95, "fairnessScoreEqualOpportunity": 19}))
}

test_figures_just_outside_are_denied if {
	denied(object.union(shipped, {"accuracy": 0.9499, "fairnessScoreEqualOpportunity": 19}), {thresholds})
	denied(object.union(shipped, {"accuracy": 0.95, "fairnessScoreEqualOpportunity": 19.0001}), {thresholds})
}

test_every_reason_of_the_model_policy_holds_here if {
	not strict.allow with input as {}
	reasons := strict.deny with input as {}
	others := main.deny with input as {}
	reasons - {thresholds} == others - {main.threshold_message}
	count(reasons) == count(others)
}
