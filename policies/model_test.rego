package main_test

import data.main

# The figures of the model that the repository ships with.
good := {
	"accuracy": 0.92662,
	"fairnessScoreEqualOpportunity": 7.03,
	"rows": 100000,
	"parity": {"rows": 20000, "class_differences": 0, "probability_differences": 0},
	"tests": {"total": 12, "passed": 11, "failed": 0, "skipped": 1},
	"metrics_model": "sha256:0a",
	"image_model": "sha256:0a",
}

thresholds := "Deny: Accuracy less than 90% or fairness score difference greater than 21%"

rows := "The metrics do not say how many rows they were measured on"

parity := "Python and the deployed program were not shown to give the same answers"

tests := "The tests of the notebook did not all run and pass"

model := "The metrics belong to another model than the image"

# Strings sort above numbers, lists and objects above strings, null and booleans below everything.
not_numbers := [null, true, false, "", "0.95", "NaN", "Infinity", [], [0.95], {}, {"value": 0.95}]

with_field(key, value) := object.union(object.remove(good, {key}), {key: value})

with_inner(key, inner, value) := with_field(key, object.union(object.remove(good[key], {inner}), {inner: value}))

without_inner(key, inner) := with_field(key, object.remove(good[key], {inner}))

# allow and deny are two answers to one question, so each is asked every time.
allowed(document) if {
	main.allow with input as document
	main.deny == set() with input as document
}

denied(document, messages) if {
	main.allow == false with input as document
	main.deny == messages with input as document
}

test_good_model_is_allowed if allowed(good)

test_nothing_at_all_is_denied_for_every_reason if denied({}, {thresholds, rows, parity, tests, model})

test_input_that_is_not_an_object_is_denied if {
	every value in array.concat(not_numbers, [0.95, 1]) {
		denied(value, {thresholds, rows, parity, tests, model})
	}
}

test_unknown_fields_change_nothing if allowed(object.union(good, {"environment": "local", "scan": null}))

# Accuracy

test_accuracy_missing if denied(object.remove(good, {"accuracy"}), {thresholds})

test_accuracy_under_another_name if {
	denied(object.union(object.remove(good, {"accuracy"}), {"Accuracy": 0.95}), {thresholds})
}

test_accuracy_not_a_number if {
	every value in not_numbers { denied(with_field("accuracy", value), {thresholds}) }
}

test_accuracy_on_its_bounds if {
	every value in [0.9, 0.90001, 1, 1.0] { allowed(with_field("accuracy", value)) }
}

test_accuracy_outside_its_bounds if {
	every value in [0.8999, 0.8999999999999999, 0, -0.95, -1, 1.0001, 1.0000000000000002, 92.662, 1e308] {
		denied(with_field("accuracy", value), {thresholds})
	}
}

# Fairness

test_fairness_missing if denied(object.remove(good, {"fairnessScoreEqualOpportunity"}), {thresholds})

test_fairness_not_a_number if {
	every value in not_numbers { denied(with_field("fairnessScoreEqualOpportunity", value), {thresholds}) }
}

test_fairness_on_its_bounds if {
	every value in [0, 0.0, 20.8, 20.9999, 21, 21.0] { allowed(with_field("fairnessScoreEqualOpportunity", value)) }
}

test_fairness_outside_its_bounds if {
	every value in [21.0001, 21.000000000000004, 100, -0.0001, -1, -21] {
		denied(with_field("fairnessScoreEqualOpportunity", value), {thresholds})
	}
}

test_accuracy_and_fairness_give_one_message if {
	denied(object.union(good, {"accuracy": 0.5, "fairnessScoreEqualOpportunity": 50}), {thresholds})
}

# The message is made from the thresholds, and thresholds that are not numbers let nothing through.

test_message_follows_the_thresholds if {
	main.threshold_message == thresholds
	message := "Deny: Accuracy less than 57% or fairness score difference greater than 12.5%"
	main.deny == {message} with input as with_field("accuracy", 0.5)
		with main.minimum_accuracy as 0.57
		with main.maximum_fairness_difference as 12.5
	fraction := "Deny: Accuracy less than 92.75% or fairness score difference greater than 21%"
	main.deny == {fraction} with input as with_field("accuracy", 0.5)
		with main.minimum_accuracy as 0.9275
	rounded := "Deny: Accuracy less than 92.75% or fairness score difference greater than 21%"
	main.deny == {rounded} with input as with_field("accuracy", 0.5)
		with main.minimum_accuracy as 0.927456
}

test_thresholds_must_be_numbers if {
	every value in not_numbers {
		not main.allow with input as good with main.minimum_accuracy as value
		not main.allow with input as good with main.maximum_fairness_difference as value
		reasons := main.deny with input as good with main.minimum_accuracy as value
		"The thresholds are not numbers" in reasons
		others := main.deny with input as good with main.maximum_fairness_difference as value
		"The thresholds are not numbers" in others
	}
}

