//! What a search found, kept while its pages are read.
//!
//! A search by page number over rows that change would show some rows twice and others never: whatever joins or leaves the result moves
//! all that comes after. So the first page freezes *which* rows were found, and further pages of the same search are cut from that. What a
//! row says is read when its page is shown; a row that is gone by then is left out of its page, and moves no other.
//!
//! Life cycle of a kept set: 1. the first page puts it there, in place of an older one; 2. further pages use it, and each use
//! lengthens its life; 3. it goes once nobody has used it for [`IDLE_S_MAX`], or when room is needed and others were used later. A page whose
//! set is gone searches anew: nobody is refused for having read slowly.
//!
//! Bounds: at most [`ENTRIES_MAX`] sets and [`BYTES_MAX`] bytes; a set that is larger on its own is not kept.

use roaring::RoaringBitmap;
use sluicegate::model::{Timestamp, TokenId};
use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, PoisonError};

/// Searches whose further pages are being read at the same time.
const ENTRIES_MAX: usize = 256;
/// A set of a million devices takes some 125 kB where they are dense, 2 MB where they lie far apart.
const BYTES_MAX: usize = 64 << 20;
/// Longer than anybody looks at a page; short enough that what is kept is what is being read.
const IDLE_S_MAX: u64 = 600;

/// Which search, and whose. Two callers never share a set: what each may see differs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SearchKey {
    /// Absent for the administrator's own token.
    pub token: Option<TokenId>,
    pub organization: Arc<str>,
    /// Which of the searches.
    pub call: &'static str,
    /// What was searched for, as it was written.
    pub question: String,
}

/// The rows that were found, in the order in which they are shown.
#[derive(Debug, Default)]
pub struct ResultSet {
    parts: Vec<Part>,
    order: Order,
    count: u64,
}

/// The rows of one group: the upgrades of a task are known by its number and the device's. Where rows have one number only, there is
/// one part, and its group is 0.
#[derive(Debug)]
struct Part {
    group: u32,
    rows: RoaringBitmap,
}

/// In which order the rows of a part are shown. Parts are shown as they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Ascending,
    /// Larger numbers were made later.
    NewestFirst,
}

/// A row of a result: its group and its number in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub group: u32,
    pub number: u32,
}

impl ResultSet {
    pub fn new(order: Order, groups: impl IntoIterator<Item = (u32, RoaringBitmap)>) -> Self {
        let parts: Vec<Part> =
            groups.into_iter().filter(|(_, rows)| !rows.is_empty()).map(|(group, rows)| Part { group, rows }).collect();
        let count = parts.iter().map(|part| part.rows.len()).sum();
        Self { parts, order, count }
    }

    /// A result whose rows have one number.
    pub fn of(order: Order, rows: RoaringBitmap) -> Self {
        Self::new(order, [(0, rows)])
    }

    /// How many rows were found.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Up to `limit` rows after the first `offset` ones.
    pub fn page(&self, offset: u64, limit: usize) -> Vec<Found> {
        let mut page = Vec::new();
        let mut skip = offset;
        for part in &self.parts {
            let length = part.rows.len();
            if skip >= length {
                skip -= length;
                continue;
            }
            let places = (skip..length).take(limit - page.len());
            let place = |place| match self.order {
                Order::Ascending => place,
                Order::NewestFirst => length - 1 - place,
            };
            // A bitmap holds 2^32 rows at most, so every place fits.
            let rows = places.filter_map(|at| part.rows.select(u32::try_from(place(at)).ok()?));
            page.extend(rows.map(|number| Found { group: part.group, number }));
            skip = 0;
            if page.len() == limit {
                break;
            }
        }
        page
    }

    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.parts.iter().map(|part| size_of::<Part>() + part.rows.serialized_size()).sum::<usize>()
    }
}

/// The sets that are kept. One for the server.
#[derive(Debug, Default)]
pub struct ResultSets {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<SearchKey, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    set: Arc<ResultSet>,
    bytes: usize,
    used_at: Timestamp,
}

