//! `upgradeScope` of a job: which devices, of those at one of the versions.
//!
//! A slip here must never make a rollout wider than it was meant: a field that isn't known is refused rather than ignored, so is a selector
//! beside `total`, a second selector, and one that names nothing.

use super::status::Failure;
use crate::dialect::common::lenient::{self, Object};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sluicegate::model::{AssetTree, Selector, TaskKind};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ScopeWritten {
    #[serde(rename = "type", deserialize_with = "lenient::optional_text")]
    scope_type: Option<String>,
    version_numbers: Option<Vec<Text>>,
    device_keys: Option<Vec<Text>>,
    attributes: Option<BTreeMap<Box<str>, OneOrMany<Value>>>,
    tags: Option<BTreeMap<Box<str>, OneOrMany<Text>>>,
    asset_trees: Option<OneOrMany<Object<TreeWritten>>>,
}

/// An integer counts as its own text.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text(#[serde(deserialize_with = "lenient::text")] pub(super) String);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct TreeWritten {
    #[serde(deserialize_with = "lenient::optional_text")]
    tree_id: Option<String>,
    included_nodes: Option<Vec<Text>>,
    /// As the platform's own samples spell it.
    included_notes: Option<Vec<Text>>,
}

/// Which devices a job is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScopeWanted {
    /// No entry twice.
    pub(super) from_versions: Vec<String>,
    pub(super) selector: Selector,
}

impl ScopeWritten {
    pub(super) fn read(self, kind: TaskKind) -> Result<ScopeWanted, Failure> {
        let is_total = match self.scope_type.as_deref().map(str::trim) {
            Some("total") => true,
            Some("partial") => false,
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return Err(Failure::invalid(format!("upgradeScope.type must be total or partial, got {other:?}")));
            }
            None => return Err(Failure::invalid("upgradeScope.type is required; give total or partial")),
        };
        if is_total && kind == TaskKind::Verify {
            return Err(Failure::total_not_allowed());
        }
        let from_versions = self.versions()?;
        let given = self.selectors_given();
        if is_total {
            return match given.as_slice() {
                [] => Ok(ScopeWanted { from_versions, selector: Selector::Total }),
                given => Err(Failure::invalid(format!(
                    "upgradeScope.type is total, which is every device, but {} is given too; give partial, or leave it out",
                    given.join(" and ")
                ))),
            };
        }
        let [only] = given.as_slice() else {
            let got = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
            return Err(Failure::invalid(format!(
                "upgradeScope.type is partial, so exactly one of deviceKeys, attributes, tags and assetTrees must say which, got {got}"
            )));
        };
        if kind == TaskKind::Verify && *only != "deviceKeys" {
            return Err(Failure::invalid(format!("a verification names its devices by upgradeScope.deviceKeys alone, got {only}")));
        }
        Ok(ScopeWanted { from_versions, selector: self.selector()? })
    }

    fn versions(&self) -> Result<Vec<String>, Failure> {
        let versions = self.version_numbers.iter().flatten().map(|version| version.0.as_str());
        let versions: Vec<String> = without_repeats(versions).into_iter().map(str::to_owned).collect();
        if versions.is_empty() {
            return Err(Failure::invalid("upgradeScope.versionNumbers is required; name the versions to upgrade from"));
        }
        Ok(versions)
    }

    fn selectors_given(&self) -> Vec<&'static str> {
        [
            ("deviceKeys", self.device_keys.is_some()),
            ("attributes", self.attributes.is_some()),
            ("tags", self.tags.is_some()),
            ("assetTrees", self.asset_trees.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_given)| is_given.then_some(name))
        .collect()
    }

    /// The one selector that is given.
    fn selector(self) -> Result<Selector, Failure> {
        if let Some(keys) = self.device_keys {
            refuse_empty("deviceKeys", keys.is_empty())?;
            let keys = without_repeats(keys.iter().map(|key| key.0.as_str()));
            return Ok(Selector::Devices(keys.into_iter().map(Into::into).collect()));
        }
        if let Some(attributes) = self.attributes {
            refuse_empty("attributes", attributes.is_empty() || attributes.values().any(|values| values.0.is_empty()))?;
            // One text for each value: keys of an object come out sorted.
            let texts = |values: OneOrMany<Value>| values.0.iter().map(|value| value.to_string().into()).collect();
            return Ok(Selector::Attributes(attributes.into_iter().map(|(key, values)| (key, texts(values))).collect()));
        }
        if let Some(tags) = self.tags {
            refuse_empty("tags", tags.is_empty() || tags.values().any(|values| values.0.is_empty()))?;
            let texts = |values: OneOrMany<Text>| values.0.into_iter().map(|value| value.0.into()).collect();
            return Ok(Selector::Tags(tags.into_iter().map(|(key, values)| (key, texts(values))).collect()));
        }
        let trees = self.asset_trees.map(|trees| trees.0).unwrap_or_default();
        refuse_empty("assetTrees", trees.is_empty())?;
        if trees.len() > ASSET_TREES_MAX {
            let count = trees.len();
            return Err(Failure::invalid(format!("upgradeScope.assetTrees names {count} trees; {ASSET_TREES_MAX} are allowed")));
        }
        Ok(Selector::AssetTrees(trees.into_iter().map(|tree| tree.0.read()).collect::<Result<_, _>>()?))
    }
}

