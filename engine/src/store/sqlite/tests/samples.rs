//! Rows of every kind, and changes made from a few small numbers, so that a failing sequence shrinks well.

use crate::model::*;
use crate::store::{Change, Key, Row};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many kinds of change [`change`] knows.
pub(super) const KINDS: u8 = 24;

fn text(what: &str, n: u32) -> Arc<str> {
    format!("{what} {n} “quoted” 'ü\"").into()
}

/// Something in every optional place for odd variations, nothing for even ones.
fn maybe<T>(variation: u8, value: T) -> Option<T> {
    (variation % 2 == 1).then_some(value)
}

fn map(variation: u8) -> BTreeMap<Box<str>, Box<str>> {
    maybe(variation, ("key".into(), format!("value {variation}").into())).into_iter().collect()
}

fn time(variation: u8) -> Timestamp {
    // The last is the end of time, which is past what SQLite's integers hold.
    if variation == u8::MAX { Timestamp(u64::MAX) } else { Timestamp(1_800_000_000_000 + u64::from(variation)) }
}

pub(super) fn image_id(n: u32) -> ImageId {
    ImageId([n as u8 + 1; 32])
}

fn artifact(n: u32, variation: u8) -> Artifact {
    Artifact {
        image: maybe(variation, image_id(n)),
        url: maybe(variation.wrapping_add(1), text("http://elsewhere/", n)),
        size: u64::from(n) << 40,
        md5: text("md5", n),
        sha256: maybe(variation, text("sha256", n)),
    }
}

pub(super) fn product(n: u32, variation: u8) -> Row {
    Row::Product(Arc::new(Product {
        number: ProductNumber(n),
        organization: "acme".into(),
        id: text("product", n),
        name: maybe(variation, text("name", n)),
        created_at: time(variation),
    }))
}

pub(super) fn device(n: u32, variation: u8) -> Row {
    let installed = |component_type, identify| Installed {
        component: Component { component_type, identify },
        version: format!("1.{}", variation % 3).into(),
    };
    let components = match variation % 4 {
        0 => vec![installed(1, 0)],
        1 => vec![],
        2 => vec![installed(0, 7), installed(1, 0), installed(1, 1), installed(u16::MAX, u32::MAX)],
        _ => vec![installed(9, 9)],
    };
    let details = DeviceDetails {
        attributes: BTreeMap::from([("color".into(), "\"red\"".into())]),
        tags: map(variation),
        groups: vec!["hall".into()],
        asset_nodes: vec!["tree/node".into()],
        model: Some("m".into()),
        manufacturer: None,
        device_type: Some("lamp".into()),
        gateway: Some("gateway".into()),
        secret_encrypted: Some(vec![0, 255, variation]),
    };
    Row::Device(Arc::new(Device {
        number: DeviceNumber(n),
        product: ProductNumber(n / 2),
        id: format!("device {n}").into(),
        components: components.into(),
        created_at: time(variation),
        details: maybe(variation, Arc::new(details)),
    }))
}

pub(super) fn image(n: u32, variation: u8) -> Row {
    Row::Image(Arc::new(Image {
        organization: ["acme", "other"][n as usize % 2].into(),
        id: image_id(n / 2),
        size: 1000 + u64::from(n / 2),
        md5: [variation; 16],
        sha1: [0xab; 20],
        name: maybe(variation, text("name", n)),
        created_at: time(variation),
    }))
}

pub(super) fn firmware(n: u32, variation: u8) -> Row {
    Row::Firmware(Arc::new(Firmware {
        number: FirmwareNumber(n),
        id: FirmwareId { created_s: 7, store: 9, number: FirmwareNumber(n) },
        product: ProductNumber(n),
        component: Component { component_type: 2, identify: n },
        version: text("version", n),
        artifact: artifact(n, variation),
        name: maybe(variation, text("name", n)),
        description: maybe(variation, text("description", n)),
        model: maybe(variation, text("model", n)),
        manufacturer: maybe(variation, text("manufacturer", n)),
        device_type: maybe(variation, text("type", n)),
        file_type: if variation.is_multiple_of(2) { FileType::SoftwarePackage } else { FileType::FirmwarePackage },
        created_at: time(variation),
        annotations: map(variation),
        verification: maybe(variation, Verification { devices_max: 5, successes_min: 2 }),
        verified_at: maybe(variation, time(variation)),
    }))
}

