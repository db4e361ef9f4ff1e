//! What a search found, kept while its pages are read.
//!
//! A search by page number over rows that change would show some rows twice and others never: whatever joins or leaves the result moves
//! all that comes after. So the first page freezes *which* rows were found, and further pages of the same search are cut from that. What a
//! row says is read when its page is shown; a row that is gone by then is left out of its page, and moves no other.
//!
//! Several readers may page through the same search at the same time, and a page number alone doesn't tell whose it is. So each first page
//! makes a *generation* of its own, beside those that others are reading, and a further page goes on with the generation whose turn it is:
//!
//! ```text
//! page n > 1 of size s ─┬─▶ one of size s that has come to page n - 1    the first that waits goes on first
//!                       ├─▶ one of size s that is past page n - 1        the request is repeated
//!                       └─▶ the newest
//! ```
//!
//! Of several that fit, those that the same address read last come before others, and those that nobody has gone on with for
//! [`WAITING_S_MAX`] come last, the newest of them first: a first page that somebody looked at and left must not answer for others' second.
//! Readers from one address who interleave pages of one size are told apart by their order alone.
//!
//! Life cycle of a generation: 1. a first page makes it; 2. further pages use it, and each use lengthens its life; 3. it goes once nobody
//! has used it for [`IDLE_S_MAX`], at the age of [`AGE_S_MAX`], or when room is needed. Room is made by what nobody reads on: first
//! pages alone, and what was read to its end; only then by what has waited longest. A page whose generation is gone searches anew:
//! nobody is refused for having read slowly.
//!
//! Bounds: at most [`GENERATIONS_MAX`] of one search, [`ENTRIES_MAX`] and [`BYTES_MAX`] bytes of all; what is larger on its own is not kept.

use roaring::RoaringBitmap;
use sluicegate::model::{AppId, Timestamp, TokenId};
use std::cmp::Reverse;
use std::mem::size_of;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Readers of one and the same search who don't disturb each other.
const GENERATIONS_MAX: usize = 8;
/// Searches whose further pages are being read at the same time.
const ENTRIES_MAX: usize = 256;
/// A set of a million devices takes some 125 kB where they are dense, 2 MB where they lie far apart.
const BYTES_MAX: usize = 64 << 20;
/// Longer than anybody looks at a page; short enough that what is kept is what is being read.
const IDLE_S_MAX: u64 = 600;
/// However busily it is read: what was found then says little of now.
const AGE_S_MAX: u64 = 1_800;
/// A program that reads on has done so by then.
const WAITING_S_MAX: u64 = 60;

/// Which search, and whose. Callers who may see different things never share a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchKey {
    pub searcher: Searcher,
    pub organization: Arc<str>,
    /// To which the caller is bound.
    pub product_id: Option<Arc<str>>,
    /// Which of the searches.
    pub call: &'static str,
    /// What was searched for, as it was written.
    pub question: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Searcher {
    /// Whichever of its tokens: one may take the place of another between two pages.
    App(AppId),
    Token(TokenId),
    /// By the administrator's own token.
    Administrator,
}

/// Which page is read, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// From 1.
    pub number: u64,
    /// Rows of each page.
    pub size: u64,
    pub address: IpAddr,
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

/// There are few generations, and a search costs far more than looking at each.
#[derive(Debug, Default)]
struct Kept {
    /// The newest last.
    generations: Vec<Generation>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Generation {
    key: SearchKey,
    set: Arc<ResultSet>,
    bytes: usize,
    made_at: Timestamp,
    used_at: Timestamp,
    /// Which use of all it was: tells the order within one moment.
    last_use: u64,
    page_size: u64,
    /// The last page that was read, in order.
    page_reached: u64,
    /// Where that was read from.
    address: IpAddr,
}

impl ResultSets {
    /// What the search found when the first page of this reader was read, as far as can be told, if that is still kept.
    pub fn get(&self, key: &SearchKey, page: PageRead, now: Timestamp) -> Option<Arc<ResultSet>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drop_old(now);
        kept.uses += 1;
        let last_use = kept.uses;
        let at = kept.generation_of(key, page, now)?;
        let generation = kept.generations.get_mut(at)?;
        generation.used_at = generation.used_at.max(now);
        if generation.page_size == page.size {
            generation.last_use = last_use;
            generation.page_reached = generation.page_reached.max(page.number);
            generation.address = page.address;
        }
        Some(Arc::clone(&generation.set))
    }

