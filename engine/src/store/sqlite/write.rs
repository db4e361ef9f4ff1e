//! Rows into tables, and out of them. Every statement is for a row that may or may not be there already.

use super::coalesce::{Coalesced, Rows};
use super::names::Named;
use super::tables::{self, Meta};
use crate::model::{
    App, Artifact, Component, Device, DeviceNumber, Event, Firmware, Image, Pace, Product, Subscription, Task, Timestamp, Token,
    Upgrade,
};
use rusqlite::{CachedStatement, Connection, Params, Result, Transaction, TransactionBehavior, params};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Brings the tables to the end of `groups`, whole or not at all.
pub(super) fn apply(connection: &mut Connection, meta: &mut Meta, groups: &Coalesced) -> Result<()> {
    let mut reached = *meta;
    reached.applied = groups.last_group;
    reached.last_event = meta.last_event.max(groups.last_event);
    reached.next = meta.next.max(groups.next);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    delete_ranges(&transaction, groups)?;
    write_rows(&transaction, groups)?;
    tables::write_meta(&transaction, reached)?;
    transaction.commit()?;
    *meta = reached;
    Ok(())
}

fn delete_ranges(transaction: &Transaction<'_>, groups: &Coalesced) -> Result<()> {
    let mut of_task = transaction.prepare_cached("DELETE FROM upgrades WHERE task = ?1")?;
    for task in &groups.upgrades_of_task {
        of_task.execute([task.0])?;
    }
    let mut of_device = transaction.prepare_cached("DELETE FROM upgrades WHERE device = ?1")?;
    for device in &groups.upgrades_of_device {
        of_device.execute([device.0])?;
    }
    if groups.events_before > 0 {
        transaction.prepare_cached("DELETE FROM events WHERE sequence < ?1")?.execute([number(groups.events_before)])?;
    }
    Ok(())
}

fn write_rows(to: &Transaction<'_>, groups: &Coalesced) -> Result<()> {
    let Coalesced { products, devices, images, firmware, tasks, paces, upgrades, tokens, apps, subscriptions, events, .. } = groups;
    each(to, products, PUT_PRODUCT, put_product, "DELETE FROM products WHERE number = ?1", |number| [number.0])?;
    each(to, images, PUT_IMAGE, put_image, "DELETE FROM images WHERE organization = ?1 AND id = ?2", |(organization, id)| {
        [organization.to_string(), id.to_string()]
    })?;
    each(to, firmware, PUT_FIRMWARE, put_firmware, "DELETE FROM firmware WHERE number = ?1", |number| [number.0])?;
    each(to, devices, PUT_DEVICE, put_device, "DELETE FROM devices WHERE number = ?1", |number| [number.0])?;
    each(to, tasks, PUT_TASK, put_task, "DELETE FROM tasks WHERE number = ?1", |number| [number.0])?;
    each(to, paces, PUT_PACE, put_pace, "DELETE FROM paces WHERE task = ?1", |task| [task.0])?;
    each(to, upgrades, PUT_UPGRADE, put_upgrade, "DELETE FROM upgrades WHERE task = ?1 AND device = ?2", |(task, device)| {
        [task.0, device.0]
    })?;
    each(to, tokens, PUT_TOKEN, put_token, "DELETE FROM tokens WHERE id = ?1", |id| [id.to_string()])?;
    each(to, apps, PUT_APP, put_app, "DELETE FROM apps WHERE id = ?1", |id| [id.to_string()])?;
    each(to, subscriptions, PUT_SUBSCRIPTION, put_subscription, "DELETE FROM subscriptions WHERE id = ?1", |id| [id.to_string()])?;
    each(to, events, PUT_EVENT, put_event, "DELETE FROM events WHERE sequence = ?1", |sequence| [number(*sequence)])
}

fn each<K, R, P: Params>(
    to: &Transaction<'_>,
    rows: &Rows<K, R>,
    put_sql: &str,
    put: fn(&mut CachedStatement<'_>, &R) -> Result<usize>,
    delete_sql: &str,
    key: fn(&K) -> P,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut put_statement = to.prepare_cached(put_sql)?;
    let mut delete_statement = to.prepare_cached(delete_sql)?;
    for (row_key, row) in rows {
        match row {
            Some(row) => put(&mut put_statement, row)?,
            None => delete_statement.execute(key(row_key))?,
        };
    }
    Ok(())
}

const PUT_PRODUCT: &str = "INSERT OR REPLACE INTO products(number, organization, id, name, created_at) VALUES(?1, ?2, ?3, ?4, ?5)";

fn put_product(statement: &mut CachedStatement<'_>, row: &Product) -> Result<usize> {
    let Product { number, organization, id, name, created_at } = row;
    statement.execute(params![number.0, text(organization), text(id), optional(name), time(*created_at)])
}

const PUT_IMAGE: &str = "INSERT OR REPLACE INTO images(organization, id, size, md5, sha1, name, created_at)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";

fn put_image(statement: &mut CachedStatement<'_>, row: &Image) -> Result<usize> {
    let Image { organization, id, size, md5, sha1, name, created_at } = row;
    statement.execute(params![
        text(organization),
        id.to_string(),
        number(*size),
        hex(md5),
        hex(sha1),
        optional(name),
        time(*created_at)
    ])
}

const PUT_FIRMWARE: &str =
    "INSERT OR REPLACE INTO firmware(number, id, product, component_type, component_identify, version, image,
    url, size, md5, sha256, name, description, model, manufacturer, device_type, file_type, created_at, annotations, verification,
    verified_at)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)";

