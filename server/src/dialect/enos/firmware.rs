//! Firmware: get, delete, search; and which versions a product's devices run.

use super::expression::{Expression, FieldRule, Matcher, Operator, ValueKind};
use super::firmware_metadata::{NAME_KEY, SIGN_METHOD_KEY, TAG_PREFIX};
use super::job_search::{NameIn, matching};
use super::search::Search;
use super::status::Failure;
use super::text::LocalizedText;
use super::{Answer, Answered, Call, access};
use crate::dialect::common::result_sets::{Order, ResultSet};
use roaring::RoaringBitmap;
use serde::Serialize;
use sluicegate::State;
use sluicegate::model::{Artifact, Component, Firmware, FirmwareId, FirmwareNumber, Product};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows read under one lock.
const ROWS_PER_READ: usize = 1_000;

#[derive(Clone, Copy, Debug)]
enum FirmwareField {
    ProductKey,
    Version,
    IsVerified,
    Name(NameIn),
}

const ONE_OR_MANY: &[Operator] = &[Operator::Equal, Operator::In];

const fn name(name: &'static str, of: NameIn) -> FieldRule<FirmwareField> {
    FieldRule { name, field: FirmwareField::Name(of), operators: &[Operator::Like, Operator::Equal], kind: ValueKind::Text }
}

const FIELDS: &[FieldRule<FirmwareField>] = &[
    FieldRule { name: "productKey", field: FirmwareField::ProductKey, operators: ONE_OR_MANY, kind: ValueKind::Text },
    FieldRule { name: "version", field: FirmwareField::Version, operators: ONE_OR_MANY, kind: ValueKind::Text },
    FieldRule { name: "isVerified", field: FirmwareField::IsVerified, operators: &[Operator::Equal], kind: ValueKind::Boolean },
    name("name", NameIn::Any),
    name("name.default", NameIn::Default),
    name("name.defaultValue", NameIn::Default),
    name("name.zh_CN", NameIn::Locale("zh_CN")),
    name("name.en_US", NameIn::Locale("en_US")),
    name("name.ja_JP", NameIn::Locale("ja_JP")),
    name("name.es_ES", NameIn::Locale("es_ES")),
];

/// A firmware and its product.
type Found = (Arc<Firmware>, Arc<Product>);

pub(super) async fn get(call: &Call) -> Answered {
    let found = find(call).await?;
    Answer::data(&FirmwareShown::new(call, &found))
}

pub(super) async fn delete(call: &Call) -> Answered {
    let (firmware, _) = find(call).await?;
    call.app.engine.delete_firmware(&call.organization, firmware.id, call.now).await?;
    Ok(Answer::done())
}

/// Newest first.
pub(super) async fn search(call: &Call) -> Answered {
    let search = Search::read(call, "firmware")?;
    let expression = search.expression(FIELDS)?.map(Arc::new);
    let found = match search.kept(call) {
        Some(found) => found,
        None => search.keep(call, find_all(call, expression).await?),
    };
    let page = found.page(search.page.offset() as u64, search.page.limit());
    let read = |state: &State| -> Vec<Found> {
        let rows = page.iter().filter_map(|found| state.firmware_by_number(FirmwareNumber(found.number)));
        rows.filter_map(|row| with_product(state, call, row)).collect()
    };
    let rows = call.app.engine.read(read).await?;
    let shown: Vec<FirmwareShown<'_>> = rows.iter().map(|found| FirmwareShown::new(call, found)).collect();
    Answer::page(&shown, search.page.of(found.count()))
}

/// Which versions of the main component the product's devices run, each once.
pub(super) async fn list_versions(call: &Call) -> Answered {
    let product_id = call.parameters.required("productKey")?;
    access::may_name_product(&call.caller, product_id)?;
    let read = |state: &State| match state.product(&call.organization, product_id) {
        Some(product) => state.version_counts(product.number, Component::MAIN),
        // A product that isn't there has no devices.
        None => Vec::new(),
    };
    let counts = call.app.engine.read(read).await?;
    let versions: Vec<&str> = counts.iter().filter(|(_, devices)| *devices > 0).map(|(version, _)| &**version).collect();
    Answer::data(&versions)
}

/// How a file's digest is told: as whoever created its firmware chose. `annotations`: of the firmware, or of a job that was made from it.
/// What was created in another dialect says no method; MD5 is known of every file.
pub(super) fn sign_of<'a>(annotations: &BTreeMap<Box<str>, Box<str>>, artifact: &'a Artifact) -> (&'static str, &'a str) {
    match (annotations.get(SIGN_METHOD_KEY).map(|method| &**method), &artifact.sha256) {
        (Some("sha256"), Some(sha256)) => ("sha256", sha256),
        _ => ("md5", &artifact.md5),
    }
}

