//! Another reader of JSON objects than the function's: nothing is taken for granted, doubled names least of all.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Names and values as they stand there.
pub struct Object(pub Vec<(String, Box<RawValue>)>);

/// A name that an object has twice, or a value that is not what it should be.
pub struct Wrong;

impl Object {
    pub fn read(text: &str) -> Result<Object, Wrong> {
        serde_json::from_str(text).map_err(|_| Wrong)
    }

    /// The JSON text of a field, if there is one. The others only have to be JSON: a number too large for any float is that too.
    pub fn field(&self, name: &str) -> Result<Option<&str>, Wrong> {
        let mut found = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.get());
        match (found.next(), found.next()) {
            (field, None) => Ok(field),
            (_, Some(_)) => Err(Wrong),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
