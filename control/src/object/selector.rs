//! Label selectors (meta/v1 LabelSelector), evaluated.

pub use super::labels::Labels;

use serde::{Deserialize, Serialize};

/// All requirements must hold; none at all selects everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Selector(pub Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    pub key: String,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Test {
    In(Vec<String>),
    /// Holds for objects without the label too.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// The same where only some labels are known: what it asks of others holds or not, as `unknown` says.
    pub fn matches_partly(&self, known: &Labels, unknown: bool) -> bool {
        let asks = |requirement: &Requirement| match known.contains_key(&requirement.key) {
            true => requirement.matches(known),
            false => unknown,
        };
        self.0.iter().all(asks)
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|unwanted| unwanted != value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

/// Whether `labels` holds every pair of `wanted` (a service's selector).
pub fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn holds(test: Test, labels: &Labels) -> bool {
        Selector(vec![Requirement { key: "app".into(), test }]).matches(labels)
    }

    #[test]
    fn operators_follow_the_api() {
        let (web, none) = (labels(&[("app", "web")]), labels(&[]));
        let values = || vec!["web".to_string(), "api".to_string()];
        assert!(holds(Test::In(values()), &web) && !holds(Test::In(values()), &none));
        assert!(!holds(Test::NotIn(values()), &web) && holds(Test::NotIn(values()), &none));
        assert!(holds(Test::Exists, &web) && !holds(Test::Exists, &none));
        assert!(!holds(Test::DoesNotExist, &web) && holds(Test::DoesNotExist, &none));
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert!(Selector::default().matches(&labels(&[])));
        assert!(has_all(&labels(&[("a", "b")]), &labels(&[])));
        assert!(!has_all(&labels(&[("a", "b")]), &labels(&[("a", "c")])));
    }
}