fn put_firmware(statement: &mut CachedStatement<'_>, row: &Firmware) -> Result<usize> {
    let Firmware {
        number: row_number,
        id,
        product,
        component,
        version,
        artifact: Artifact { image, url, size, md5, sha256 },
        name,
        description,
        model,
        manufacturer,
        device_type,
        file_type,
        created_at,
        annotations,
        verification,
        verified_at,
    } = row;
    statement.execute(params![
        row_number.0,
        id.to_string(),
        product.0,
        component.component_type,
        component.identify,
        text(version),
        image.map(|image| image.to_string()),
        optional(url),
        number(*size),
        text(md5),
        optional(sha256),
        optional(name),
        optional(description),
        optional(model),
        optional(manufacturer),
        optional(device_type),
        file_type.to_name(),
        time(*created_at),
        map_json(annotations)?,
        verification.as_ref().map(json).transpose()?,
        verified_at.map(time)
    ])
}

const PUT_DEVICE: &str = "INSERT OR REPLACE INTO devices(number, product, id, version, components, created_at, details)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";

fn put_device(statement: &mut CachedStatement<'_>, row: &Device) -> Result<usize> {
    let Device { number, product, id, components, created_at, details } = row;
    // Most devices have the main component alone; only the others pay for JSON.
    let others: Vec<(u16, u32, &Arc<str>)> = components
        .iter()
        .filter(|installed| installed.component != Component::MAIN)
        .map(|installed| (installed.component.component_type, installed.component.identify, &installed.version))
        .collect();
    statement.execute(params![
        number.0,
        product.0,
        &**id,
        row.version(Component::MAIN).map(text),
        if others.is_empty() { None } else { Some(json(&others)?) },
        time(*created_at),
        details.as_ref().map(json).transpose()?
    ])
}

const PUT_TASK: &str = "INSERT OR REPLACE INTO tasks(number, id, product, component_type, component_identify, name, description,
    kind, mode, from_versions, target_version, image, url, size, md5, sha256, firmware, scope, members, policy, status,
    created_at, changed_at, annotations, waves, approved, canceled, finished_at)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25,
    ?26, ?27, ?28)";

fn put_task(statement: &mut CachedStatement<'_>, row: &Task) -> Result<usize> {
    let Task {
        number: row_number,
        id,
        product,
        component,
        name,
        description,
        kind,
        mode,
        from_versions,
        target_version,
        artifact: Artifact { image, url, size, md5, sha256 },
        firmware,
        scope,
        members,
        policy,
        status,
        created_at,
        changed_at,
        annotations,
        waves,
        approved,
        canceled,
        finished_at,
    } = row;
    statement.execute(params![
        row_number.0,
        id.to_string(),
        product.0,
        component.component_type,
        component.identify,
        optional(name),
        optional(description),
        kind.to_name(),
        mode.to_name(),
        json(from_versions)?,
        text(target_version),
        image.map(|image| image.to_string()),
        optional(url),
        number(*size),
        text(md5),
        optional(sha256),
        firmware.map(|firmware| firmware.0),
        json(scope)?,
        optional(members),
        json(policy)?,
        status.to_name(),
        time(*created_at),
        time(*changed_at),
        map_json(annotations)?,
        list_json(waves)?,
        approved,
        canceled,
        finished_at.map(time)
    ])
}

const PUT_PACE: &str = "INSERT OR REPLACE INTO paces(task, first_offered_at, notified, starts, wave) VALUES(?1, ?2, ?3, ?4, ?5)";

fn put_pace(statement: &mut CachedStatement<'_>, row: &Pace) -> Result<usize> {
    let Pace { task, first_offered_at, notified, starts, wave } = row;
    statement.execute(params![task.0, first_offered_at.map(time), number(*notified), list_json(starts)?, wave])
}

