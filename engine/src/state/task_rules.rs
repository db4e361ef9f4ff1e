//! What a task may ask for: its from-versions, its scope, and every range of its policy.

use super::{NewTask, State, validate};
use crate::error::{Conflict, Error};
use crate::model::*;
use std::collections::BTreeMap;

impl State {
    pub(super) fn validate_task(&self, new: &NewTask) -> Result<(), Error> {
        validate::name("name", new.name.as_deref(), &self.limits)?;
        validate::text("description", new.description.as_deref(), &self.limits)?;
        let count = new.from_versions.len();
        if count == 0 || count > self.limits.from_versions_max {
            let max = self.limits.from_versions_max;
            return Err(Error::invalid("from_versions", format!("{count} from-versions; give 1 to {max}")));
        }
        for (place, version) in new.from_versions.iter().enumerate() {
            validate::version("from_versions", version, &self.limits)?;
            if new.from_versions[..place].contains(version) {
                return Err(Error::invalid("from_versions", format!("from-version {version:?} is named twice")));
            }
        }
        self.validate_policy(&new.policy)?;
        self.validate_scope(&new.scope)
    }

    fn validate_policy(&self, policy: &Policy) -> Result<(), Error> {
        if policy.maximum_concurrency == Some(0) {
            return Err(Error::invalid(
                "maximum_concurrency",
                "maximum_concurrency is 0; give at least 1, or leave it out for no cap",
            ));
        }
        if policy.timeout_s == Some(0) {
            return Err(Error::invalid("timeout_s", "timeout_s is 0; give at least 1 second"));
        }
        let Schedule { start, end, daily, utc_offset_minutes } = policy.schedule;
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            return Err(Error::invalid("schedule.end", "the schedule ends before it starts; give an end after the start"));
        }
        if daily.is_some_and(|daily| daily.from_s >= 86_400 || daily.to_s >= 86_400) {
            return Err(Error::invalid("schedule.daily", "a time of the daily window is past 23:59:59"));
        }
        if !(-1_080..=1_080).contains(&utc_offset_minutes) {
            let message = format!("utc_offset_minutes is {utc_offset_minutes}; give -1080 to 1080");
            return Err(Error::invalid("schedule.utc_offset_minutes", message));
        }
        if let Some(retry) = &policy.retry {
            validate_retry(retry)?;
        }
        if let Some(rate) = &policy.rate {
            validate_rate(rate)?;
        }
        validate_waves(&policy.waves)?;
        validate_thresholds(&policy.thresholds)?;
        within("start_jitter_s", policy.start_jitter_s, 0, DAY_S)?;
        // A delay that ends after the window does would keep its device out for ever.
        let window_s = window_s(&policy.schedule);
        if policy.start_jitter_s > 0 && u64::from(policy.start_jitter_s) > window_s {
            let message = format!("start_jitter_s is {}, the schedule's window {window_s} s; give less", policy.start_jitter_s);
            return Err(Error::invalid("start_jitter_s", message));
        }
        Ok(())
    }

    /// A selector that names nothing is refused: it is more likely a slip than a wish for a task without devices.
    fn validate_scope(&self, scope: &Scope) -> Result<(), Error> {
        let max = self.limits.scope_entries_max;
        let count = |field: &'static str, count: usize| match count {
            0 => Err(Error::invalid(field, format!("{field} names nothing; name what the task is for"))),
            count if count > max => Err(Error::invalid(field, format!("{field} names {count} entries; at most {max} are allowed"))),
            _ => Ok(()),
        };
        let counts = |field: &'static str, map: &BTreeMap<Box<str>, Vec<Box<str>>>| {
            count(field, map.values().map(Vec::len).sum())?;
            for (key, values) in map {
                validate::id(field, key, &self.limits)?;
                values.iter().try_for_each(|value| validate::value(field, value, &self.limits))?;
            }
            match map.iter().find(|(_, values)| values.is_empty()) {
                Some((key, _)) => Err(Error::invalid(field, format!("{field} names no value for {key:?}; give at least one"))),
                None => Ok(()),
            }
        };
        match &scope.selector {
            Selector::Total => Ok(()),
            Selector::Devices(devices) => {
                count("scope.devices", devices.len())?;
                devices.iter().try_for_each(|device| validate::id("scope.devices", device, &self.limits))
            }
            Selector::Attributes(attributes) => counts("scope.attributes", attributes),
            Selector::Tags(tags) => counts("scope.tags", tags),
            Selector::Groups(groups) => {
                count("scope.groups", groups.len())?;
                groups.iter().try_for_each(|group| validate::id("scope.groups", group, &self.limits))
            }
            Selector::AssetTrees(trees) => {
                if trees.len() > self.limits.asset_trees_max {
                    let max = self.limits.asset_trees_max;
                    return Err(Error::invalid(
                        "scope.asset_trees",
                        format!("{} asset trees; at most {max} are allowed", trees.len()),
                    ));
                }
                count("scope.asset_trees", trees.iter().map(|tree| 1 + tree.nodes.len()).sum())?;
                let names = trees.iter().flat_map(|tree| tree.nodes.iter().chain([&tree.tree]));
                names.into_iter().try_for_each(|name| validate::id("scope.asset_trees", name, &self.limits))
            }
        }
    }

    /// A verify task names its devices, and no more of them than its firmware allows.
    pub(super) fn validate_verify_scope(&self, selector: &Selector, verification: Option<Verification>) -> Result<(), Error> {
        let Selector::Devices(devices) = selector else {
            let message = "a verify task names its devices; give scope.devices";
            return Err(Error::conflict(Conflict::VerifyScope, message));
        };
        let max = verification.map_or(VERIFY_DEVICES_MAX, |verification| verification.devices_max);
        if devices.len() > max as usize {
            let message = format!("{} devices to verify on; the firmware allows {max}", devices.len());
            return Err(Error::conflict(Conflict::VerifyDevices, message));
        }
        Ok(())
    }
}

