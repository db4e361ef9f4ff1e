//! What of an upgrade task depends on what is there: its package, its devices, and whether the two fit.
//!
//! A package belongs to a product, and so do devices: that is the first thing that has to fit. Within the product type, model and
//! manufacturer have to, as far as both sides say: what a package or a device leaves unsaid, its product says for it.

use super::access::Call;
use super::decode::{Make, Targets, TaskWanted};
use super::status::{Code, Failure};
use sluicegate::model::{Device, DeviceDetails, DeviceNumber, FileType, Firmware, FirmwareId, Product, Selector};
use sluicegate::{DeviceRef, DeviceSet, State};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the task is made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) firmware: Arc<Firmware>,
    pub(super) product: Arc<Product>,
    pub(super) selector: Selector,
    /// What the devices run now.
    pub(super) from_versions: Vec<String>,
}

/// Everything as of one moment: what isn't here is told before what doesn't fit.
pub(super) fn plan(state: &State, call: &Call<'_>, wanted: &TaskWanted, file_type: FileType) -> Result<Plan, Failure> {
    let (firmware, product) = package(state, call, &wanted.file_id)
        .filter(|(firmware, _)| firmware.file_type == file_type)
        .ok_or_else(|| unknown_package(&wanted.file_id))?;
    let found = Finder { state, call, firmware: &firmware, product: &product };
    let (devices, selector) = match &wanted.targets {
        Targets::Devices(ids) => (found.named(ids)?, Selector::Devices(ids.iter().map(|id| id.as_str().into()).collect())),
        Targets::Groups { groups, make } => found.grouped(groups, make)?,
    };
    let from_versions = found.start_versions(&devices)?;
    Ok(Plan { firmware, product, selector, from_versions })
}

/// The package of this id, if the caller may see it.
pub(super) fn package(state: &State, call: &Call<'_>, file_id: &str) -> Option<(Arc<Firmware>, Arc<Product>)> {
    let id: FirmwareId = file_id.trim().parse().ok()?;
    let firmware = state.firmware(&call.organization, id)?;
    let product = Arc::clone(state.product_by_number(firmware.product)?);
    call.opens(&product.id).then_some((firmware, product))
}

pub(super) fn unknown_package(file_id: &str) -> Failure {
    let id: String = file_id.chars().take(40).collect();
    Failure::not_found(format!("there is no package {id:?} of this kind here; list the packages of the category"))
}

struct Finder<'a> {
    state: &'a State,
    call: &'a Call<'a>,
    firmware: &'a Firmware,
    product: &'a Product,
}

