// SPDX-License-Identifier: Apache-2.0
//! Whether two runs, or sets of them, were done under the same conditions: what is not alike, value
//! by value, by the names that files have for them.

use std::collections::BTreeMap;

use results::json;
use serde::Serialize;

/// So many differences are told one by one.
const TOLD: usize = 8;

/// A value that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name, from the outside in: `job.load.duration_ns`.
    pub key: String,
    /// On the one side, as JSON; `absent` where it is not there.
    pub one: String,
    /// On the other.
    pub other: String,
}

/// What differs between two values of the same type, but for what is below one of the `ignored` names.
///
/// # Errors
/// One of the values cannot be written as JSON.
pub fn differences(
    one: &impl Serialize,
    other: &impl Serialize,
    ignored: &[&str],
) -> serde_json::Result<Vec<Difference>> {
    let (one, other) = (json::leaves(one)?, json::leaves(other)?);
    let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
    let mut found: Vec<_> = keys
        .filter(|key| !ignored.iter().any(|name| is_below(name, key)))
        .map(|key| Difference { key: key.clone(), one: of(&one, key), other: of(&other, key) })
        .filter(|difference| difference.one != difference.other)
        .collect();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Differences for a reader: `job.load.duration_ns (30 and 10), …`.
pub fn list(differences: &[Difference]) -> String {
    let mut words: Vec<_> = differences
        .iter()
        .take(TOLD)
        .map(|Difference { key, one, other }| format!("{key} ({one} and {other})"))
        .collect();
    let more = differences.len().saturating_sub(TOLD);
    words.extend((more > 0).then(|| format!("{more} more")));
    words.join(", ")
}

fn is_below(name: &str, key: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn of(values: &BTreeMap<String, String>, key: &str) -> String {
    values.get(key).cloned().unwrap_or_else(|| "absent".to_owned())
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// Each of these names is a value of this, or has some below it: one that is none ignores nothing.
    pub fn assert_names(value: &impl Serialize, names: &[&str]) {
        let leaves = json::leaves(value).expect("JSON");
        for name in names {
            assert!(leaves.keys().any(|key| is_below(name, key)), "{name} in {leaves:#?}");
        }
    }

    #[test]
    fn values_are_told_by_their_names() {
        let one = json!({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": "x"}], "f": null});
        let other = json!({"a": {"b": 2, "c": [1, 3]}, "d": [{"e": "x"}, {"e": "y"}], "f": null});
        let found = differences(&one, &other, &[]).expect("JSON");
        assert_eq!(list(&found), "a.b (1 and 2), a.c ([1,2] and [1,3]), d[1].e (absent and \"y\")");
        let found = differences(&one, &other, &["a", "d[1]"]).expect("JSON");
        assert!(found.is_empty(), "{found:?}");
        // A name is not the beginning of another.
        let found = differences(&json!({"ab": 1}), &json!({"ab": 2}), &["a"]).expect("JSON");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn of_many_only_some_are_told() {
        let many = |value: u32| -> BTreeMap<String, u32> {
            (0..20).map(|key| (format!("key{key:02}"), value)).collect()
        };
        let found = differences(&many(1), &many(2), &[]).expect("JSON");
        let text = list(&found);
        assert!(text.starts_with("key00 (1 and 2), ") && text.ends_with(", 12 more"), "{text}");
    }
}