/// How many devices a verify task may name where its firmware doesn't say.
pub const VERIFY_DEVICES_MAX: u32 = 5;

const DAY_S: u32 = 86_400;
/// More makes no difference that anybody could see, and keeps sums far from their end.
const WAVES_MAX: usize = 100;
const THRESHOLDS_MAX: usize = 16;
const RETRY_CODES_MAX: usize = 64;
const INTERVAL_MAX_S: u32 = 366 * DAY_S;

/// How long devices may begin, once they may.
fn window_s(schedule: &Schedule) -> u64 {
    let whole_s = schedule.end.map_or(u64::MAX, |end| schedule.start.unwrap_or(Timestamp(0)).seconds_until(end));
    let daily_s = schedule.daily.map_or(u64::MAX, |daily| {
        let day_s = u64::from(DAY_S);
        (u64::from(daily.to_s) + day_s - u64::from(daily.from_s)) % day_s + 1
    });
    whole_s.min(daily_s)
}

fn within(field: &'static str, value: u32, from: u32, to: u32) -> Result<(), Error> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{field} is {value}; give {from} to {to}")))
}

fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count <= max {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{field} has {count} entries; at most {max} are allowed")))
}

fn validate_retry(retry: &Retry) -> Result<(), Error> {
    within("retry.interval_s", retry.interval_s, 0, INTERVAL_MAX_S)?;
    within("retry.jitter_s", retry.jitter_s, 0, INTERVAL_MAX_S)?;
    at_most("retry.codes", retry.codes.len(), RETRY_CODES_MAX)?;
    let Some(BackOff { factor_percent, interval_max_s }) = retry.back_off else { return Ok(()) };
    within("retry.back_off.factor", factor_percent, 100, 10_000)?;
    within("retry.back_off.interval_max_s", interval_max_s, retry.interval_s, INTERVAL_MAX_S)
}

fn validate_rate(rate: &Rate) -> Result<(), Error> {
    within("rate.per_minute", rate.per_minute, 1, u32::MAX)?;
    let Some(growth) = rate.growth else { return Ok(()) };
    within("rate.growth.factor", growth.factor_percent, 101, 10_000)?;
    within("rate.growth.after", growth.after, 1, u32::MAX)?;
    within("rate.growth.per_minute_max", growth.per_minute_max, rate.per_minute, u32::MAX)
}

fn validate_waves(waves: &[Wave]) -> Result<(), Error> {
    at_most("waves", waves.len(), WAVES_MAX)?;
    let mut percent = 0;
    for wave in waves {
        match wave.size {
            WaveSize::Percent(share) => {
                within("waves.percent", share.into(), 1, 100)?;
                percent += u32::from(share);
            }
            WaveSize::Count(count) => within("waves.count", count, 1, u32::MAX)?,
        }
        within("waves.success_percent", wave.success_percent.into(), 0, 100)?;
    }
    within("waves.percent", percent, 0, 100)
        .map_err(|_| Error::invalid("waves.percent", format!("the waves are {percent} percent in all; give at most 100")))
}

fn validate_thresholds(thresholds: &[Threshold]) -> Result<(), Error> {
    at_most("thresholds", thresholds.len(), THRESHOLDS_MAX)?;
    for threshold in thresholds {
        within("thresholds.percent", threshold.percent.into(), 1, 100)?;
        within("thresholds.minimum", threshold.minimum, 1, u32::MAX)?;
    }
    Ok(())
}
