//! Rows out of tables. Columns are read by their place in the lists below, which are the lists that every query here uses.

use super::names::Named;
use crate::model::{
    App, Artifact, Component, Device, DeviceNumber, Event, Failure, Firmware, FirmwareNumber, Image, Installed, Pace, Product,
    ProductNumber, Subscription, Task, TaskNumber, Timestamp, Token, Upgrade, UpgradeState,
};
use crate::store::Loaded;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Error, Result, Row};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

pub(super) const PRODUCT: &str = "number, organization, id, name, created_at";
pub(super) const IMAGE: &str = "organization, id, size, md5, sha1, name, created_at";
pub(super) const FIRMWARE: &str = "number, id, product, component_type, component_identify, version, image, url, size, md5, sha256,
    name, description, model, manufacturer, device_type, file_type, created_at, annotations,
    verification, verified_at";
pub(super) const DEVICE: &str = "number, product, id, version, components, created_at, details";
pub(super) const TASK: &str =
    "number, id, product, component_type, component_identify, name, description, kind, mode, from_versions,
    target_version, image, url, size, md5, sha256, firmware, scope, members, policy, status, created_at, changed_at,
    annotations, waves, approved, canceled, finished_at";
pub(super) const PACE: &str = "task, first_offered_at, notified, starts, wave";
pub(super) const UPGRADE: &str = "task, device, state, attempts, percent, offer, from_version, detail, created_at, updated_at,
    offered_at, deadline, not_before, succeeded_before, failure, failure_code, confirmed, forced";
pub(super) const TOKEN: &str = "id, secret_sha256, purpose, role, organization, product_id, device_id, app, created_at, expires_at";
pub(super) const APP: &str = "id, organization, secret_encrypted, created_at";
pub(super) const SUBSCRIPTION: &str = "id, organization, url, filters, format, app, secret_encrypted, position, created_at";
pub(super) const EVENT: &str =
    "sequence, kind, at, organization, product_id, device_id, task_id, upgrade_id, state, percent, extra";

/// Texts that many rows share, kept once. Lives as long as one reading.
#[derive(Debug, Default)]
pub(super) struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = text.into();
        self.0.insert(Arc::clone(&shared));
        shared
    }
}

pub(super) fn product(row: &Row<'_>, texts: &mut Texts) -> Result<Product> {
    Ok(Product {
        number: ProductNumber(row.get(0)?),
        organization: texts.share(text(row, 1)?),
        id: text(row, 2)?.into(),
        name: optional(row, 3)?,
        created_at: time(row, 4)?,
    })
}

pub(super) fn image(row: &Row<'_>, texts: &mut Texts) -> Result<Image> {
    Ok(Image {
        organization: texts.share(text(row, 0)?),
        id: parsed(row, 1)?,
        size: number(row, 2)?,
        md5: hex(row, 3)?,
        sha1: hex(row, 4)?,
        name: optional(row, 5)?,
        created_at: time(row, 6)?,
    })
}

pub(super) fn firmware(row: &Row<'_>, texts: &mut Texts) -> Result<Firmware> {
    Ok(Firmware {
        number: FirmwareNumber(row.get(0)?),
        id: parsed(row, 1)?,
        product: ProductNumber(row.get(2)?),
        component: component(row, 3)?,
        version: texts.share(text(row, 5)?),
        artifact: artifact(row, 6)?,
        name: optional(row, 11)?,
        description: optional(row, 12)?,
        model: shared(row, 13, texts)?,
        manufacturer: shared(row, 14, texts)?,
        device_type: shared(row, 15, texts)?,
        file_type: named(row, 16)?,
        created_at: time(row, 17)?,
        annotations: map(row, 18)?,
        verification: optional_text(row, 19)?.map(|verification| from_json(verification, 19)).transpose()?,
        verified_at: optional_time(row, 20)?,
    })
}

pub(super) fn device(row: &Row<'_>, texts: &mut Texts) -> Result<Device> {
    let main = optional_text(row, 3)?.map(|version| Installed { component: Component::MAIN, version: texts.share(version) });
    let components = match optional_text(row, 4)? {
        None => main.into_iter().collect(),
        Some(others) => {
            let others: Vec<(u16, u32, Box<str>)> = from_json(others, 4)?;
            let others = others.into_iter().map(|(component_type, identify, version)| Installed {
                component: Component { component_type, identify },
                version: texts.share(&version),
            });
            let mut components: Vec<Installed> = main.into_iter().chain(others).collect();
            components.sort_by_key(|installed| installed.component);
            components.into_boxed_slice()
        }
    };
    Ok(Device {
        number: DeviceNumber(row.get(0)?),
        product: ProductNumber(row.get(1)?),
        id: text(row, 2)?.into(),
        components,
        created_at: time(row, 5)?,
        details: optional_text(row, 6)?.map(|details| from_json(details, 6)).transpose()?.map(Arc::new),
    })
}