    /// Keeps what the search found now, beside what others read on.
    pub fn put(&self, key: SearchKey, page: PageRead, set: Arc<ResultSet>, now: Timestamp) {
        let bytes = set.size_bytes() + size_of::<Generation>() + key.question.len();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drop_old(now);
        if bytes > BYTES_MAX {
            return;
        }
        while kept.generations.iter().filter(|generation| generation.key == key).count() >= GENERATIONS_MAX {
            kept.make_room(|generation| generation.key == key);
        }
        while kept.generations.len() >= ENTRIES_MAX || kept.bytes + bytes > BYTES_MAX {
            kept.make_room(|_| true);
        }
        kept.bytes += bytes;
        kept.uses += 1;
        let last_use = kept.uses;
        let PageRead { number: page_reached, size: page_size, address } = page;
        let generation = Generation { key, set, bytes, made_at: now, used_at: now, last_use, page_size, page_reached, address };
        kept.generations.push(generation);
    }
}

impl Kept {
    /// Whose turn it is.
    fn generation_of(&self, key: &SearchKey, page: PageRead, now: Timestamp) -> Option<usize> {
        let own = || self.generations.iter().enumerate().filter(|(_, generation)| generation.key == *key);
        let of_size = || own().filter(|(_, generation)| generation.page_size == page.size);
        let fitting = of_size().filter(|(_, generation)| generation.page_reached + 1 >= page.number);
        let turn = |generation: &Generation| {
            let is_elsewhere = generation.address != page.address;
            let is_repeated = generation.page_reached >= page.number;
            let is_left = generation.used_at.plus_seconds(WAITING_S_MAX) < now;
            if is_repeated {
                // Most likely of the one who was here last.
                (is_elsewhere, is_repeated, generation.page_reached, Reverse(generation.last_use), 0)
            } else if is_left {
                (is_elsewhere, is_repeated, 1, Reverse(generation.last_use), 0)
            } else {
                (is_elsewhere, is_repeated, 0, Reverse(0), generation.last_use)
            }
        };
        let next = fitting.min_by_key(|(_, generation)| turn(generation));
        let found = next.or_else(|| of_size().next_back()).or_else(|| own().next_back());
        found.map(|(at, _)| at)
    }

    /// Drops the one of these that will be missed least.
    fn make_room(&mut self, mut of: impl FnMut(&Generation) -> bool) {
        let candidates = self.generations.iter().enumerate().filter(|(_, generation)| of(generation));
        let least = candidates.min_by_key(|(_, generation)| (generation.is_read_on(), generation.last_use)).map(|(at, _)| at);
        if let Some(at) = least {
            self.bytes -= self.generations.remove(at).bytes;
        }
    }

    fn drop_old(&mut self, now: Timestamp) {
        let mut freed = 0;
        self.generations.retain(|generation| {
            let is_idle = generation.used_at.plus_seconds(IDLE_S_MAX) <= now;
            let is_old = is_idle || generation.made_at.plus_seconds(AGE_S_MAX) <= now;
            freed += if is_old { generation.bytes } else { 0 };
            !is_old
        });
        self.bytes -= freed;
    }
}