/// The platform's bound.
const ASSET_TREES_MAX: usize = 5;

impl TreeWritten {
    fn read(self) -> Result<AssetTree, Failure> {
        let tree = self.tree_id.filter(|id| !id.trim().is_empty());
        let tree = tree.ok_or_else(|| Failure::invalid("upgradeScope.assetTrees: treeId is required; name the tree"))?;
        let nodes = match (self.included_nodes, self.included_notes) {
            (Some(_), Some(_)) => {
                let message = "upgradeScope.assetTrees: includedNodes and includedNotes are the same; give one of them";
                return Err(Failure::invalid(message));
            }
            (nodes, notes) => nodes.or(notes),
        };
        if nodes.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::invalid(
                "upgradeScope.assetTrees: includedNodes is empty; name nodes, or leave it out for the whole tree",
            ));
        }
        let nodes = nodes.unwrap_or_default().into_iter().map(|node| node.0.into()).collect();
        Ok(AssetTree { tree: tree.into(), nodes })
    }
}

fn refuse_empty(selector: &str, is_empty: bool) -> Result<(), Failure> {
    if is_empty {
        return Err(Failure::invalid(format!("upgradeScope.{selector} names nothing; name what the job is for")));
    }
    Ok(())
}

pub(super) fn without_repeats<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    texts.filter(|text| seen.insert(*text)).collect()
}