pub(super) fn task(row: &Row<'_>, texts: &mut Texts) -> Result<Task> {
    let from_versions: Vec<Box<str>> = from_json(text(row, 9)?, 9)?;
    Ok(Task {
        number: TaskNumber(row.get(0)?),
        id: parsed(row, 1)?,
        product: ProductNumber(row.get(2)?),
        component: component(row, 3)?,
        name: optional(row, 5)?,
        description: optional(row, 6)?,
        kind: named(row, 7)?,
        mode: named(row, 8)?,
        from_versions: from_versions.iter().map(|version| texts.share(version)).collect(),
        target_version: texts.share(text(row, 10)?),
        artifact: artifact(row, 11)?,
        firmware: row.get::<_, Option<u32>>(16)?.map(FirmwareNumber),
        scope: from_json(text(row, 17)?, 17)?,
        members: optional(row, 18)?,
        policy: from_json(text(row, 19)?, 19)?,
        status: named(row, 20)?,
        created_at: time(row, 21)?,
        changed_at: time(row, 22)?,
        annotations: map(row, 23)?,
        waves: optional_text(row, 24)?.map(|waves| from_json(waves, 24)).transpose()?.unwrap_or_default(),
        approved: row.get(25)?,
        canceled: row.get(26)?,
        finished_at: optional_time(row, 27)?,
    })
}

pub(super) fn pace(row: &Row<'_>, _texts: &mut Texts) -> Result<Pace> {
    Ok(Pace {
        task: TaskNumber(row.get(0)?),
        first_offered_at: optional_time(row, 1)?,
        notified: number(row, 2)?,
        starts: optional_text(row, 3)?.map(|starts| from_json(starts, 3)).transpose()?.unwrap_or_default(),
        wave: row.get(4)?,
    })
}

pub(super) fn upgrade(row: &Row<'_>, texts: &mut Texts) -> Result<Upgrade> {
    Ok(Upgrade {
        task: TaskNumber(row.get(0)?),
        device: DeviceNumber(row.get(1)?),
        state: named(row, 2)?,
        attempts: row.get(3)?,
        percent: row.get(4)?,
        offer: number(row, 5)?,
        from_version: texts.share(text(row, 6)?),
        detail: optional(row, 7)?,
        created_at: time(row, 8)?,
        updated_at: time(row, 9)?,
        offered_at: optional_time(row, 10)?,
        deadline: optional_time(row, 11)?,
        not_before: optional_time(row, 12)?,
        succeeded_before: row.get(13)?,
        failure: match optional_text(row, 14)? {
            Some(kind) => Some(Failure { kind: named_text(kind, 14)?, code: row.get(15)? }),
            None => None,
        },
        confirmed: row.get(16)?,
        forced: row.get(17)?,
    })
}

/// What is kept in memory of an upgrade that is finished; `None` where it goes on.
pub(super) fn finished(row: &Row<'_>) -> Result<Option<Loaded>> {
    let state: UpgradeState = named(row, 2)?;
    if !state.is_finished() {
        return Ok(None);
    }
    Ok(Some(Loaded::FinishedUpgrade {
        task: TaskNumber(row.get(0)?),
        device: DeviceNumber(row.get(1)?),
        state,
        succeeded_before: row.get(13)?,
    }))
}

pub(super) fn token(row: &Row<'_>, texts: &mut Texts) -> Result<Token> {
    let secret = row.get_ref(1)?.as_blob().map_err(|error| unreadable(1, Type::Blob, error))?;
    Ok(Token {
        id: parsed(row, 0)?,
        secret_sha256: secret.try_into().map_err(|error| unreadable(1, Type::Blob, error))?,
        purpose: named(row, 2)?,
        role: named(row, 3)?,
        organization: texts.share(text(row, 4)?),
        product_id: shared(row, 5, texts)?,
        device_id: optional(row, 6)?,
        app: shared(row, 7, texts)?,
        created_at: time(row, 8)?,
        expires_at: time(row, 9)?,
    })
}