impl Generation {
    /// Somebody came to a second page, and not yet to the last.
    fn is_read_on(&self) -> bool {
        self.page_reached > 1 && self.page_reached.saturating_mul(self.page_size) < self.set.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn key(question: &str) -> SearchKey {
        let searcher = Searcher::Administrator;
        SearchKey { searcher, organization: "default".into(), product_id: None, call: "devices", question: question.into() }
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

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    const fn page(number: u64) -> PageRead {
        PageRead { number, size: 2, address: HERE }
    }

    /// Of which generation the page is: each is told by its first row.
    fn read(sets: &ResultSets, page: PageRead, now: Timestamp) -> Option<u32> {
        sets.get(&key("a"), page, now).map(|set| set.page(0, 1)[0].number)
    }

    /// Five pages of two rows; `name` is the first row.
    fn begin(sets: &ResultSets, name: u32, now: Timestamp) {
        sets.put(key("a"), page(1), set(name..name + 10), now);
    }

    #[test]
    fn a_set_is_found_by_its_own_search_and_caller_alone() {
        let sets = ResultSets::default();
        let own = SearchKey { searcher: Searcher::App("pumps".into()), ..key("a") };
        sets.put(own.clone(), page(1), set([1, 2, 3]), NOW);
        assert_eq!(sets.get(&own, page(2), NOW).unwrap().count(), 3);
        for other in [
            SearchKey { searcher: Searcher::App("valves".into()), ..own.clone() },
            SearchKey { searcher: Searcher::Token(TokenId(1)), ..own.clone() },
            SearchKey { searcher: Searcher::Administrator, ..own.clone() },
            SearchKey { organization: "other".into(), ..own.clone() },
            SearchKey { product_id: Some("pump".into()), ..own.clone() },
            SearchKey { call: "jobs", ..own.clone() },
            SearchKey { question: "b".into(), ..own.clone() },
        ] {
            assert!(sets.get(&other, page(2), NOW).is_none(), "{other:?}");
        }
    }

    #[test]
    fn two_readers_of_one_search_each_go_on_with_their_own() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        assert_eq!(read(&sets, page(2), NOW), Some(100));
        begin(&sets, 200, NOW);
        // One is ahead of the other by a page, however the two interleave.
        assert_eq!(read(&sets, page(3), NOW), Some(100));
        assert_eq!(read(&sets, page(2), NOW), Some(200));
        assert_eq!(read(&sets, page(4), NOW), Some(100));
        assert_eq!(read(&sets, page(5), NOW), Some(100));
        assert_eq!(read(&sets, page(3), NOW), Some(200));
    }

    #[test]
    fn readers_in_step_go_on_in_the_order_in_which_they_came() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        begin(&sets, 200, NOW);
        for number in 2..=5 {
            assert_eq!(read(&sets, page(number), NOW), Some(100), "page {number}");
            assert_eq!(read(&sets, page(number), NOW), Some(200), "page {number}");
        }
    }