impl ResultSets {
    /// What the search found when its first page was read, if that is still kept.
    pub fn get(&self, key: &SearchKey, now: Timestamp) -> Option<Arc<ResultSet>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drop_idle(now);
        let entry = kept.entries.get_mut(key)?;
        entry.used_at = entry.used_at.max(now);
        Some(Arc::clone(&entry.set))
    }

    /// Keeps what the search found now, in place of what it found before.
    pub fn put(&self, key: SearchKey, set: Arc<ResultSet>, now: Timestamp) {
        let bytes = set.size_bytes() + size_of::<(SearchKey, Entry)>() + key.question.len();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drop_idle(now);
        kept.remove(&key);
        if bytes > BYTES_MAX {
            return;
        }
        while kept.entries.len() >= ENTRIES_MAX || kept.bytes + bytes > BYTES_MAX {
            // There are few entries, and a search costs far more than looking at each.
            let Some(oldest) = kept.entries.iter().min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| key.clone()) else {
                break;
            };
            kept.remove(&oldest);
        }
        kept.bytes += bytes;
        kept.entries.insert(key, Entry { set, bytes, used_at: now });
    }

    /// For a search that now fits on its first page: what it found before must not answer for a later one.
    pub fn forget(&self, key: &SearchKey) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Kept {
    fn remove(&mut self, key: &SearchKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    fn drop_idle(&mut self, now: Timestamp) {
        let mut freed = 0;
        self.entries.retain(|_, entry| {
            let is_idle = entry.used_at.plus_seconds(IDLE_S_MAX) <= now;
            freed += if is_idle { entry.bytes } else { 0 };
            !is_idle
        });
        self.bytes -= freed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn key(question: &str) -> SearchKey {
        SearchKey { token: None, organization: "default".into(), call: "devices", question: question.into() }
    }

    fn set(rows: impl IntoIterator<Item = u32>) -> Arc<ResultSet> {
        Arc::new(ResultSet::of(Order::Ascending, rows.into_iter().collect()))
    }

    fn numbers(set: &ResultSet, offset: u64, limit: usize) -> Vec<(u32, u32)> {
        set.page(offset, limit).into_iter().map(|found| (found.group, found.number)).collect()
    }

    #[test]
    fn pages_cover_every_row_once_and_in_order() {
        for order in [Order::Ascending, Order::NewestFirst] {
            let groups = [(9, vec![5, 70_000, 6]), (8, vec![]), (7, vec![1]), (3, (0..10).collect())];
            let set = ResultSet::new(order, groups.iter().map(|(group, rows)| (*group, rows.iter().copied().collect())));
            assert_eq!(set.count(), 14);
            let whole = numbers(&set, 0, 100);
            assert_eq!(whole.len(), 14);
            let first = if order == Order::Ascending { [(9, 5), (9, 6), (9, 70_000)] } else { [(9, 70_000), (9, 6), (9, 5)] };
            assert_eq!(whole[..3], first);
            for limit in 1..=14 {
                let pages: Vec<(u32, u32)> =
                    (0..14_u64.div_ceil(limit)).flat_map(|page| numbers(&set, page * limit, limit as usize)).collect();
                assert_eq!(pages, whole, "pages of {limit}");
            }
            assert_eq!(numbers(&set, 14, 5), []);
            assert_eq!(numbers(&set, u64::MAX, 5), []);
        }
    }

    #[test]
    fn a_set_is_found_by_its_own_search_and_caller_alone() {
        let sets = ResultSets::default();
        sets.put(key("a"), set([1, 2]), NOW);
        assert_eq!(sets.get(&key("a"), NOW).unwrap().count(), 2);
        assert!(sets.get(&key("b"), NOW).is_none());
        assert!(sets.get(&SearchKey { token: Some(TokenId(1)), ..key("a") }, NOW).is_none());
        assert!(sets.get(&SearchKey { organization: "other".into(), ..key("a") }, NOW).is_none());
        sets.put(key("a"), set([1, 2, 3]), NOW);
        assert_eq!(sets.get(&key("a"), NOW).unwrap().count(), 3, "the first page freezes anew");
        sets.forget(&key("a"));
        assert!(sets.get(&key("a"), NOW).is_none());
        assert_eq!(sets.kept.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_set_lives_as_long_as_it_is_used() {
        let sets = ResultSets::default();
        sets.put(key("a"), set([1]), NOW);
        let later = NOW.plus_seconds(IDLE_S_MAX - 1);
        assert!(sets.get(&key("a"), later).is_some());
        assert!(sets.get(&key("a"), later.plus_seconds(IDLE_S_MAX - 1)).is_some());
        assert!(sets.get(&key("a"), later.plus_seconds(2 * IDLE_S_MAX)).is_none());
        assert_eq!(sets.kept.lock().unwrap().bytes, 0);
    }

    #[test]
    fn the_least_used_set_makes_room() {
        let sets = ResultSets::default();
        for number in 0..ENTRIES_MAX {
            sets.put(key(&number.to_string()), set([1]), NOW.plus_seconds(number as u64 / 100));
        }
        assert!(sets.get(&key("0"), NOW.plus_seconds(10)).is_some());
        sets.put(key("one more"), set([1]), NOW.plus_seconds(10));
        let kept = sets.kept.lock().unwrap();
        assert_eq!(kept.entries.len(), ENTRIES_MAX);
        assert!(kept.entries.contains_key(&key("0")) && kept.entries.contains_key(&key("one more")));
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let sets = ResultSets::default();
        // Every other row of 2^25: no run to shorten, some 4 MB each.
        let large = set((0..1 << 25).step_by(2));
        for number in 0..40 {
            sets.put(key(&number.to_string()), Arc::clone(&large), NOW.plus_seconds(number));
            let kept = sets.kept.lock().unwrap();
            assert!(kept.bytes <= BYTES_MAX);
            assert_eq!(kept.bytes, kept.entries.values().map(|entry| entry.bytes).sum::<usize>());
        }
        assert!(sets.get(&key("39"), NOW.plus_seconds(40)).is_some());
        assert!(sets.get(&key("0"), NOW.plus_seconds(40)).is_none());
    }
}
