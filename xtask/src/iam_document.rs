//! Policy documents of AWS, compared by what they mean: the order of lists and statements, and whether a single value stands in a
//! list, make no difference.

use std::collections::BTreeMap;

use serde_json::Value;

/// In what `found` differs from `wanted`, a line each.
pub fn differences(found: &Value, wanted: &Value) -> Vec<String> {
    let (found, wanted) = (parts(found), parts(wanted));
    let names: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let title = if name.is_empty() { String::new() } else { format!("{name}: ") };
        match (found.get(name), wanted.get(name)) {
            (Some(_), None) => lines.push(format!("{name} should not be there")),
            (None, Some(_)) => lines.push(format!("{name} is missing")),
            (Some(found), Some(wanted)) => {
                let keys: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
                for key in keys {
                    let text = |values: &BTreeMap<String, String>| {
                        values.get(key).map_or("missing", String::as_str).to_string()
                    };
                    if found.get(key) != wanted.get(key) {
                        lines.push(format!("{title}{key} is {}, should be {}", text(found), text(wanted)));
                    }
                }
            }
            (None, None) => {}
        }
    }
    lines
}

/// The statements by their name, each as its members by path; what stands outside of statements has the name "".
fn parts(document: &Value) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut parts = BTreeMap::from([(String::new(), BTreeMap::new())]);
    for (key, value) in document.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
                for (number, item) in items.iter().enumerate() {
                    let id = item["Sid"].as_str().map_or_else(|| (number + 1).to_string(), String::from);
                    let mut members = BTreeMap::new();
                    flatten("", item, &mut members);
                    parts.insert(format!("{} {id}", key.to_lowercase()), members);
                }
            }
            value => flatten(key, value, parts.entry(String::new()).or_default()),
        }
    }
    parts
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, member, into);
            }
        }
        Value::Array(items) => {
            let mut texts: Vec<_> = items.iter().map(text).collect();
            texts.sort();
            into.insert(path.to_string(), texts.join(", "));
        }
        value => {
            into.insert(path.to_string(), text(value));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_and_lists_of_one_make_no_difference() {
        let one = json!({"Version": "2012-10-17", "Statement": [
            {"Sid": "A", "Effect": "Allow", "Action": ["x:B", "x:A"], "Resource": "*"},
            {"Sid": "B", "Effect": "Allow", "Action": "x:C", "Resource": ["*"], "Condition": {"Bool": {"k": true}}}]});
        let other = json!({"Statement": [
            {"Sid": "B", "Effect": "Allow", "Action": ["x:C"], "Resource": "*", "Condition": {"Bool": {"k": "true"}}},
            {"Sid": "A", "Effect": "Allow", "Action": ["x:A", "x:B"], "Resource": "*"}], "Version": "2012-10-17"});
        assert_eq!(differences(&one, &other), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_named() {
        let wanted = json!({"Version": "2012-10-17", "Statement": [
            {"Sid": "A", "Effect": "Allow", "Condition": {"StringEquals": {"sub": "repo:a/b:environment:preprod"}}}]});
        let mut found = wanted.clone();
        found["Statement"][0]["Condition"] = json!({"StringLike": {"sub": "repo:a/*"}});
        let lines = differences(&found, &wanted);
        assert_eq!(
            lines,
            [
                "statement A: Condition.StringEquals.sub is missing, should be repo:a/b:environment:preprod",
                "statement A: Condition.StringLike.sub is repo:a/*, should be missing",
            ]
        );
        let none = json!({"Version": "2008-10-17", "Statement": [{"Sid": "Z", "Effect": "Allow"}]});
        assert_eq!(
            differences(&none, &wanted),
            [
                "Version is 2008-10-17, should be 2012-10-17",
                "statement A is missing",
                "statement Z should not be there"
            ]
        );
        assert_eq!(
            differences(&json!(null), &wanted),
            ["Version is missing, should be 2012-10-17", "statement A is missing"]
        );
    }
}
