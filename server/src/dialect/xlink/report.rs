//! A device tells the end of an upgrade. It names no task, only versions; the engine finds the task.
//!
//! Always 200: an old device that reports nonsense (the same version twice, a task long deleted) must not repeat itself for ever.

use super::decode::{self, Reported};
use super::status::{Code, Failure};
use super::{Answer, access, body_of, done};
use crate::app::App;
use crate::http::Request;
use sluicegate::model::Role;
use sluicegate::{DeviceRef, VersionReport};
use std::collections::BTreeMap;

pub(super) async fn report(app: &App, request: Request, device_id: &str) -> Answer {
    let now = app.now();
    let caller = access::caller(app, &request, now)?;
    if caller.role != Role::Device {
        return Err(Failure::new(Code::Forbidden, "only the device itself reports; use its own token"));
    }
    let device_id = decode::device_id_in_path(device_id)?;
    access::may_name_device(&caller, &device_id)?;
    let (_, body) = body_of(app, request).await?;
    let reported = decode::report(&body)?;
    let Some(product_id) = caller.product_id.as_deref() else {
        return Err(Failure::new(
            Code::Forbidden,
            "this token names no product, so it is not known whose device it is; issue one that does",
        ));
    };
    let device = DeviceRef { organization: &caller.organization, product_id, device_id: &device_id }.to_owned();
    let extra = extra_of(&reported);
    let report = VersionReport {
        device,
        component: reported.component,
        from_version: reported.last_version,
        to_version: reported.current_version,
        succeeded: reported.succeeded,
        detail: reported.description,
        extra,
        register: app.registers(),
    };
    app.engine.report_version(report, now).await?;
    done()
}

/// The report as it came, for whoever follows the events.
fn extra_of(reported: &Reported) -> BTreeMap<Box<str>, Box<str>> {
    let always = [
        ("type", reported.component.component_type.to_string()),
        ("identify", reported.component.identify.to_string()),
        ("mod", reported.model.clone()),
        ("last_version", reported.last_version.clone()),
        ("current_version", reported.current_version.clone()),
        ("result", if reported.succeeded { "0" } else { "1" }.to_owned()),
    ];
    let sometimes = [("desc", &reported.description), ("start_date", &reported.start_date), ("end_date", &reported.end_date)];
    let sometimes = sometimes.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)));
    always.into_iter().chain(sometimes).map(|(key, value)| (key.into(), value.into())).collect()
}