# Below every figure, so that only the threshold itself speaks.
test_threshold_of_null_is_the_only_reason if {
	main.deny == {"The thresholds are not numbers"} with input as good with main.minimum_accuracy as null
	main.deny == {"The thresholds are not numbers"} with input as good
		with main.maximum_fairness_difference as "21"
	not main.allow with input as good with main.minimum_accuracy as null
	not main.allow with input as good with main.maximum_fairness_difference as "21"
}

# Rows

test_rows_missing if denied(object.remove(good, {"rows"}), {rows})

test_rows_not_a_positive_count if {
	every value in array.concat(not_numbers, [0, -1, -100000, 0.5, 100000.5]) {
		denied(with_field("rows", value), {rows})
	}
}

test_one_row_is_enough_to_be_a_count if allowed(with_field("rows", 1))

# Parity

test_parity_missing if {
	denied(object.remove(good, {"parity"}), {parity})
	every inner, _ in good.parity { denied(without_inner("parity", inner), {parity}) }
}

test_parity_not_an_object if {
	every value in array.concat(not_numbers, [0, 1]) { denied(with_field("parity", value), {parity}) }
}

test_parity_not_numbers if {
	every inner, _ in good.parity {
		every value in not_numbers { denied(with_inner("parity", inner, value), {parity}) }
	}
}

test_parity_over_no_rows if {
	every value in [0, -1, 0.5] { denied(with_inner("parity", "rows", value), {parity}) }
	allowed(with_inner("parity", "rows", 1))
}

test_parity_class_differences if {
	every value in [1, -1, 0.5, 20000] { denied(with_inner("parity", "class_differences", value), {parity}) }
}

test_parity_probability_differences if {
	every value in [1, -1, 1e-300, 20000] { denied(with_inner("parity", "probability_differences", value), {parity}) }
}

# Tests

test_tests_missing if {
	denied(object.remove(good, {"tests"}), {tests})
	every inner, _ in good.tests { denied(without_inner("tests", inner), {tests}) }
}

test_tests_not_an_object if {
	every value in array.concat(not_numbers, [0, 1]) { denied(with_field("tests", value), {tests}) }
}

test_tests_not_numbers if {
	every inner, _ in good.tests {
		every value in not_numbers { denied(with_inner("tests", inner, value), {tests}) }
	}
}

test_tests_none_ran if {
	denied(with_field("tests", {"total": 0, "passed": 0, "failed": 0, "skipped": 0}), {tests})
}

test_tests_all_skipped if {
	denied(with_field("tests", {"total": 12, "passed": 0, "failed": 0, "skipped": 12}), {tests})
}

test_tests_one_passed if {
	allowed(with_field("tests", {"total": 1, "passed": 1, "failed": 0, "skipped": 0}))
}

test_tests_one_failed if {
	denied(with_field("tests", {"total": 12, "passed": 11, "failed": 1, "skipped": 0}), {tests})
	denied(with_field("tests", {"total": 12, "passed": 12, "failed": 1, "skipped": 0}), {tests})
	denied(with_field("tests", {"total": 12, "passed": 12, "failed": -1, "skipped": 0}), {tests})
}

# An error, a crash or a case that was never collected shows in the sum alone.
test_tests_do_not_add_up if {
	denied(with_field("tests", {"total": 13, "passed": 11, "failed": 0, "skipped": 1}), {tests})
	denied(with_field("tests", {"total": 11, "passed": 11, "failed": 0, "skipped": 1}), {tests})
}

test_tests_add_up_with_impossible_counts if {
	denied(with_field("tests", {"total": 12, "passed": 13, "failed": 0, "skipped": -1}), {tests})
	denied(with_field("tests", {"total": 12, "passed": 11.5, "failed": 0, "skipped": 0.5}), {tests})
	denied(with_field("tests", {"total": 11.5, "passed": 11, "failed": 0, "skipped": 0.5}), {tests})
	denied(with_field("tests", {"total": 11.5, "passed": 11.5, "failed": 0, "skipped": 0}), {tests})
	denied(with_field("tests", {"total": -1, "passed": -1, "failed": 0, "skipped": 0}), {tests})
}

# Model

test_model_missing if {
	denied(object.remove(good, {"metrics_model"}), {model})
	denied(object.remove(good, {"image_model"}), {model})
	denied(object.remove(good, {"metrics_model", "image_model"}), {model})
}

test_model_of_another_image if {
	denied(with_field("metrics_model", "sha256:0b"), {model})
	denied(with_field("image_model", "sha256:0b"), {model})
}

# Two values can be the same and still name no model.
test_model_without_a_name if {
	every value in [null, true, 0, 1, "", [], ["sha256:0a"], {}] {
		denied(object.union(good, {"metrics_model": value, "image_model": value}), {model})
		denied(with_field("metrics_model", value), {model})
		denied(with_field("image_model", value), {model})
	}
}
