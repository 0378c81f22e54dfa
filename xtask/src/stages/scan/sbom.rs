//! The bill of materials of the program that ships, in the form of CycloneDX 1.6.
//!
//! It has neither a date nor a serial number: the same program has the same bill.

use serde_json::{Value, json};

use crate::dependencies::LinkedCrate;

/// The bill of a program with this digest, made of these crates; `name` is the crate that is the program.
pub fn bill(name: &str, program: &str, linked: &[LinkedCrate]) -> Value {
    let version = linked.iter().find(|found| found.name == name).map_or("", |found| found.version.as_str());
    let hash = program.trim_start_matches("sha256:");
    let components: Vec<Value> = linked.iter().filter(|found| found.name != name).map(component).collect();
    let dependencies: Vec<Value> = linked
        .iter()
        .map(|found| {
            let on = found.dependencies.iter().filter_map(|index| linked.get(*index)).map(reference);
            json!({"ref": reference(found), "dependsOn": on.collect::<Vec<_>>()})
        })
        .collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": format!("{name}@{version}"),
                "name": name,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": hash}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

/// A crate's name within the bill.
fn reference(linked: &LinkedCrate) -> String {
    format!("{}@{}", linked.name, linked.version)
}

fn component(linked: &LinkedCrate) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(linked),
        "name": linked.name,
        "version": linked.version,
        // Its code is in the program, or only took part in building it.
        "scope": if linked.runtime { "required" } else { "excluded" },
    });
    if linked.from_crates_io {
        component["purl"] = json!(format!("pkg:cargo/{}@{}", linked.name, linked.version.replace('+', "%2B")));
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_subject_and_the_crates_are_its_parts() {
        let linked = |name: &str, runtime: bool, dependencies: &[usize]| LinkedCrate {
            name: name.into(),
            version: "1.0.0+x".into(),
            runtime,
            from_crates_io: name != "predictor",
            dependencies: dependencies.to_vec(),
        };
        let all = [linked("cc", false, &[]), linked("predictor", true, &[0, 2]), linked("serde", true, &[])];
        let bill = bill("predictor", "sha256:0a", &all);
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], "0a");
        assert_eq!(bill["components"].as_array().unwrap().len(), 2);
        assert_eq!(bill["components"][0]["scope"], "excluded");
        assert_eq!(bill["components"][1]["purl"], "pkg:cargo/serde@1.0.0%2Bx");
        assert_eq!(
            bill["dependencies"][1],
            json!({"ref": "predictor@1.0.0+x", "dependsOn": ["cc@1.0.0+x", "serde@1.0.0+x"]})
        );
    }
}
