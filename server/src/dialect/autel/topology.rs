//! `update_topo`: the gateway says what it is, and what is attached to it now.
//!
//! It is also how a gateway says that it is there; so what can't be read of one child costs that child alone.

use super::reading::{Malformed, from_value, text_if_any};
use serde::Deserialize;
use serde_json::Value;

pub(crate) const METHOD: &str = "update_topo";

/// The platform has one child to a gateway. More are taken, so that a larger gateway works; not any number, for they are kept.
const CHILDREN_MAX: usize = 16;
/// For the same reason: what is longer is as good as not there.
const TEXT_BYTES_MAX: usize = 128;

/// What the gateway says, for as long as it doesn't say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Of the gateway itself; see [`Child::product_type`].
    pub(crate) product_type: Option<String>,
    pub(crate) thing_version: Option<String>,
    /// Each serial number once. Whoever isn't here is offline.
    pub(crate) children: Vec<Child>,
    /// Children that were left out: without a serial number or with an endless one, named before, or too many.
    pub(crate) children_ignored: usize,
}

/// A device attached to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) sn: String,
    /// `domain-type-sub_type`, such as `0-67-0`: by what the vendors name a product. None where a part that can't be guessed is missing.
    pub(crate) product_type: Option<String>,
    /// The channel it is attached by, such as `A`.
    pub(crate) index: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TopologyRead {
    #[serde(flatten)]
    product: ProductRead,
    #[serde(deserialize_with = "text_if_any")]
    thing_version: Option<String>,
    sub_devices: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ChildRead {
    #[serde(flatten)]
    product: ProductRead,
    #[serde(deserialize_with = "text_if_any")]
    sn: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    index: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProductRead {
    #[serde(deserialize_with = "text_if_any")]
    domain: Option<String>,
    #[serde(rename = "type", deserialize_with = "text_if_any")]
    product_type: Option<String>,
    #[serde(deserialize_with = "text_if_any")]
    sub_type: Option<String>,
}

impl Topology {
    pub(crate) fn read(data: &Value) -> Result<Self, Malformed> {
        let read: TopologyRead = from_value(data)?;
        let listed = read.sub_devices.unwrap_or_default();
        let mut children: Vec<Child> = Vec::with_capacity(listed.len().min(CHILDREN_MAX));
        for value in listed.iter().take(CHILDREN_MAX) {
            if let Some(child) = Child::read(value)
                && children.iter().all(|other| other.sn != child.sn)
            {
                children.push(child);
            }
        }
        Ok(Self {
            product_type: read.product.key(),
            thing_version: short(read.thing_version),
            children_ignored: listed.len() - children.len(),
            children,
        })
    }
}

impl Child {
    fn read(value: &Value) -> Option<Self> {
        let read: ChildRead = from_value(value).ok()?;
        Some(Self { sn: short(read.sn)?, product_type: read.product.key(), index: short(read.index) })
    }
}

impl ProductRead {
    fn key(&self) -> Option<String> {
        // A product without sub-types has sub-type 0. Older documents have no domain either, but that can't be guessed.
        let (domain, product_type) = (self.domain.as_deref()?, self.product_type.as_deref()?);
        short(Some(format!("{domain}-{product_type}-{}", self.sub_type.as_deref().unwrap_or("0"))))
    }
}

fn short(text: Option<String>) -> Option<String> {
    text.filter(|text| text.len() <= TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::*;
    use serde_json::json;

    fn child(sn: &str, product_type: Option<&str>, index: Option<&str>) -> Child {
        Child { sn: sn.into(), product_type: product_type.map(Into::into), index: index.map(Into::into) }
    }

    #[test]
    fn gateway_and_children_are_read_in_numbers_and_texts() {
        let expected = Topology {
            product_type: Some("3-1-0".into()),
            thing_version: Some("1.1.2".into()),
            children: vec![child("drone001", Some("0-67-1"), Some("A"))],
            children_ignored: 0,
        };
        for data in [
            json!({
                "domain": 3, "type": 1, "sub_type": 0, "device_secret": "s", "nonce": "n", "thing_version": "1.1.2",
                "sub_devices": [{ "sn": "drone001", "domain": 0, "type": 67, "sub_type": 1, "index": "A", "nonce": "n" }],
            }),
            json!({
                "domain": "3", "type": "1", "sub_type": null, "thing_version": "1.1.2",
                "sub_devices": [{ "sn": " drone001 ", "domain": "0", "type": "67", "sub_type": "1", "index": "A" }],
            }),
        ] {
            let message =
                json!({ "tid": "t", "bid": "b", "timestamp": 1_234_567_890_123_u64, "method": "update_topo", "data": data });
            let message = Envelope::read(message.to_string().as_bytes()).unwrap();
            assert_eq!(message.method, METHOD);
            assert_eq!(Topology::read(&message.data), Ok(expected.clone()), "{data}");
        }
    }

    #[test]
    fn without_sub_devices_every_child_is_offline() {
        for data in [json!({}), json!({ "sub_devices": null }), json!({ "sub_devices": [], "type": 98 })] {
            let topology = Topology::read(&data).unwrap();
            assert_eq!((topology.children, topology.children_ignored, topology.product_type), (vec![], 0, None), "{data}");
        }
    }

    #[test]
    fn a_child_that_cannot_be_read_costs_itself_alone() {
        let data = json!({ "sub_devices": [
            null, 7, [], {}, { "sn": "" }, { "sn": [] }, { "sn": null },
            { "sn": 17, "type": 60, "index": 0 }, { "sn": "17" }, { "sn": "b", "domain": {}, "type": 1, "index": {} },
        ] });
        let topology = Topology::read(&data).unwrap();
        assert_eq!(topology.children, [child("17", None, Some("0")), child("b", None, None)]);
        assert_eq!(topology.children_ignored, 8);
    }

    #[test]
    fn texts_too_long_to_be_kept_are_as_good_as_absent() {
        let (longest, longer) = ("s".repeat(TEXT_BYTES_MAX), "s".repeat(TEXT_BYTES_MAX + 1));
        let data = json!({ "thing_version": longer, "domain": longest, "type": 1, "sub_devices": [
            { "sn": longest, "index": longer, "domain": 0, "type": longest }, { "sn": longer },
        ] });
        let topology = Topology::read(&data).unwrap();
        let children = vec![child(&longest, None, None)];
        assert_eq!(topology, Topology { product_type: None, thing_version: None, children, children_ignored: 1 });
    }

    #[test]
    fn of_a_hundred_thousand_children_the_first_sixteen_are_read() {
        let listed: Vec<Value> = (0..100_000).map(|number| json!({ "sn": number })).collect();
        let topology = Topology::read(&json!({ "sub_devices": listed })).unwrap();
        assert_eq!(topology.children.len(), CHILDREN_MAX);
        assert_eq!(topology.children_ignored, 100_000 - CHILDREN_MAX);
    }

    #[test]
    fn what_is_no_topology_is_refused_with_what_was_expected() {
        for (data, expected) in [
            (json!(null), "expected an object, got null"),
            (json!([]), "expected an object, got an array"),
            (json!({ "sub_devices": "drone001" }), "got string \"drone001\""),
            (json!({ "sub_devices": { "sn": "drone001" } }), "got map"),
        ] {
            let message = Topology::read(&data).unwrap_err().to_string();
            assert!(message.contains(expected), "{data}: {message}");
        }
    }
}
