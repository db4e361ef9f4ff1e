//! How often one caller may call, and one device may ask. Off unless the operator sets a bound: who measures the server, or stands in
//! front of it with a gateway for many devices, would only measure the bound.
//!
//! Huawei's applications have a bound of their own, which is on: their platform's documents promise it.

use super::limiter::{Exceeded, Limiter};
use crate::auth::Caller;
use crate::config::Limits;
use sluicegate::DeviceRef;

#[derive(Debug)]
pub struct FairUse {
    calls: Limiter,
    checks: Limiter,
}

impl FairUse {
    pub fn new(limits: &Limits) -> Self {
        Self { calls: Limiter::per_minute(limits.calls_per_minute), checks: Limiter::per_minute(limits.checks_per_minute) }
    }

    /// Counts a call that manages or looks: for each application, or each token where none stands behind it. The administrator's own
    /// token is never refused, so that somebody can always look.
    pub fn call(&self, caller: &Caller) -> Result<(), Exceeded> {
        match (&caller.app, caller.token) {
            (Some(app), _) => self.calls.check(&("application", app)),
            (None, Some(token)) => self.calls.check(&("token", token.0)),
            (None, None) => Ok(()),
        }
    }

    /// Counts a check of this device.
    pub fn check(&self, device: DeviceRef<'_>) -> Result<(), Exceeded> {
        self.checks.check(&(device.organization, device.product_id, device.device_id))
    }

    pub fn forget_resting(&self) {
        self.calls.forget_resting();
        self.checks.forget_resting();
    }
}