/// Several values, or one without the brackets around it. Reads what is in there as it would read it alone, so that a fault is told with
/// its place.
#[derive(Debug)]
struct OneOrMany<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);

        impl<T> Values<T> {
            fn one<'de, E: Error>(value: impl IntoDeserializer<'de, E>) -> Result<OneOrMany<T>, E>
            where
                T: Deserialize<'de>,
            {
                T::deserialize(value.into_deserializer()).map(|value| OneOrMany(vec![value]))
            }
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value or an array of values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = entries.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries)).map(|value| OneOrMany(vec![value]))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Self::one(text)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Self::one(number)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Self::one(number)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Self::one(number)
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
                Self::one(flag)
            }
        }

        deserializer.deserialize_any(Values(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::common::decode::from_json;
    use serde_json::json;

    fn read_as(kind: TaskKind, scope: &Value) -> Result<ScopeWanted, (u32, String)> {
        let written: ScopeWritten = from_json(scope.to_string().as_bytes()).map_err(|message| (24_400, message))?;
        written.read(kind).map_err(|failure| (failure.code as u32, failure.message))
    }

    fn read(scope: &Value) -> Result<Selector, (u32, String)> {
        read_as(TaskKind::Upgrade, scope).map(|wanted| wanted.selector)
    }

    fn boxed(texts: &[&str]) -> Vec<Box<str>> {
        texts.iter().map(|text| (*text).into()).collect()
    }

    #[test]
    fn each_selector_is_read() {
        let tree = |tree: &str, nodes: &[&str]| AssetTree { tree: tree.into(), nodes: boxed(nodes) };
        for (scope, selector) in [
            (json!({ "type": "total", "versionNumbers": ["1.0"] }), Selector::Total),
            (json!({ "type": "total", "versionNumbers": ["1.0"], "deviceKeys": null, "tags": null }), Selector::Total),
            (
                json!({ "type": "partial", "versionNumbers": ["1.0"], "deviceKeys": ["a", "b", "a", 7] }),
                Selector::Devices(boxed(&["a", "b", "7"])),
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1.0"], "attributes": { "site": ["north", 3], "on": true } }),
                Selector::Attributes([("on".into(), boxed(&["true"])), ("site".into(), boxed(&["\"north\"", "3"]))].into()),
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1.0"], "tags": { "ring": ["1", 2], "region": "north" } }),
                Selector::Tags([("region".into(), boxed(&["north"])), ("ring".into(), boxed(&["1", "2"]))].into()),
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1.0"], "assetTrees": { "treeId": "t" } }),
                Selector::AssetTrees(vec![tree("t", &[])]),
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1.0"], "assetTrees": [
                    { "treeId": "t", "includedNodes": ["n", "m"] }, { "treeId": "u", "includedNotes": ["o"] },
                ] }),
                Selector::AssetTrees(vec![tree("t", &["n", "m"]), tree("u", &["o"])]),
            ),
        ] {
            assert_eq!(read(&scope), Ok(selector), "{scope}");
        }
    }

    #[test]
    fn a_slip_is_refused_rather_than_widening_the_job() {
        for (scope, message) in [
            (json!({ "type": "partial", "versionNumbers": ["1"], "devicekeys": ["a"] }), "unknown field `devicekeys`"),
            (json!({ "type": "total", "versionNumbers": ["1"], "deviceKey": ["a"] }), "unknown field `deviceKey`"),
            (
                json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": [{ "treeId": "t", "includeNodes": ["n"] }] }),
                "unknown field `includeNodes`",
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": [{ "treeId": "t", "includedNodes": [] }] }),
                "includedNodes is empty",
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1"],
                    "assetTrees": { "treeId": "t", "includedNodes": ["n"], "includedNotes": ["n"] } }),
                "give one of them",
            ),
            (
                json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": [{ "includedNodes": ["n"] }] }),
                "treeId is required",
            ),
            (
                json!({ "type": "total", "versionNumbers": ["1"], "deviceKeys": ["a"] }),
                "total, which is every device, but deviceKeys",
            ),
            (json!({ "type": "total", "versionNumbers": ["1"], "tags": {} }), "total, which is every device, but tags"),
            (json!({ "type": "partial", "versionNumbers": ["1"] }), "exactly one of deviceKeys, attributes, tags and assetTrees"),
            (
                json!({ "type": "partial", "versionNumbers": ["1"], "tags": { "a": "b" }, "deviceKeys": ["a"] }),
                "got deviceKeys and tags",
            ),
            (json!({ "type": "partial", "versionNumbers": ["1"], "deviceKeys": [] }), "deviceKeys names nothing"),
            (json!({ "type": "partial", "versionNumbers": ["1"], "attributes": {} }), "attributes names nothing"),
            (json!({ "type": "partial", "versionNumbers": ["1"], "tags": { "a": [] } }), "tags names nothing"),
            (json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": [] }), "assetTrees names nothing"),
            (
                json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": vec![json!({ "treeId": "t" }); 6] }),
                "names 6 trees; 5 are allowed",
            ),
            (json!({ "type": "partial", "versionNumbers": ["1"], "assetTrees": [["t", ["n"]]] }), "expected an object"),
            (json!({ "type": "some", "versionNumbers": ["1"] }), "must be total or partial, got \"some\""),
            (json!({ "versionNumbers": ["1"] }), "upgradeScope.type is required"),
            (json!({ "type": "total" }), "versionNumbers is required"),
            (json!({ "type": "total", "versionNumbers": [] }), "versionNumbers is required"),
            (json!({ "type": "total", "versionNumbers": "1.0" }), "versionNumbers"),
            (json!({ "type": "partial", "versionNumbers": ["1"], "deviceKeys": "a" }), "deviceKeys"),
            (json!({ "type": "partial", "versionNumbers": ["1"], "deviceKeys": [null] }), "deviceKeys"),
            (json!({ "type": "total", "versionNumbers": ["1", 1.1] }), "versionNumbers[1]: expected a text, got a number"),
            (json!({ "type": "partial", "versionNumbers": [1], "deviceKeys": [true] }), "got true; put it in quotes"),
            (json!({ "type": "partial", "versionNumbers": [1], "tags": { "a": 1.5 } }), "put it in quotes"),
            (json!({ "type": "partial", "versionNumbers": [1], "tags": { "a": ["b", false] } }), "put it in quotes"),
            (json!({ "type": "partial", "versionNumbers": [1], "assetTrees": { "treeId": 1.5 } }), "put it in quotes"),
            (
                json!({ "type": "partial", "versionNumbers": [1], "assetTrees": { "treeId": "t", "includedNodes": [1e30] } }),
                "put it in quotes",
            ),
        ] {
            let (code, got) = read(&scope).unwrap_err();
            assert!(code == 24_400 && got.contains(message), "{scope}: {code} {got}");
        }
    }

    #[test]
    fn a_verification_names_its_devices_by_their_keys() {
        let total = json!({ "type": "total", "versionNumbers": ["1"] });
        assert_eq!(read_as(TaskKind::Verify, &total).unwrap_err().0, 24_611);
        for selector in
            [json!({ "tags": { "a": "b" } }), json!({ "attributes": { "a": 1 } }), json!({ "assetTrees": { "treeId": "t" } })]
        {
            let mut scope = json!({ "type": "partial", "versionNumbers": ["1"] });
            scope.as_object_mut().unwrap().extend(selector.as_object().unwrap().clone());
            let (code, message) = read_as(TaskKind::Verify, &scope).unwrap_err();
            assert!(code == 24_400 && message.contains("deviceKeys alone"), "{scope}: {message}");
        }
        let keys = json!({ "type": "partial", "versionNumbers": ["1", "1", 2], "deviceKeys": ["a"] });
        assert_eq!(read_as(TaskKind::Verify, &keys).unwrap().from_versions, ["1", "2"]);
    }
}