pub(super) fn task(n: u32, variation: u8) -> Row {
    let selector = match variation % 6 {
        0 => Selector::Total,
        1 => Selector::Devices(vec!["d1".into(), "d2".into()]),
        2 => Selector::Attributes(BTreeMap::from([("color".into(), vec!["\"red\"".into(), "3".into()])])),
        3 => Selector::Tags(BTreeMap::from([("place".into(), vec!["hall".into()])])),
        4 => Selector::Groups(vec!["g".into()]),
        _ => Selector::AssetTrees(vec![AssetTree { tree: "t".into(), nodes: vec!["n".into()] }]),
    };
    let policy = Policy {
        maximum_concurrency: maybe(variation, 3),
        timeout_s: maybe(variation, 60),
        retry: maybe(variation, retry(variation)),
        schedule: Schedule {
            start: maybe(variation, time(variation)),
            end: maybe(variation, Timestamp(u64::MAX)),
            daily: maybe(variation, Daily { from_s: 80_000, to_s: 3_600 }),
            utc_offset_minutes: -330,
        },
        repeat_after_success: variation % 2 == 1,
        timeout_from: if variation.is_multiple_of(2) { TimeoutFrom::Offer } else { TimeoutFrom::Running },
        rate: maybe(variation, rate(variation)),
        waves: (0..variation % 3).map(|n| Wave { size: wave_size(n), success_percent: 90 }).collect(),
        start_jitter_s: u32::from(variation),
        thresholds: (0..variation % 4).map(threshold).collect(),
        approval: variation % 2 == 1,
        confirmation: variation.is_multiple_of(2),
        version_decides: variation % 2 == 1,
    };
    Row::Task(Arc::new(Task {
        number: TaskNumber(n),
        id: TaskId { created_s: 7, store: 9, number: TaskNumber(n) },
        product: ProductNumber(n),
        component: Component::MAIN,
        name: maybe(variation, text("name", n)),
        description: maybe(variation, text("description", n)),
        kind: if variation.is_multiple_of(2) { TaskKind::Upgrade } else { TaskKind::Verify },
        mode: if variation.is_multiple_of(2) { TaskMode::Automatic } else { TaskMode::Manual },
        from_versions: vec!["1".into(), text("from", n)],
        target_version: "2".into(),
        artifact: artifact(n, variation),
        firmware: maybe(variation, FirmwareNumber(n)),
        scope: Scope { selector, snapshot: variation % 2 == 1 },
        members: maybe(variation, "3a30".into()),
        policy,
        status: [TaskStatus::Stopped, TaskStatus::Started, TaskStatus::Paused][variation as usize % 3],
        created_at: time(variation),
        changed_at: time(variation),
        annotations: map(variation),
        waves: (0..variation % 3).map(|n| MeasuredWave { to_place: u64::MAX >> n, devices: 7, successes: 3 }).collect(),
        approved: variation % 2 == 1,
        canceled: variation.is_multiple_of(5),
        finished_at: maybe(variation, time(variation)),
    }))
}

fn retry(variation: u8) -> Retry {
    let back_off = maybe(variation / 2, BackOff { factor_percent: 150, interval_max_s: 600 });
    Retry { count: u32::MAX, interval_s: 5, back_off, jitter_s: 9, codes: (0..i32::from(variation % 3)).map(|n| n - 1).collect() }
}

fn rate(variation: u8) -> Rate {
    let counting = if variation % 4 < 2 { Counting::Notified } else { Counting::Succeeded };
    let growth = Growth { factor_percent: 200, after: 1_000, counting, per_minute_max: 500 };
    Rate { per_minute: 50, growth: maybe(variation / 2, growth) }
}

fn wave_size(n: u8) -> WaveSize {
    if n.is_multiple_of(2) { WaveSize::Percent(10) } else { WaveSize::Count(100) }
}

fn threshold(n: u8) -> Threshold {
    let action = if n.is_multiple_of(2) { ThresholdAction::Pause } else { ThresholdAction::Cancel };
    Threshold { kind: FailureKind::ALL.get(usize::from(n)).copied(), percent: 20, minimum: 50, action }
}

pub(super) fn pace(n: u32, variation: u8) -> Row {
    Row::Pace(Arc::new(Pace {
        task: TaskNumber(n),
        first_offered_at: maybe(variation, time(variation)),
        notified: u64::from(variation) << 33,
        starts: (0..variation % 3).map(|n| SecondCount { second: 1_000 + u64::from(n), count: 2 }).collect(),
        wave: u32::from(variation),
    }))
}

pub(super) fn upgrade(task: u32, device: u32, variation: u8) -> Row {
    Row::Upgrade(Arc::new(Upgrade {
        task: TaskNumber(task),
        device: DeviceNumber(device),
        state: UpgradeState::ALL[variation as usize % UpgradeState::ALL.len()],
        attempts: u32::from(variation),
        percent: variation % 101,
        offer: u64::from(variation) << 33,
        from_version: "1".into(),
        detail: maybe(variation, text("detail", device)),
        created_at: time(variation),
        updated_at: time(variation),
        offered_at: maybe(variation, time(variation)),
        deadline: maybe(variation, Timestamp(u64::MAX)),
        not_before: maybe(variation, time(variation)),
        succeeded_before: variation % 2 == 1,
        failure: failure(variation),
        confirmed: variation % 2 == 1,
        forced: variation.is_multiple_of(3),
    }))
}

fn failure(variation: u8) -> Option<Failure> {
    let kind = FailureKind::ALL.get(usize::from(variation % 4)).copied()?;
    Some(Failure { kind, code: maybe(variation / 4, i32::from(variation) - 100) })
}

