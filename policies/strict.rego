# METADATA
# title: Strict model policy
# description: |
#   The model policy with tighter thresholds and nothing else changed: a set of its own, to be judged
#   together with model.rego, for an early warning before the model policy itself denies.
package strict

import data.main

default allow := false

allow if {
	main.allow with main.minimum_accuracy as 0.95
		with main.maximum_fairness_difference as 19
}

# METADATA
# title: The model policy holds with tighter thresholds
# custom:
#   id: strict.model
deny contains message if {
	some message in main.deny with main.minimum_accuracy as 0.95
		with main.maximum_fairness_difference as 19
}