pub(super) fn app(row: &Row<'_>, texts: &mut Texts) -> Result<App> {
    Ok(App {
        id: text(row, 0)?.into(),
        organization: texts.share(text(row, 1)?),
        secret_encrypted: row.get(2)?,
        created_at: time(row, 3)?,
    })
}

pub(super) fn subscription(row: &Row<'_>, texts: &mut Texts) -> Result<Subscription> {
    Ok(Subscription {
        id: text(row, 0)?.into(),
        organization: texts.share(text(row, 1)?),
        url: text(row, 2)?.into(),
        filters: optional_text(row, 3)?.map(|filters| from_json(filters, 3)).transpose()?.unwrap_or_default(),
        format: texts.share(text(row, 4)?),
        app: shared(row, 5, texts)?,
        secret_encrypted: row.get(6)?,
        position: number(row, 7)?,
        created_at: time(row, 8)?,
    })
}

pub(super) fn event(row: &Row<'_>, texts: &mut Texts) -> Result<Event> {
    Ok(Event {
        sequence: number(row, 0)?,
        kind: named(row, 1)?,
        at: time(row, 2)?,
        organization: texts.share(text(row, 3)?),
        product_id: texts.share(text(row, 4)?),
        device_id: optional(row, 5)?,
        task_id: optional_parsed(row, 6)?,
        upgrade_id: optional_parsed(row, 7)?,
        state: optional_text(row, 8)?.map(|name| named_text(name, 8)).transpose()?,
        percent: row.get(9)?,
        extra: map(row, 10)?,
    })
}

/// `component_type, component_identify` from column `first` on.
fn component(row: &Row<'_>, first: usize) -> Result<Component> {
    Ok(Component { component_type: row.get(first)?, identify: row.get(first + 1)? })
}

/// `image, url, size, md5, sha256` from column `first` on.
fn artifact(row: &Row<'_>, first: usize) -> Result<Artifact> {
    Ok(Artifact {
        image: optional_parsed(row, first)?,
        url: optional(row, first + 1)?,
        size: number(row, first + 2)?,
        md5: text(row, first + 3)?.into(),
        sha256: optional(row, first + 4)?,
    })
}

fn text<'row>(row: &'row Row<'_>, column: usize) -> Result<&'row str> {
    row.get_ref(column)?.as_str().map_err(|error| unreadable(column, Type::Text, error))
}

fn optional_text<'row>(row: &'row Row<'_>, column: usize) -> Result<Option<&'row str>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        value => value.as_str().map(Some).map_err(|error| unreadable(column, Type::Text, error)),
    }
}

fn optional(row: &Row<'_>, column: usize) -> Result<Option<Arc<str>>> {
    Ok(optional_text(row, column)?.map(Arc::from))
}

fn shared(row: &Row<'_>, column: usize, texts: &mut Texts) -> Result<Option<Arc<str>>> {
    Ok(optional_text(row, column)?.map(|text| texts.share(text)))
}

/// See its counterpart that writes: the 64 bits are those of the unsigned number.
fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column).map(|number| number as u64)
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    number(row, column).map(Timestamp)
}

fn optional_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|time| Timestamp(time as u64)))
}

fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(row: &Row<'_>, column: usize) -> Result<T> {
    text(row, column)?.parse().map_err(|error| unreadable(column, Type::Text, error))
}

fn optional_parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    let parse = |text: &str| text.parse().map_err(|error| unreadable(column, Type::Text, error));
    optional_text(row, column)?.map(parse).transpose()
}

fn named<T: Named>(row: &Row<'_>, column: usize) -> Result<T> {
    named_text(text(row, column)?, column)
}

fn named_text<T: Named>(name: &str, column: usize) -> Result<T> {
    T::of_name(name).ok_or_else(|| unreadable(column, Type::Text, format!("{name:?} is no {}", T::WHAT)))
}

fn hex<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N]> {
    let digits = text(row, column)?.as_bytes();
    let refuse = || unreadable(column, Type::Text, format!("expected {} hexadecimal digits, got {}", N * 2, digits.len()));
    if digits.len() != N * 2 {
        return Err(refuse());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(refuse);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Ok(bytes)
}

fn map(row: &Row<'_>, column: usize) -> Result<BTreeMap<Box<str>, Box<str>>> {
    optional_text(row, column)?.map_or(Ok(BTreeMap::new()), |text| from_json(text, column))
}

fn from_json<T: DeserializeOwned>(text: &str, column: usize) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, Type::Text, error))
}

fn unreadable(column: usize, found: Type, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::FromSqlConversionFailure(column, found, why.into())
}
