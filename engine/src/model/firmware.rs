use super::{Component, FirmwareId, FirmwareNumber, ImageId, ProductNumber, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a device fetches: one of our images, or a file that lies elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Ours, when we serve it; offers then carry a signed link instead of `url`.
    pub image: Option<ImageId>,
    /// As the operator gave it. Passed on verbatim where `image` is absent.
    pub url: Option<Arc<str>>,
    pub size: u64,
    /// Lower-case hexadecimal where it is ours, else as the operator gave it.
    pub md5: Arc<str>,
    pub sha256: Option<Arc<str>>,
}

/// That an organization holds an image (row). The bytes are kept once, however many hold them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub organization: Arc<str>,
    pub id: ImageId,
    pub size: u64,
    pub md5: [u8; 16],
    pub sha1: [u8; 20],
    /// The file's name as uploaded, where the uploader told it.
    pub name: Option<Arc<str>>,
    pub created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileType {
    #[default]
    SoftwarePackage,
    FirmwarePackage,
}

/// A version of a component of a product, with what to fetch (row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    pub number: FirmwareNumber,
    pub id: FirmwareId,
    pub product: ProductNumber,
    pub component: Component,
    pub version: Arc<str>,
    pub artifact: Artifact,
    pub name: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub model: Option<Arc<str>>,
    pub manufacturer: Option<Arc<str>>,
    pub device_type: Option<Arc<str>>,
    pub file_type: FileType,
    pub created_at: Timestamp,
    /// Kept for the dialect that wrote it; means nothing to the engine.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// What has to be shown before an upgrade task may lead to it; absent: nothing.
    pub verification: Option<Verification>,
    /// When enough devices had succeeded.
    pub verified_at: Option<Timestamp>,
}

/// Firmware that has to prove itself on a few devices first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// How many devices one verify task may name.
    pub devices_max: u32,
    /// How many devices have to succeed, over all verify tasks of the firmware.
    pub successes_min: u32,
}

impl Firmware {
    /// An upgrade task may lead to it.
    pub fn is_released(&self) -> bool {
        self.verification.is_none() || self.verified_at.is_some()
    }
}