pub(super) fn subscription(n: u32, variation: u8) -> Row {
    Row::Subscription(Arc::new(Subscription {
        id: text("subscription", n),
        organization: "acme".into(),
        url: text("http://there/", n),
        filters: (0..variation % 3).map(|n| format!("a/{n}/#").into()).collect(),
        format: "native".into(),
        app: maybe(variation, "a".into()),
        secret_encrypted: maybe(variation, vec![0, 255, variation]),
        position: u64::from(variation) << 33,
        created_at: time(variation),
    }))
}

pub(super) fn token_id(n: u32) -> TokenId {
    TokenId(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub(super) fn token(n: u32, variation: u8) -> Row {
    Row::Token(Arc::new(Token {
        id: token_id(n),
        secret_sha256: [variation; 32],
        purpose: [TokenPurpose::Access, TokenPurpose::Refresh, TokenPurpose::Authorize, TokenPurpose::Signed]
            [variation as usize % 4],
        role: [Role::Admin, Role::Operator, Role::User, Role::Device][variation as usize % 4],
        organization: "acme".into(),
        product_id: maybe(variation, "p".into()),
        device_id: maybe(variation, "d".into()),
        app: maybe(variation, "a".into()),
        created_at: time(variation),
        expires_at: Timestamp(u64::MAX),
    }))
}

pub(super) fn app(n: u32, variation: u8) -> Row {
    Row::App(Arc::new(App {
        id: text("app", n),
        organization: "acme".into(),
        secret_encrypted: vec![variation; n as usize],
        created_at: time(variation),
    }))
}

pub(super) fn event(sequence: u64, variation: u8) -> Row {
    let upgrade = UpgradeId { task: TaskNumber(1), device: DeviceNumber(u32::MAX), offer: sequence };
    Row::Event(Arc::new(Event {
        sequence,
        kind: EventKind::ALL[variation as usize % EventKind::ALL.len()],
        at: time(variation),
        organization: "acme".into(),
        product_id: "lamp".into(),
        device_id: maybe(variation, text("device", 1)),
        task_id: maybe(variation, TaskId { created_s: u32::MAX, store: 9, number: TaskNumber(1) }),
        upgrade_id: maybe(variation, upgrade),
        state: maybe(variation, UpgradeState::ALL[variation as usize % UpgradeState::ALL.len()]),
        percent: maybe(variation, 100),
        extra: map(variation),
    }))
}

/// Every kind of row twice: with everything that is optional, and without.
pub(super) fn every_kind() -> Vec<Change> {
    (0..2_u8)
        .flat_map(|variation| {
            let n = u32::from(variation) + 1;
            [
                product(n, variation),
                image(n, variation),
                firmware(n, variation),
                device(n, variation),
                task(n, variation),
                pace(n, variation),
                upgrade(n, 1, variation),
                upgrade(n, 2, variation + 6),
                token(n, variation),
                app(n, variation),
                subscription(n, variation),
                event(n.into(), variation),
            ]
        })
        .map(Change::Put)
        .collect()
}

/// The change that a few numbers stand for: `kind` below [`KINDS`], `n` a small number.
pub(super) fn change(kind: u8, n: u32, variation: u8) -> Change {
    let (task_number, device_number) = (TaskNumber(n), DeviceNumber(u32::from(variation) % 4));
    match kind {
        0 => Change::Put(product(n, variation)),
        1 => Change::Put(device(n, variation)),
        2 => Change::Put(image(n, variation)),
        3 => Change::Put(firmware(n, variation)),
        4 => Change::Put(task(n, variation)),
        20 => Change::Put(pace(n, variation)),
        21 => Change::Delete(Key::Pace(TaskNumber(n))),
        22 => Change::Put(subscription(n, variation)),
        23 => Change::Delete(Key::Subscription(text("subscription", n))),
        5 | 18 => Change::Put(upgrade(n, device_number.0, variation)),
        6 => Change::Put(token(n, variation)),
        7 => Change::Put(app(n, variation)),
        8 | 19 => Change::Put(event(u64::from(n) + u64::from(variation) % 4, variation)),
        9 => Change::Delete(Key::Product(ProductNumber(n))),
        10 => Change::Delete(Key::Device(DeviceNumber(n))),
        11 => Change::Delete(Key::Image { organization: "acme".into(), id: image_id(n / 2) }),
        12 => Change::Delete(Key::Firmware(FirmwareNumber(n))),
        13 => Change::Delete(Key::Upgrade { task: task_number, device: device_number }),
        14 => Change::Delete(Key::UpgradesOfTask(task_number)),
        15 => Change::Delete(Key::UpgradesOfDevice(device_number)),
        16 => match variation % 3 {
            0 => Change::Delete(Key::Token(token_id(n))),
            1 => Change::Delete(Key::App(text("app", n))),
            _ => Change::Delete(Key::Task(task_number)),
        },
        _ => Change::Delete(Key::EventsBefore(n.into())),
    }
}