impl Finder<'_> {
    fn named(&self, ids: &[String]) -> Result<DeviceSet, Failure> {
        let mut devices = DeviceSet::new();
        let mut elsewhere = None;
        for id in ids {
            let device = DeviceRef { organization: &self.call.organization, product_id: &self.product.id, device_id: id };
            match self.state.device(device) {
                Some(device) => drop(devices.insert(device.row.number.0)),
                None if self.is_of_another_product(id) => drop(elsewhere.get_or_insert(id)),
                None => {
                    return Err(Failure::not_found(format!("there is no device {id:?} here; register it, or let it check once")));
                }
            }
        }
        if let Some(id) = elsewhere {
            let product = &self.product.id;
            return Err(mismatch(format!("device {id:?} is of another product than the package, which is of {product:?}")));
        }
        for device in self.rows(&devices) {
            if let Some((field, of_package, of_device)) =
                contradiction(&Said::of_firmware(self.firmware), &Said::of(device.details()))
            {
                let id = &device.id;
                return Err(mismatch(format!("the package is for {field} {of_package:?}, device {id:?} is {of_device:?}")));
            }
            if device.version(self.firmware.component).is_none() {
                return Err(mismatch(format!(
                    "device {:?} has not told yet which version it runs; let it check once, or register it with its version",
                    device.id
                )));
            }
        }
        Ok(devices)
    }

    /// Who may see one product alone isn't told of others.
    fn is_of_another_product(&self, id: &str) -> bool {
        self.call.own_product().is_none() && !self.state.device_sets(&self.call.organization).with_id(id).is_empty()
    }

    /// The members of the groups that are of this make.
    fn grouped(&self, groups: &[String], make: &Make) -> Result<(DeviceSet, Selector), Failure> {
        let sets = self.state.device_sets(&self.call.organization);
        let selector = |groups: &[String]| Selector::Groups(groups.iter().map(|group| group.as_str().into()).collect());
        for group in groups {
            if sets.selected(&self.product.id, &selector(std::slice::from_ref(group))).is_empty() {
                let product = &self.product.id;
                // Who may see one product alone isn't told of others.
                if self.call.own_product().is_none() && !sets.in_group(group).is_empty() {
                    let detail =
                        format!("group {group:?} has devices of other products than the package's alone, which is {product:?}");
                    return Err(mismatch(detail));
                }
                return Err(Failure::not_found(format!(
                    "group {group:?} has no device of product {product:?}, which the package is for"
                )));
            }
        }
        let wanted =
            Said { device_type: Some(&make.device_type), model: Some(&make.model), manufacturer: Some(&make.manufacturer) };
        if let Some((field, of_package, of_request)) = contradiction(&Said::of_firmware(self.firmware), &wanted) {
            return Err(mismatch(format!("the package is for {field} {of_package:?}, the request is for {of_request:?}")));
        }
        let members = sets.selected(&self.product.id, &selector(groups));
        let said =
            sets.with_device_type(&make.device_type) & sets.with_model(&make.model) & sets.with_manufacturer(&make.manufacturer);
        let mut chosen = &members & &said;
        // Only those that don't say all three have to be looked at.
        for device in self.rows(&(&members - &said)) {
            if contradiction(&wanted, &Said::of(device.details())).is_none() {
                chosen.insert(device.number.0);
            }
        }
        if chosen.is_empty() {
            return Err(mismatch("no device of these groups is of this deviceType, model and manufacturerName"));
        }
        if chosen == members {
            return Ok((members, selector(groups)));
        }
        let max = self.call.app.engine.limits().scope_entries_max as u64;
        if chosen.len() > max {
            let detail = format!(
                "the groups have other devices too, and {} of this make; at most {max} can be picked out of a group: \
                 make groups of one make each",
                chosen.len()
            );
            return Err(Failure::new(Code::TargetsTooMany, detail));
        }
        let ids = self.rows(&chosen).map(|device| device.id.clone()).collect();
        Ok((chosen, Selector::Devices(ids)))
    }

    fn rows<'d>(&'d self, devices: &'d DeviceSet) -> impl Iterator<Item = Arc<Device>> + 'd {
        devices.iter().filter_map(|number| Some(self.state.device_by_number(DeviceNumber(number))?.row))
    }

    /// Whoever runs the package's version already has nothing to do; there has to be somebody else.
    fn start_versions(&self, devices: &DeviceSet) -> Result<Vec<String>, Failure> {
        let sets = self.state.device_sets(&self.call.organization);
        let target = &*self.firmware.version;
        let versions: BTreeSet<Arc<str>> = if devices.len() <= FEW {
            self.rows(devices).filter_map(|device| device.version(self.firmware.component).cloned()).collect()
        } else {
            let counts = self.state.version_counts(self.product.number, self.firmware.component);
            let versions = counts.into_iter().map(|(version, _)| version);
            versions.filter(|version| !sets.at_version(self.firmware.component, version).is_disjoint(devices)).collect()
        };
        let from: Vec<String> =
            versions.iter().filter(|version| ***version != *target).map(|version| version.to_string()).collect();
        if from.is_empty() {
            let detail = if versions.is_empty() {
                "none of the devices has told yet which version it runs; let them check once, or register them with their versions"
                    .to_owned()
            } else {
                format!("every device runs {target:?} already, which is the package's version")
            };
            return Err(mismatch(detail));
        }
        Ok(from)
    }
}

/// So many devices are looked at one by one sooner than the versions of the whole product.
const FEW: u64 = 256;

/// What somebody says of a make.
struct Said<'a> {
    device_type: Option<&'a str>,
    model: Option<&'a str>,
    manufacturer: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn of(details: &'a DeviceDetails) -> Self {
        Self {
            device_type: details.device_type.as_deref(),
            model: details.model.as_deref(),
            manufacturer: details.manufacturer.as_deref(),
        }
    }

    fn of_firmware(firmware: &'a Firmware) -> Self {
        Self {
            device_type: firmware.device_type.as_deref(),
            model: firmware.model.as_deref(),
            manufacturer: firmware.manufacturer.as_deref(),
        }
    }
}

/// The first field of which both say something, and not the same.
fn contradiction<'a>(left: &Said<'a>, right: &Said<'a>) -> Option<(&'static str, &'a str, &'a str)> {
    let pairs = [
        ("deviceType", left.device_type, right.device_type),
        ("manufacturerName", left.manufacturer, right.manufacturer),
        ("model", left.model, right.model),
    ];
    pairs.into_iter().find_map(|(field, left, right)| Some((field, left?, right?)).filter(|(_, left, right)| left != right))
}

fn mismatch(detail: impl Into<String>) -> Failure {
    Failure::new(Code::PackageMismatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_unsaid_contradicts_nothing() {
        let said = |device_type, model, manufacturer| Said { device_type, model, manufacturer };
        let full = said(Some("t"), Some("m"), Some("n"));
        let told = |other: Said<'static>| contradiction(&full, &other);
        assert_eq!(told(said(None, None, None)), None);
        assert_eq!(told(said(Some("t"), None, Some("n"))), None);
        assert_eq!(told(said(Some("t"), Some("x"), None)), Some(("model", "m", "x")));
        assert_eq!(told(said(Some("T"), Some("x"), None)), Some(("deviceType", "t", "T")));
        assert_eq!(told(said(None, Some("x"), Some("y"))), Some(("manufacturerName", "n", "y")));
    }
}