/// An update in place leaves the index on the device alone, which a replacement would write twice.
const PUT_UPGRADE: &str = "INSERT INTO upgrades(task, device, state, attempts, percent, offer, from_version, detail, created_at,
    updated_at, offered_at, deadline, not_before, succeeded_before, failure, failure_code, confirmed, forced)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
    ON CONFLICT(task, device) DO UPDATE SET state = excluded.state, attempts = excluded.attempts, percent = excluded.percent,
    offer = excluded.offer, from_version = excluded.from_version, detail = excluded.detail, created_at = excluded.created_at,
    updated_at = excluded.updated_at, offered_at = excluded.offered_at, deadline = excluded.deadline,
    not_before = excluded.not_before, succeeded_before = excluded.succeeded_before, failure = excluded.failure,
    failure_code = excluded.failure_code, confirmed = excluded.confirmed, forced = excluded.forced";

fn put_upgrade(statement: &mut CachedStatement<'_>, row: &Upgrade) -> Result<usize> {
    let Upgrade {
        task,
        device: DeviceNumber(device),
        state,
        attempts,
        percent,
        offer,
        from_version,
        detail,
        created_at,
        updated_at,
        offered_at,
        deadline,
        not_before,
        succeeded_before,
        failure,
        confirmed,
        forced,
    } = row;
    statement.execute(params![
        task.0,
        device,
        state.to_name(),
        attempts,
        percent,
        number(*offer),
        text(from_version),
        optional(detail),
        time(*created_at),
        time(*updated_at),
        offered_at.map(time),
        deadline.map(time),
        not_before.map(time),
        succeeded_before,
        failure.map(|failure| failure.kind.to_name()),
        failure.and_then(|failure| failure.code),
        confirmed,
        forced
    ])
}

const PUT_TOKEN: &str = "INSERT OR REPLACE INTO tokens(id, secret_sha256, purpose, role, organization, product_id, device_id, app,
    created_at, expires_at) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

fn put_token(statement: &mut CachedStatement<'_>, row: &Token) -> Result<usize> {
    let Token { id, secret_sha256, purpose, role, organization, product_id, device_id, app, created_at, expires_at } = row;
    statement.execute(params![
        id.to_string(),
        secret_sha256.as_slice(),
        purpose.to_name(),
        role.to_name(),
        text(organization),
        optional(product_id),
        optional(device_id),
        optional(app),
        time(*created_at),
        time(*expires_at)
    ])
}

const PUT_APP: &str = "INSERT OR REPLACE INTO apps(id, organization, secret_encrypted, created_at) VALUES(?1, ?2, ?3, ?4)";

fn put_app(statement: &mut CachedStatement<'_>, row: &App) -> Result<usize> {
    let App { id, organization, secret_encrypted, created_at } = row;
    statement.execute(params![text(id), text(organization), secret_encrypted, time(*created_at)])
}

const PUT_SUBSCRIPTION: &str =
    "INSERT OR REPLACE INTO subscriptions(id, organization, url, filters, format, app, secret_encrypted, position, created_at)
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

fn put_subscription(statement: &mut CachedStatement<'_>, row: &Subscription) -> Result<usize> {
    let Subscription { id, organization, url, filters, format, app, secret_encrypted, position, created_at } = row;
    statement.execute(params![
        text(id),
        text(organization),
        text(url),
        if filters.is_empty() { None } else { Some(json(filters)?) },
        text(format),
        optional(app),
        secret_encrypted,
        number(*position),
        time(*created_at)
    ])
}

const PUT_EVENT: &str =
    "INSERT OR REPLACE INTO events(sequence, kind, at, organization, product_id, device_id, task_id, upgrade_id,
    state, percent, extra) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

fn put_event(statement: &mut CachedStatement<'_>, row: &Event) -> Result<usize> {
    let Event { sequence, kind, at, organization, product_id, device_id, task_id, upgrade_id, state, percent, extra } = row;
    statement.execute(params![
        number(*sequence),
        kind.to_name(),
        time(*at),
        text(organization),
        text(product_id),
        optional(device_id),
        task_id.map(|id| id.to_string()),
        upgrade_id.map(|id| id.to_string()),
        state.map(Named::to_name),
        percent,
        map_json(extra)?
    ])
}

fn text(text: &Arc<str>) -> &str {
    text
}

fn optional(text: &Option<Arc<str>>) -> Option<&str> {
    text.as_deref()
}

/// SQLite's integers are signed: a number from 2^63 on is stored as the negative number of the same 64 bits.
fn number(number: u64) -> i64 {
    number as i64
}

fn time(time: Timestamp) -> i64 {
    number(time.0)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string never fails.
        _ = write!(text, "{byte:02x}");
    }
    text
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// `NULL` for an empty list.
fn list_json<T: Serialize>(list: &[T]) -> Result<Option<String>> {
    if list.is_empty() { Ok(None) } else { json(list).map(Some) }
}

/// `NULL` for an empty map.
fn map_json(map: &BTreeMap<Box<str>, Box<str>>) -> Result<Option<String>> {
    if map.is_empty() { Ok(None) } else { json(map).map(Some) }
}
