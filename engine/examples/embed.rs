//! A whole rollout in one process: `cargo run -p sluicegate --example embed`.

use bytes::Bytes;
use sluicegate::image::Declared;
use sluicegate::model::*;
use sluicegate::*;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let engine = Engine::open(Options::new(folder.path()))?;
    let now = Timestamp(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);

    // An image is digested as it streams in, and sealed.
    let mut ingest = engine.images().begin(Declared::default(), 1 << 30)?;
    ingest.write(Bytes::from_static(b"the new firmware"))?;
    let (sealed, _) = ingest.finish()?;
    let held = Image {
        organization: "acme".into(),
        id: sealed.id(),
        size: sealed.size(),
        md5: sealed.md5(),
        sha1: sealed.sha1(),
        name: None,
        created_at: now,
    };
    engine.put_image(held, now).wait()?;

    // A task takes lamps from 1.0 to 2.0, ten at a time.
    let artifact = Artifact { image: Some(sealed.id()), size: sealed.size(), ..Artifact::default() };
    let task = NewTask {
        name: Some("to 2.0".into()),
        policy: Policy { maximum_concurrency: Some(10), ..Policy::default() },
        unique_start: true,
        start: true,
        ..NewTask::new("acme", "lamp", vec!["1.0".into()], TaskTarget::Artifact { version: "2.0".into(), artifact })
    };
    let task = engine.create_task(task, true, now).wait()?;

    // A device asks, is offered, fetches and reports.
    let device = DeviceRef { organization: "acme", product_id: "lamp", device_id: "lamp-1" };
    let rules = CheckRules { register: true, ..CheckRules::default() };
    let check = Check { device, component: Component::MAIN, version: "1.0", rules };
    let decision = match engine.check(&check, now) {
        Checked::Decided(decision) => decision,
        Checked::Ask => engine.decide(&check, now).wait()?,
    };
    let Decision::Offer(offer) = decision else { return Err("the first device is offered the task".into()) };
    println!("{} goes from {} to {}", device.device_id, offer.from_version, offer.task.row().target_version);
    let image = engine.images().open_image(sealed.id(), sealed.size())?;
    println!("it fetches {} bytes", image.bytes().len());
    let upgrade = offer.id.ok_or("an offer that is no preview has an id")?;
    let report =
        Report { device: device.to_owned(), upgrade, state: ReportedState::Succeeded, percent: None, detail: None, code: None };
    engine.report(report, now).wait()?;

    let counts = engine.read_blocking(|state| state.task("acme", task.id).map(|task| task.counts))?;
    println!("succeeded: {}", counts.map_or(0, |counts| counts.get(UpgradeState::Succeeded)));
    Ok(())
}