    #[test]
    fn readers_from_two_addresses_are_told_apart_in_whatever_order_they_come() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        let there = |number| PageRead { address: THERE, ..page(number) };
        sets.put(key("a"), there(1), set(200..210), NOW);
        assert_eq!(read(&sets, there(2), NOW), Some(200));
        assert_eq!(read(&sets, page(2), NOW), Some(100));
        assert_eq!(read(&sets, there(3), NOW), Some(200));
        assert_eq!(read(&sets, there(3), NOW), Some(200), "repeated");
        assert_eq!(read(&sets, page(3), NOW), Some(100));
    }

    #[test]
    fn a_first_page_that_was_left_does_not_answer_for_anothers_second() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        let later = NOW.plus_seconds(WAITING_S_MAX + 1);
        begin(&sets, 200, later);
        assert_eq!(read(&sets, page(2), later), Some(200));
        assert_eq!(read(&sets, page(2), later), Some(100), "a slow reader still finds its own");
    }

    #[test]
    fn a_page_that_is_asked_for_again_is_cut_from_the_same() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        assert_eq!(read(&sets, page(2), NOW), Some(100));
        assert_eq!(read(&sets, page(3), NOW), Some(100));
        begin(&sets, 200, NOW);
        assert_eq!(read(&sets, page(3), NOW), Some(100), "repeated");
        assert_eq!(read(&sets, page(4), NOW), Some(100));
        assert_eq!(read(&sets, page(2), NOW), Some(200));
    }

    #[test]
    fn a_page_that_nobody_comes_to_in_order_is_cut_from_the_newest() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        begin(&sets, 200, NOW);
        assert_eq!(read(&sets, page(4), NOW), Some(200));
        let of_another_size = PageRead { size: 3, ..page(2) };
        assert_eq!(read(&sets, of_another_size, NOW), Some(200));
        assert_eq!(read(&sets, page(5), NOW), Some(200), "which is where it was");
    }

    #[test]
    fn a_generation_lives_as_long_as_it_is_used_but_not_for_ever() {
        let sets = ResultSets::default();
        let at = |seconds| NOW.plus_seconds(seconds);
        begin(&sets, 100, NOW);
        assert!(read(&sets, page(2), at(IDLE_S_MAX - 1)).is_some());
        assert!(read(&sets, page(3), at(2 * IDLE_S_MAX - 2)).is_some());
        assert!(read(&sets, page(4), at(3 * IDLE_S_MAX - 2)).is_none(), "nobody used it");
        assert_eq!(sets.kept.lock().unwrap().bytes, 0);
        begin(&sets, 100, NOW);
        for number in 2..=4 {
            assert!(read(&sets, page(number), at((number - 1) * (IDLE_S_MAX - 1))).is_some());
        }
        assert!(read(&sets, page(5), at(AGE_S_MAX)).is_none(), "it is old");
        assert_eq!(sets.kept.lock().unwrap().bytes, 0);
    }

    #[test]
    fn first_pages_without_end_do_not_push_out_what_is_being_read() {
        let sets = ResultSets::default();
        begin(&sets, 100, NOW);
        assert_eq!(read(&sets, page(2), NOW), Some(100));
        for name in 0..2 * GENERATIONS_MAX as u32 {
            begin(&sets, 200 + name, NOW);
        }
        for number in 0..2 * ENTRIES_MAX {
            sets.put(key(&format!("b{number}")), page(1), set(0..10), NOW);
        }
        assert_eq!(read(&sets, page(3), NOW), Some(100));
        let kept = sets.kept.lock().unwrap();
        assert_eq!(kept.generations.len(), ENTRIES_MAX);
    }

    #[test]
    fn generations_of_one_search_are_bounded_and_the_last_used_one_stays_longest() {
        let sets = ResultSets::default();
        for name in 0..GENERATIONS_MAX as u32 {
            begin(&sets, 100 + name, NOW);
            assert_eq!(read(&sets, page(2), NOW), Some(100 + name), "all of them are read on");
        }
        begin(&sets, 200, NOW);
        let names = |kept: &Kept| -> Vec<u32> { kept.generations.iter().map(|one| one.set.page(0, 1)[0].number).collect() };
        assert_eq!(names(&sets.kept.lock().unwrap()), [101, 102, 103, 104, 105, 106, 107, 200]);
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let sets = ResultSets::default();
        // Every other row of 2^25: no run to shorten, some 4 MB each.
        let large = set((0..1 << 25).step_by(2));
        for number in 0..40 {
            sets.put(key(&number.to_string()), page(1), Arc::clone(&large), NOW.plus_seconds(number));
            let kept = sets.kept.lock().unwrap();
            assert!(kept.bytes <= BYTES_MAX);
            assert_eq!(kept.bytes, kept.generations.iter().map(|generation| generation.bytes).sum::<usize>());
        }
        assert!(sets.get(&key("39"), page(2), NOW.plus_seconds(40)).is_some());
        assert!(sets.get(&key("0"), page(2), NOW.plus_seconds(40)).is_none());
    }
}
