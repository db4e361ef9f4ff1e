//! Whether a device is in a task's scope.
//!
//! A scope is compiled once, when its task is published, into sets that answer for one device without looking at any other.

use crate::model::{AssetTree, Device, Scope, Selector};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashSet};

#[derive(Clone, Debug)]
pub(crate) enum CompiledScope {
    Total,
    /// Fixed at creation.
    Members(RoaringBitmap),
    Devices(HashSet<Box<str>>),
    Attributes(BTreeMap<Box<str>, Vec<Box<str>>>),
    Tags(BTreeMap<Box<str>, Vec<Box<str>>>),
    Groups(HashSet<Box<str>>),
    AssetTrees(Vec<AssetTree>),
}

impl CompiledScope {
    /// `members`: the devices of a snapshot.
    pub(crate) fn new(scope: &Scope, members: Option<RoaringBitmap>) -> Self {
        match (members, &scope.selector) {
            (Some(members), _) => Self::Members(members),
            (None, Selector::Total) => Self::Total,
            (None, Selector::Devices(devices)) => Self::Devices(devices.iter().cloned().collect()),
            (None, Selector::Attributes(attributes)) => Self::Attributes(attributes.clone()),
            (None, Selector::Tags(tags)) => Self::Tags(tags.clone()),
            (None, Selector::Groups(groups)) => Self::Groups(groups.iter().cloned().collect()),
            (None, Selector::AssetTrees(trees)) => Self::AssetTrees(trees.clone()),
        }
    }

    pub(crate) fn contains(&self, device: &Device) -> bool {
        match self {
            Self::Total => true,
            Self::Members(members) => members.contains(device.number.0),
            Self::Devices(devices) => devices.contains(&device.id),
            Self::Attributes(wanted) => has_all(wanted, &device.details().attributes),
            Self::Tags(wanted) => has_all(wanted, &device.details().tags),
            Self::Groups(groups) => device.details().groups.iter().any(|group| groups.contains(group)),
            Self::AssetTrees(trees) => device.details().asset_nodes.iter().any(|path| trees.iter().any(|tree| holds(tree, path))),
        }
    }
}

/// For each wanted key, one of the wanted values.
fn has_all(wanted: &BTreeMap<Box<str>, Vec<Box<str>>>, present: &BTreeMap<Box<str>, Box<str>>) -> bool {
    wanted.iter().all(|(key, values)| present.get(key).is_some_and(|value| values.contains(value)))
}

/// Naming a node selects it and all below it; naming none selects the tree.
fn holds(tree: &AssetTree, path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some(&tree.tree) && (tree.nodes.is_empty() || parts.any(|part| tree.nodes.iter().any(|node| **node == *part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceDetails, DeviceNumber, ProductNumber, Timestamp};
    use std::sync::Arc;

    fn device(details: DeviceDetails) -> Device {
        Device {
            number: DeviceNumber(7),
            product: ProductNumber(0),
            id: "d7".into(),
            components: Box::default(),
            created_at: Timestamp(0),
            details: Some(Arc::new(details)),
        }
    }

    fn compiled(selector: Selector) -> CompiledScope {
        CompiledScope::new(&Scope { selector, snapshot: false }, None)
    }

    #[test]
    fn tags_need_every_key_and_any_of_its_values() {
        let device = device(DeviceDetails {
            tags: BTreeMap::from([("region".into(), "north".into()), ("ring".into(), "1".into())]),
            ..DeviceDetails::default()
        });
        let wanted = |pairs: &[(&str, &[&str])]| {
            compiled(Selector::Tags(
                pairs.iter().map(|(key, values)| ((*key).into(), values.iter().map(|value| (*value).into()).collect())).collect(),
            ))
        };
        assert!(wanted(&[("region", &["south", "north"])]).contains(&device));
        assert!(wanted(&[("region", &["north"]), ("ring", &["1"])]).contains(&device));
        assert!(!wanted(&[("region", &["north"]), ("ring", &["2"])]).contains(&device));
        assert!(!wanted(&[("absent", &["north"])]).contains(&device));
    }

    #[test]
    fn a_node_selects_itself_and_all_below_and_no_other_tree() {
        let device = device(DeviceDetails { asset_nodes: vec!["site/hall-2/line-4".into()], ..DeviceDetails::default() });
        let tree = |tree: &str, nodes: &[&str]| {
            compiled(Selector::AssetTrees(vec![AssetTree {
                tree: tree.into(),
                nodes: nodes.iter().map(|node| (*node).into()).collect(),
            }]))
        };
        assert!(tree("site", &[]).contains(&device));
        assert!(tree("site", &["hall-2"]).contains(&device));
        assert!(tree("site", &["line-4"]).contains(&device));
        assert!(!tree("site", &["hall-1"]).contains(&device));
        assert!(!tree("hall-2", &[]).contains(&device));
        assert!(!tree("other", &["hall-2"]).contains(&device));
    }
}