/// The firmware that `firmwareId` of the query names. What isn't the caller's isn't there.
async fn find(call: &Call) -> Result<Found, Failure> {
    let id: FirmwareId = call.parameters.required("firmwareId")?.parse().map_err(|_| Failure::firmware_not_found())?;
    let read = |state: &State| with_product(state, call, state.firmware(&call.organization, id)?);
    call.app.engine.read(read).await?.ok_or_else(Failure::firmware_not_found)
}

/// With its product, if both are the caller's.
fn with_product(state: &State, call: &Call, row: Arc<Firmware>) -> Option<Found> {
    let product = state.product_by_number(row.product)?;
    let is_own = product.organization == call.organization && call.opens(&product.id);
    is_own.then(|| (row, Arc::clone(product)))
}

async fn find_all(call: &Call, expression: Option<Arc<Expression<FirmwareField>>>) -> Result<ResultSet, Failure> {
    let mut found = RoaringBitmap::new();
    let mut before: Option<FirmwareNumber> = None;
    loop {
        let read = |state: &State| {
            let rows = state.firmware_list(&call.organization, None, before, ROWS_PER_READ);
            let last = rows.last().map(|row| row.number);
            let is_last = rows.len() < ROWS_PER_READ;
            let own: Vec<Found> = rows.into_iter().filter_map(|row| with_product(state, call, row)).collect();
            (own, last, is_last)
        };
        let (own, last, is_last) = call.app.engine.read(read).await?;
        let matching = matching(own, expression.clone(), matches).await?;
        found.extend(matching.iter().map(|(row, _)| row.number.0));
        before = last;
        if is_last {
            return Ok(ResultSet::of(Order::NewestFirst, found));
        }
    }
}

fn matches(expression: &Expression<FirmwareField>, (row, product): &Found) -> bool {
    expression.holds(|field, matcher| match field {
        FirmwareField::ProductKey => matcher.matches_text(&product.id),
        FirmwareField::Version => matcher.matches_text(&row.version),
        FirmwareField::IsVerified => *matcher == Matcher::Is(row.verified_at.is_some()),
        FirmwareField::Name(of) => of.matches(&name_of(row), matcher),
    })
}

fn name_of(row: &Firmware) -> LocalizedText {
    LocalizedText::kept(row.name.as_deref().unwrap_or_default(), NAME_KEY, &row.annotations)
}

/// `FirmwareInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FirmwareShown<'a> {
    org_id: &'a str,
    firmware_id: String,
    product_key: &'a str,
    name: LocalizedText,
    version: &'a str,
    desc: Option<&'a str>,
    sign_method: &'a str,
    sign: &'a str,
    /// Good for as long as any link that an operator gets.
    file_url: String,
    file_size: u64,
    enable_verification: bool,
    is_verified: bool,
    /// Milliseconds since 1970.
    create_time: u64,
    firmware_tags: BTreeMap<&'a str, &'a str>,
    max_allowed_for_verification: Option<u32>,
    min_success_for_verified: Option<u32>,
}

impl<'a> FirmwareShown<'a> {
    fn new(call: &Call, (row, product): &'a Found) -> Self {
        let artifact = &row.artifact;
        let link = artifact.image.map(|image| call.app.image_link(image, None, call.now));
        // What was created in another dialect says no method; MD5 is known of every file.
        let (sign_method, sign) = sign_of(&row.annotations, artifact);
        let tags = row.annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(TAG_PREFIX)?, &**value)));
        Self {
            org_id: &product.organization,
            firmware_id: row.id.to_string(),
            product_key: &product.id,
            name: name_of(row),
            version: &row.version,
            desc: row.description.as_deref(),
            sign_method,
            sign,
            file_url: link.or_else(|| artifact.url.as_deref().map(str::to_owned)).unwrap_or_default(),
            file_size: artifact.size,
            enable_verification: row.verification.is_some(),
            is_verified: row.verified_at.is_some(),
            create_time: row.created_at.as_millis(),
            firmware_tags: tags.collect(),
            max_allowed_for_verification: row.verification.map(|verification| verification.devices_max),
            min_success_for_verified: row.verification.map(|verification| verification.successes_min),
        }
    }
}
