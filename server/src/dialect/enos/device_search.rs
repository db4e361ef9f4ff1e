//! `ota-firmwares?action=searchDeviceUpgrade`: which firmware devices run, and whether they are upgrading.
//!
//! The expression is evaluated over sets of devices: what it costs depends on the sets, not on the rows of the fleet.

use super::expression::{Expression, FieldRule, Matcher, Operator, ValueKind};
use super::search::Search;
use super::status::Failure;
use super::{Answer, Answered, Call};
use crate::dialect::common::result_sets::{Order, ResultSet};
use roaring::RoaringBitmap;
use serde::Serialize;
use sluicegate::model::{Component, DeviceNumber};
use sluicegate::{DeviceInfo, DeviceSets, State};
use std::ops::{BitAnd, BitOr};

#[derive(Clone, Copy, Debug)]
pub(super) enum DeviceField {
    ProductKey,
    FirmwareVersion,
    IsUpgrading,
}

const ONE_OR_MANY: &[Operator] = &[Operator::Equal, Operator::In];

pub(super) const FIELDS: &[FieldRule<DeviceField>] = &[
    FieldRule { name: "productKey", field: DeviceField::ProductKey, operators: ONE_OR_MANY, kind: ValueKind::Text },
    FieldRule { name: "firmwareVersion", field: DeviceField::FirmwareVersion, operators: ONE_OR_MANY, kind: ValueKind::Text },
    FieldRule { name: "isUpgrading", field: DeviceField::IsUpgrading, operators: &[Operator::Equal], kind: ValueKind::Boolean },
];

/// `DeviceFirmware`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceShown<'a> {
    org_id: &'a str,
    /// An asset of ours is a device, so it is known by the device's key.
    asset_id: &'a str,
    product_key: &'a str,
    device_key: &'a str,
    /// Absent until the device has told it.
    firmware_version: Option<&'a str>,
    is_upgrading: bool,
}

pub(super) async fn search(call: &Call) -> Answered {
    let search = Search::read(call, "searchDeviceUpgrade")?;
    let expression = search.expression(FIELDS)?;
    let found = match search.kept(call) {
        Some(found) => found,
        None => search.keep(call, find(call, expression.as_ref()).await?),
    };
    let page = found.page(search.page.offset() as u64, search.page.limit());
    let read = |state: &State| -> Vec<(DeviceInfo, bool)> {
        let upgrading = state.device_sets(&call.organization).upgrading();
        let own = |number| {
            let device = state.device_by_number(DeviceNumber(number))?;
            (device.product.organization == call.organization).then(|| (device, upgrading.contains(number)))
        };
        page.iter().filter_map(|found| own(found.number)).collect()
    };
    let devices = call.app.engine.read(read).await?;
    let rows: Vec<DeviceShown<'_>> = devices
        .iter()
        .map(|(device, is_upgrading)| DeviceShown {
            org_id: &device.product.organization,
            asset_id: &device.row.id,
            product_key: &device.product.id,
            device_key: &device.row.id,
            firmware_version: device.row.version(Component::MAIN).map(|version| &**version),
            is_upgrading: *is_upgrading,
        })
        .collect();
    Answer::page(&rows, search.page.of(found.count()))
}

async fn find(call: &Call, expression: Option<&Expression<DeviceField>>) -> Result<ResultSet, Failure> {
    let read = |state: &State| {
        let sets = state.device_sets(&call.organization);
        // A token that is bound to a product finds nothing of another.
        let all = match &call.caller.product_id {
            Some(product_id) => sets.of_product(product_id),
            None => sets.all(),
        };
        match expression {
            None => all,
            Some(expression) => matching(expression, &sets, &all),
        }
    };
    Ok(ResultSet::of(Order::Ascending, call.app.engine.read(read).await?))
}

fn matching(expression: &Expression<DeviceField>, sets: &DeviceSets<'_>, all: &RoaringBitmap) -> RoaringBitmap {
    let mut test = |field: DeviceField, matcher: &Matcher| -> RoaringBitmap {
        let any_of = |one: &dyn Fn(&str) -> RoaringBitmap| match matcher {
            Matcher::OneOf(values) => values.iter().map(|value| one(value)).fold(RoaringBitmap::new(), BitOr::bitor) & all,
            Matcher::Like(_) | Matcher::Is(_) => RoaringBitmap::new(),
        };
        match field {
            DeviceField::ProductKey => any_of(&|product_id| sets.of_product(product_id)),
            DeviceField::FirmwareVersion => any_of(&|version| sets.at_version(Component::MAIN, version)),
            DeviceField::IsUpgrading if *matcher == Matcher::Is(true) => sets.upgrading() & all,
            DeviceField::IsUpgrading => all - sets.upgrading(),
        }
    };
    expression.evaluate(&mut test, BitAnd::bitand, BitOr::bitor)
}
