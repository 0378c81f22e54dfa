# METADATA
# title: Model policy
# description: |
#   A model ships only on proof. Every figure must be there, be a number and lie inside its range:
#   a comparison alone would let a missing value, a string or a negative one through, because strings
#   sort above numbers and an undefined comparison denies nothing.
package main

# The only place that holds the thresholds; the message below is made from them.
# A stricter policy set replaces them, see strict.rego.
minimum_accuracy := 0.9

maximum_fairness_difference := 21

default allow := false

allow if {
	thresholds_proven
	accuracy_proven
	fairness_proven
	rows_proven
	parity_proven
	tests_proven
	model_proven
}

# Binary fractions: 0.57 * 100 is not 57, so the text shows two decimals at most.
threshold_message := message if {
	thresholds_proven
	percent := round(minimum_accuracy * 10000) / 100
	message := sprintf(
		"Deny: Accuracy less than %v%% or fairness score difference greater than %v%%",
		[percent, maximum_fairness_difference],
	)
}

# METADATA
# title: Thresholds are numbers
# custom:
#   id: model.thresholds
deny contains "The thresholds are not numbers" if not thresholds_proven

# METADATA
# title: Accuracy reaches its threshold
# description: The share of right predictions on the test split, a number from the threshold to 1.
# custom:
#   id: model.accuracy
deny contains threshold_message if not accuracy_proven

# METADATA
# title: Fairness difference stays below its threshold
# description: The equal opportunity difference in percentage points, a number from 0 to the threshold.
# custom:
#   id: model.fairness
deny contains threshold_message if not fairness_proven

# METADATA
# title: Metrics say how many rows they rest on
# custom:
#   id: model.rows
deny contains "The metrics do not say how many rows they were measured on" if not rows_proven

# METADATA
# title: Python and Rust give the same answers
# custom:
#   id: model.parity
deny contains "Python and the deployed program were not shown to give the same answers" if not parity_proven

# METADATA
# title: The notebook's tests all ran and passed
# custom:
#   id: model.tests
deny contains "The tests of the notebook did not all run and pass" if not tests_proven

# METADATA
# title: Metrics are those of the model in the image
# custom:
#   id: model.identity
deny contains "The metrics belong to another model than the image" if not model_proven

# A threshold that is a string would be above every figure.
thresholds_proven if {
	is_number(minimum_accuracy)
	is_number(maximum_fairness_difference)
}

# Between two numbers there are only numbers: null and booleans sort below them, texts and all else above.
accuracy_proven if {
	input.accuracy >= minimum_accuracy
	input.accuracy <= 1
}

# A difference in percentage points: unsigned, so a negative one was not measured as it should be.
fairness_proven if {
	input.fairnessScoreEqualOpportunity >= 0
	input.fairnessScoreEqualOpportunity <= maximum_fairness_difference
}

rows_proven if {
	is_count(input.rows)
	input.rows > 0
}

# No difference over no rows proves nothing.
parity_proven if {
	is_count(input.parity.rows)
	input.parity.rows > 0
	input.parity.class_differences == 0
	input.parity.probability_differences == 0
}

# The sum finds a case that is neither passed nor skipped, an error for instance, and a total that is
# no count.
tests_proven if {
	is_count(input.tests.passed)
	is_count(input.tests.skipped)
	input.tests.failed == 0
	input.tests.passed > 0
	input.tests.passed + input.tests.skipped == input.tests.total
}

model_proven if {
	is_string(input.metrics_model)
	input.metrics_model != ""
	input.metrics_model == input.image_model
}

is_count(x) if {
	is_number(x)
	x >= 0
	x == floor(x)
}
