use super::{DeviceNumber, ProductNumber, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which processor inside a device: a device upgrades each of its components on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Component {
    /// What kind of processor; 1 is the main one.
    pub component_type: u16,
    /// Which of several of that kind.
    pub identify: u32,
}

impl Component {
    /// The only component of a device that doesn't tell its components apart.
    pub const MAIN: Self = Self { component_type: 1, identify: 0 };
}

/// The version that a component was last known to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub component: Component,
    pub version: Arc<str>,
}

/// A device (row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub number: DeviceNumber,
    pub product: ProductNumber,
    /// The customer's name for it, unique within its product.
    pub id: Box<str>,
    /// Sorted by component; one entry each.
    pub components: Box<[Installed]>,
    pub created_at: Timestamp,
    /// Everything that only some devices have.
    pub details: Option<Arc<DeviceDetails>>,
}

impl Device {
    /// The version that `component` was last known to run.
    pub fn version(&self, component: Component) -> Option<&Arc<str>> {
        self.components.iter().find(|installed| installed.component == component).map(|installed| &installed.version)
    }

    pub fn details(&self) -> &DeviceDetails {
        static NONE: DeviceDetails = DeviceDetails::NONE;
        self.details.as_deref().unwrap_or(&NONE)
    }
}

/// What an operator tells of a device beyond its versions; scopes and searches select by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDetails {
    /// Values are JSON texts (`"\"a\""`, `3`, `true`), compared as texts: whoever takes them in writes each value in one form.
    pub attributes: BTreeMap<Box<str>, Box<str>>,
    pub tags: BTreeMap<Box<str>, Box<str>>,
    pub groups: Vec<Box<str>>,
    /// Paths `tree/node/child` to the device's places in asset trees.
    pub asset_nodes: Vec<Box<str>>,
    pub model: Option<Box<str>>,
    pub manufacturer: Option<Box<str>>,
    pub device_type: Option<Box<str>>,
    /// The serial number of the gateway it hangs behind.
    pub gateway: Option<Box<str>>,
    /// What it signs its logins with, encrypted by the front end with a key that lies outside the tables.
    pub secret_encrypted: Option<Vec<u8>>,
}

impl DeviceDetails {
    /// How many bytes of text it holds, with what each entry costs beside.
    pub(crate) fn text_bytes(&self) -> usize {
        const ENTRY: usize = 8;
        let map =
            |map: &BTreeMap<Box<str>, Box<str>>| map.iter().map(|(key, value)| key.len() + value.len() + ENTRY).sum::<usize>();
        let texts = |texts: &[Box<str>]| texts.iter().map(|text| text.len() + ENTRY).sum::<usize>();
        map(&self.attributes) + map(&self.tags) + texts(&self.groups) + texts(&self.asset_nodes)
    }

    const NONE: Self = Self {
        attributes: BTreeMap::new(),
        tags: BTreeMap::new(),
        groups: Vec::new(),
        asset_nodes: Vec::new(),
        model: None,
        manufacturer: None,
        device_type: None,
        gateway: None,
        secret_encrypted: None,
    };
}
