//! What is known between calls, and gone after a restart: which encryptions an application has used, its token's text, which
//! firmware is being created, and what searches found.
//!
//! Invariants:
//!   - An application is remembered only once it has shown its secret, so there are never more than applications.
//!   - An encryption opens the token service once. What is forgotten of it (the oldest, when there are many) counts as used.
//!   - A token's text is here alone; the store has its hash. After a restart an application that asks gets another token, and the one
//!     before stays good until its end.

use crate::auth::IssuedToken;
use crate::dialect::common::result_sets::ResultSets;
use sluicegate::model::{AppId, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Far more often than an application needs a token within the minutes that its clock may be off.
const USES_REMEMBERED_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Memory {
    apps: Mutex<HashMap<AppId, AppMemory>>,
    creating: Mutex<HashSet<FirmwareName>>,
    /// What searches found whose further pages may be read.
    pub(super) searches: ResultSets,
}

#[derive(Debug, Default)]
struct AppMemory {
    used: BTreeSet<Timestamp>,
    /// This one and all before it count as used.
    used_until: Timestamp,
    token: TokenSlot,
}

/// The token that an application has now. Held locked while another is issued, so that two who ask together get the same.
pub(super) type TokenSlot = Arc<tokio::sync::Mutex<Option<IssuedToken>>>;

/// A version of a product, as its creator names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FirmwareName {
    pub(super) organization: Arc<str>,
    pub(super) product_id: String,
    pub(super) version: String,
}

impl Memory {
    /// Notes that the application used the encryption of this timestamp; `false` where it had before.
    pub(super) fn use_encryption(&self, app: &AppId, timestamp: Timestamp) -> bool {
        let mut apps = locked(&self.apps);
        let memory = apps.entry(Arc::clone(app)).or_default();
        if timestamp <= memory.used_until || !memory.used.insert(timestamp) {
            return false;
        }
        if memory.used.len() > USES_REMEMBERED_MAX
            && let Some(oldest) = memory.used.pop_first()
        {
            memory.used_until = oldest;
        }
        true
    }

    pub(super) fn token(&self, app: &AppId) -> TokenSlot {
        Arc::clone(&locked(&self.apps).entry(Arc::clone(app)).or_default().token)
    }

    /// Takes the name for a firmware that is being created, until the claim is dropped. `None`: another call has it.
    pub(super) fn claim(&self, name: FirmwareName) -> Option<Claim<'_>> {
        locked(&self.creating).insert(name.clone()).then(|| Claim { memory: self, name })
    }
}

/// The right to create one firmware.
#[derive(Debug)]
#[must_use = "a claim that isn't held claims nothing"]
pub(super) struct Claim<'a> {
    memory: &'a Memory,
    name: FirmwareName,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        locked(&self.memory.creating).remove(&self.name);
    }
}

/// Nothing that holds one of these locks leaves its table half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encryption_is_used_once_by_each_application() {
        let memory = Memory::default();
        let (a, b): (AppId, AppId) = ("a".into(), "b".into());
        assert!(memory.use_encryption(&a, Timestamp(5)));
        assert!(!memory.use_encryption(&a, Timestamp(5)));
        assert!(memory.use_encryption(&b, Timestamp(5)));
        assert!(memory.use_encryption(&a, Timestamp(4)), "clients' clocks differ: an older one is not a used one");
    }

    #[test]
    fn what_is_forgotten_counts_as_used() {
        let memory = Memory::default();
        let app: AppId = "a".into();
        for timestamp in 1..=USES_REMEMBERED_MAX as u64 + 10 {
            assert!(memory.use_encryption(&app, Timestamp(timestamp)));
        }
        for timestamp in [1, 10, 11, USES_REMEMBERED_MAX as u64] {
            assert!(!memory.use_encryption(&app, Timestamp(timestamp)), "{timestamp}");
        }
        assert_eq!(locked(&memory.apps)[&app].used.len(), USES_REMEMBERED_MAX);
    }

    #[test]
    fn a_firmware_is_claimed_by_one_call_at_a_time() {
        let memory = Memory::default();
        let name = |version: &str| FirmwareName { organization: "o".into(), product_id: "p".into(), version: version.into() };
        let first = memory.claim(name("1"));
        assert!(first.is_some());
        assert!(memory.claim(name("1")).is_none());
        assert!(memory.claim(name("2")).is_some());
        drop(first);
        assert!(memory.claim(name("1")).is_some());
    }
}
