//! Where a field stands in a text.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// Line and column, counted from 1.
pub type Place = (u64, u64);

/// The place of a field (`spec.ports[0].port`) in a YAML or JSON document, or of the innermost part of its path that is
/// there.
pub fn locate(text: &str, field: &str) -> Option<Place> {
    let mut path: Vec<&str> = field.split(['.', '[', ']']).filter(|part| !part.is_empty()).collect();
    loop {
        let found = serde_saphyr::with_deserializer_from_str(text, |d| Descend(&path).deserialize(d));
        if let Ok(Some(place)) = found {
            return Some(place);
        }
        path.pop()?;
    }
}

/// Goes down a path of keys and indexes. Keys with dots (labels) end the descent at their mapping.
struct Descend<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Descend<'_> {
    type Value = Option<Place>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Place>, D::Error> {
        if self.0.is_empty() {
            let spanned = Spanned::<IgnoredAny>::deserialize(deserializer)?;
            return Ok(Some((spanned.referenced.line(), spanned.referenced.column())));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descend<'_> {
    type Value = Option<Place>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a sequence")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Place>, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0[0] && found.is_none() {
                found = map.next_value_seed(Descend(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<Place>, A::Error> {
        let wanted: usize = self.0[0].parse().unwrap_or(usize::MAX);
        let mut found = None;
        for i in 0.. {
            let more = if i == wanted {
                seq.next_element_seed(Descend(&self.0[1..]))?.map(|place| found = place).is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_or_what_is_there_of_its_path_is_found() {
        let text = "a: 1\nspec:\n  ports:\n  - port: 1\n  - name: x\n    port: 2\n";
        assert_eq!(locate(text, "spec.ports[1].port"), Some((6, 11)));
        assert_eq!(locate(text, "spec.ports[1].protocol"), Some((5, 5)));
        assert_eq!(locate(text, "status"), Some((1, 1)));
        assert_eq!(locate("{\"a\": {\n \"b\": 3}}", "a.b"), Some((2, 7)));
        assert_eq!(locate("a: [", "a"), None);
    }
}
