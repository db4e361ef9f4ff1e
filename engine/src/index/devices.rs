//! Every device, found by its name without a lock.
//!
//! A device is kept under a 64-bit hash of its product and id, not under the id itself, which its row holds anyway: that saves a
//! third of the table's memory. Two names with one hash are told apart by the row; the second lies under the next number.

use crate::model::{Device, DeviceNumber, ProductNumber, Timestamp};
use crate::sync;
use crate::sync::atomic::{AtomicU64, Ordering};
use foldhash::fast::FixedState;
use foldhash::quality::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

type Map = sync::Map<u64, Option<Arc<Device>>, FixedState>;

/// Devices by name, and when each was last heard of.
#[derive(Debug)]
pub(crate) struct DeviceTable {
    /// `None` is the place of a device that is gone while another with the same hash lies behind it.
    map: Map,
    hasher: RandomState,
    seen: Box<[OnceLock<Box<[SeenCell]>>]>,
}

/// Cells that come together. A model has few of them.
const SEGMENT: usize = if cfg!(all(test, feature = "models")) { 4 } else { 1 << 16 };
const SEGMENTS: usize = if cfg!(all(test, feature = "models")) { 1 } else { u32::MAX as usize / SEGMENT + 1 };

impl DeviceTable {
    pub(crate) fn new() -> Self {
        // One place for each segment that there can be, a megabyte in all; the segments come when they are needed.
        let seen = (0..SEGMENTS).map(|_| OnceLock::new()).collect();
        Self { map: Map::default(), hasher: RandomState::default(), seen }
    }

    fn hash(&self, product: ProductNumber, id: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        product.0.hash(&mut hasher);
        id.hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn pin(&self) -> Pinned<'_> {
        Pinned { table: self, map: self.map.pin() }
    }

    /// Puts or replaces. Only the writer calls it.
    pub(crate) fn insert(&self, device: Arc<Device>) {
        let map = self.map.pin();
        let mut key = self.hash(device.product, &device.id);
        let mut free = None;
        loop {
            match map.get(&key) {
                Some(Some(there)) if there.product == device.product && there.id == device.id => break,
                Some(Some(_)) => {}
                Some(None) => free = free.or(Some(key)),
                None => {
                    key = free.unwrap_or(key);
                    break;
                }
            }
            key = key.wrapping_add(1);
        }
        map.insert(key, Some(device));
    }

    /// Only the writer calls it.
    pub(crate) fn remove(&self, product: ProductNumber, id: &str) {
        let map = self.map.pin();
        let mut key = self.hash(product, id);
        loop {
            match map.get(&key) {
                Some(Some(there)) if there.product == product && *there.id == *id => break,
                Some(_) => key = key.wrapping_add(1),
                None => return,
            }
        }
        if map.contains_key(&key.wrapping_add(1)) {
            map.insert(key, None);
        } else {
            map.remove(&key);
        }
    }

    /// When a device was last heard of, and whether it has marks.
    pub(crate) fn seen(&self, device: DeviceNumber) -> &SeenCell {
        let segment = self.seen[device.index() / SEGMENT].get_or_init(|| (0..SEGMENT).map(|_| SeenCell::default()).collect());
        &segment[device.index() % SEGMENT]
    }
}

pub(crate) struct Pinned<'a> {
    table: &'a DeviceTable,
    map: sync::MapRef<'a, u64, Option<Arc<Device>>, FixedState>,
}

impl Pinned<'_> {
    pub(crate) fn get(&self, product: ProductNumber, id: &str) -> Option<&Arc<Device>> {
        let mut key = self.table.hash(product, id);
        loop {
            match self.map.get(&key)? {
                Some(device) if device.product == product && *device.id == *id => return Some(device),
                _ => key = key.wrapping_add(1),
            }
        }
    }
}

/// The low 63 bits: the second in which the device was last heard of; the top bit: it has marks.
#[derive(Debug, Default)]
pub(crate) struct SeenCell(AtomicU64);

const HAS_MARKS: u64 = 1 << 63;

impl SeenCell {
    /// Writes at most once a second, so that a chatty device doesn't keep the cache line moving between cores.
    pub(crate) fn touch(&self, now: Timestamp) {
        let seconds = now.as_seconds() & !HAS_MARKS;
        let before = self.0.load(Ordering::Relaxed);
        if before & !HAS_MARKS < seconds {
            // Lost to another check or to the writer's flag: then somebody else has just written, which is as good.
            let _ = self.0.compare_exchange(before, before & HAS_MARKS | seconds, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn at(&self) -> Option<Timestamp> {
        let seconds = self.0.load(Ordering::Relaxed) & !HAS_MARKS;
        (seconds != 0).then(|| Timestamp::from_seconds(seconds))
    }

    /// Pairs with the release in `set_has_marks`: who sees the flag sees the marks.
    pub(crate) fn has_marks(&self) -> bool {
        self.0.load(Ordering::Acquire) & HAS_MARKS != 0
    }

    pub(crate) fn set_has_marks(&self, has_marks: bool) {
        if has_marks {
            self.0.fetch_or(HAS_MARKS, Ordering::Release);
        } else {
            self.0.fetch_and(!HAS_MARKS, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u32, id: &str) -> Arc<Device> {
        Arc::new(Device {
            number: DeviceNumber(number),
            product: ProductNumber(0),
            id: id.into(),
            components: Box::default(),
            created_at: Timestamp(0),
            details: None,
        })
    }

    #[test]
    fn a_device_is_found_until_it_is_removed() {
        let table = DeviceTable::new();
        for number in 0..1000 {
            table.insert(device(number, &format!("d{number}")));
        }
        table.remove(ProductNumber(0), "d7");
        table.remove(ProductNumber(0), "never there");
        for number in 0..1000 {
            let found = table.pin().get(ProductNumber(0), &format!("d{number}")).map(|device| device.number);
            assert_eq!(found, (number != 7).then_some(DeviceNumber(number)));
            assert!(table.pin().get(ProductNumber(1), &format!("d{number}")).is_none());
        }
    }

    #[test]
    fn names_that_share_a_hash_are_told_apart_also_after_one_is_removed() {
        let table = DeviceTable::new();
        let (first, second) = (device(1, "first"), device(2, "second"));
        // Lay `second` where a collision would have put it.
        let key = table.hash(ProductNumber(0), "second");
        table.map.pin().insert(key, Some(Arc::clone(&first)));
        table.insert(Arc::clone(&second));
        let find = |id: &str| table.pin().get(ProductNumber(0), id).map(|device| device.number);
        assert_eq!(find("second"), Some(DeviceNumber(2)));
        table.map.pin().insert(key, None);
        assert_eq!(find("second"), Some(DeviceNumber(2)));
        table.insert(second);
        assert_eq!(find("second"), Some(DeviceNumber(2)), "a free place before it doesn't make it twice");
        table.remove(ProductNumber(0), "second");
        assert_eq!(find("second"), None);
    }

    #[test]
    fn the_flag_and_the_time_do_not_disturb_each_other() {
        let cell = SeenCell::default();
        assert_eq!(cell.at(), None);
        cell.touch(Timestamp::from_seconds(5));
        cell.set_has_marks(true);
        cell.touch(Timestamp::from_seconds(9));
        cell.touch(Timestamp::from_seconds(7));
        assert!(cell.has_marks());
        assert_eq!(cell.at(), Some(Timestamp::from_seconds(9)));
        cell.set_has_marks(false);
        assert!(!cell.has_marks());
        assert_eq!(cell.at(), Some(Timestamp::from_seconds(9)));
    }
}
