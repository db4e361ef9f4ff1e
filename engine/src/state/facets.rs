//! Which devices of one product an operator tells the same of, as sets of device numbers: so a scope or a search is a few unions
//! and intersections, however large the fleet, and no device's row is looked at.
//!
//! Everything that is told of a device is broken into *names*: a tag with its value, a group, a node of an asset tree. One sorted
//! map leads from each name to the devices that bear it. What a selector matches is defined by
//! [`CompiledScope::contains`](crate::rollout::CompiledScope::contains); here is the same answer for all devices at once.
//!
//! Invariants:
//! - A device is in the set of a name exactly while it is inserted with details that give it that name.
//! - No set is empty: what nobody bears any more costs nothing. Nor does a device without details.
//! - [`Facets::remove`] undoes [`Facets::insert`] of the same row: both walk the same names. Each may be called again and changes
//!   nothing then. So no counts are kept for a node that several of a device's paths share, or a group that is listed twice.
//!
//! Life cycle: 1. a device is inserted with its row   2. it is removed with the row before, and inserted with the new one, when
//! what is told of it changes (a row that changes in its versions alone need not be)   3. it is removed with its last row.
//!
//! What it costs, measured with a million devices of one product, as the allocator hands it out:
//!
//! | told of each device | bytes a device |
//! |---|---|
//! | nothing | 0 |
//! | three tags, of 2, 4 and 10 values | 2 |
//! | a group, one of a thousand, with model, manufacturer and type | 5 |
//! | a path of three parts, to one of a thousand nodes | 7 |
//! | a tag that three devices share | 28 |
//! | a tag that five devices share, their numbers far apart | 95: the worst of small sets |
//! | an attribute of its own, 25 bytes with its key | 85 in random order, 99 in sorted |
//! | a node of its own below a shared one | 102 |
//!
//! A name of its own costs some 50 to 65 bytes in the map, and its text. The key is repeated with each value, so that a key that
//! only one device has costs no map of its own. A selector costs one look-up for each value or node that it names, about 1.3 µs
//! among a million names: a scope of 100,000 unique values takes some 130 ms.
//!
//! A sorted map and not a hash table: growing never moves it whole, which would keep the one writer from everything else.

use crate::model::{AssetTree, Device, DeviceDetails, Selector};
use roaring::{MultiOps, RoaringBitmap};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Finds the devices of one product by what operators tell of them.
#[derive(Debug, Default)]
pub(super) struct Facets {
    sets: BTreeMap<Name, DeviceSet>,
}

impl Facets {
    pub(super) fn insert(&mut self, device: &Device) {
        for name in names(device.details()) {
            self.sets.entry(name).or_default().insert(device.number.0);
        }
    }

    /// `device`: the row it was inserted with.
    pub(super) fn remove(&mut self, device: &Device) {
        for name in names(device.details()) {
            let Some(set) = self.sets.get_mut(&name) else { continue };
            set.remove(device.number.0);
            if set.is_empty() {
                self.sets.remove(&name);
            }
        }
    }

    /// The devices that a selector matches. Absent where it doesn't select by what is told of a device: `Total`, `Devices`, and
    /// attributes or tags without any key, which every device matches.
    pub(super) fn select(&self, selector: &Selector) -> Option<Cow<'_, RoaringBitmap>> {
        match selector {
            Selector::Total | Selector::Devices(_) => None,
            Selector::Attributes(wanted) => self.with_all(Facet::Attribute, wanted),
            Selector::Tags(wanted) => self.with_all(Facet::Tag, wanted),
            Selector::Groups(groups) => Some(self.with_any(groups.iter().map(|group| Name::word(Facet::Group, group)))),
            Selector::AssetTrees(trees) => Some(self.with_any(trees.iter().flat_map(names_of_tree))),
        }
    }

    pub(super) fn with_model(&self, model: &str) -> Cow<'_, RoaringBitmap> {
        self.with_any([Name::word(Facet::Model, model)])
    }

    pub(super) fn with_manufacturer(&self, manufacturer: &str) -> Cow<'_, RoaringBitmap> {
        self.with_any([Name::word(Facet::Manufacturer, manufacturer)])
    }

    pub(super) fn with_device_type(&self, device_type: &str) -> Cow<'_, RoaringBitmap> {
        self.with_any([Name::word(Facet::DeviceType, device_type)])
    }

    /// For each wanted key, one of the wanted values.
    fn with_all(&self, facet: Facet, wanted: &BTreeMap<Box<str>, Vec<Box<str>>>) -> Option<Cow<'_, RoaringBitmap>> {
        let by_key = wanted.iter().map(|(key, values)| self.with_any(values.iter().map(|value| Name::pair(facet, key, value))));
        by_key.reduce(|all, devices| Cow::Owned(&*all & &*devices))
    }

    fn with_any(&self, names: impl IntoIterator<Item = Name>) -> Cow<'_, RoaringBitmap> {
        let (mut few, mut many) = (Vec::new(), Vec::new());
        for set in names.into_iter().filter_map(|name| self.sets.get(&name)) {
            match set {
                DeviceSet::Few { count, numbers } => few.extend_from_slice(&numbers[..usize::from(*count)]),
                DeviceSet::Many(bitmap) => many.push(&**bitmap),
            }
        }
        if let ([bitmap], []) = (&many[..], &few[..]) {
            return Cow::Borrowed(bitmap);
        }
        let mut all = many.union();
        // In order, so that neighbours fall into the same part of the bitmap.
        few.sort_unstable();
        all.extend(few);
        Cow::Owned(all)
    }
}

/// What a name speaks of: its first byte.
#[derive(Clone, Copy, Debug)]
enum Facet {
    Attribute,
    Tag,
    Group,
    AssetTree,
    AssetNode,
    Model,
    Manufacturer,
    DeviceType,
}

/// One thing that can be told of a device: the facet, then one or two texts with a byte between them that is in no text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(Box<[u8]>);

impl Name {
    /// UTF-8 never has this byte, so no two pairs of texts make the same name.
    const SEPARATOR: u8 = 0xff;

    fn word(facet: Facet, word: &str) -> Self {
        Self([&[facet as u8], word.as_bytes()].concat().into())
    }

    fn pair(facet: Facet, key: &str, value: &str) -> Self {
        Self([&[facet as u8], key.as_bytes(), &[Self::SEPARATOR], value.as_bytes()].concat().into())
    }
}

/// Everything that is told of a device. The same name may come twice.
fn names(details: &DeviceDetails) -> impl Iterator<Item = Name> {
    let attributes = details.attributes.iter().map(|(key, value)| Name::pair(Facet::Attribute, key, value));
    let tags = details.tags.iter().map(|(key, value)| Name::pair(Facet::Tag, key, value));
    let groups = details.groups.iter().map(|group| Name::word(Facet::Group, group));
    let places = details.asset_nodes.iter().flat_map(|path| names_of_path(path));
    let words =
        [(Facet::Model, &details.model), (Facet::Manufacturer, &details.manufacturer), (Facet::DeviceType, &details.device_type)];
    let words = words.into_iter().filter_map(|(facet, word)| word.as_deref().map(|word| Name::word(facet, word)));
    attributes.chain(tags).chain(groups).chain(places).chain(words)
}

/// The tree, and every node that a path `tree/node/child` goes through: to name any of them is to select what is below it.
fn names_of_path(path: &str) -> impl Iterator<Item = Name> {
    let (tree, nodes) = path.split_once('/').map_or((path, None), |(tree, nodes)| (tree, Some(nodes)));
    let nodes = nodes.into_iter().flat_map(|nodes| nodes.split('/'));
    std::iter::once(Name::word(Facet::AssetTree, tree)).chain(nodes.map(move |node| Name::pair(Facet::AssetNode, tree, node)))
}

/// What a device bears one of if it is in the tree, or in one of its nodes where some are named.
fn names_of_tree(AssetTree { tree, nodes }: &AssetTree) -> impl Iterator<Item = Name> {
    let whole = nodes.is_empty().then(|| Name::word(Facet::AssetTree, tree));
    whole.into_iter().chain(nodes.iter().map(|node| Name::pair(Facet::AssetNode, tree, node)))
}

/// The devices that bear a name.
///
/// Values that hardly two devices share are common (serial numbers, places), and a bitmap of one device takes some 200 bytes. So
/// the first three are kept in place, where the pointer to a bitmap would be.
#[derive(Debug)]
enum DeviceSet {
    /// The first `count` of `numbers`, in no order.
    Few { count: u8, numbers: [u32; FEW_MAX] },
    /// More than [`FEW_MAX`].
    Many(Box<RoaringBitmap>),
}

/// As many as leave a set no larger than what a pointer needs beside the tag.
const FEW_MAX: usize = 3;
const _: () = assert!(size_of::<DeviceSet>() == 16);

impl DeviceSet {
    fn insert(&mut self, number: u32) {
        match self {
            Self::Many(bitmap) => {
                bitmap.insert(number);
            }
            Self::Few { count, numbers } => {
                let used = usize::from(*count);
                if numbers[..used].contains(&number) {
                    return;
                }
                match numbers.get_mut(used) {
                    Some(free) => {
                        *free = number;
                        *count += 1;
                    }
                    None => *self = Self::Many(Box::new(numbers.iter().copied().chain([number]).collect())),
                }
            }
        }
    }

    fn remove(&mut self, number: u32) {
        match self {
            Self::Many(bitmap) => {
                if bitmap.remove(number) && bitmap.len() == FEW_MAX as u64 {
                    let rest = bitmap.iter().collect::<Vec<u32>>();
                    let mut few = Self::default();
                    rest.into_iter().for_each(|number| few.insert(number));
                    *self = few;
                }
            }
            Self::Few { count, numbers } => {
                let used = usize::from(*count);
                if let Some(place) = numbers[..used].iter().position(|own| *own == number) {
                    numbers[place] = numbers[used - 1];
                    *count -= 1;
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Few { count: 0, .. })
    }
}

impl Default for DeviceSet {
    fn default() -> Self {
        Self::Few { count: 0, numbers: [0; FEW_MAX] }
    }
}

#[cfg(test)]
mod tests {
    //! A failing run of random edits prints its seed; `SLUICEGATE_SEED=n` runs that one alone.

    use super::*;
    use crate::model::{DeviceNumber, ProductNumber, Scope, Timestamp};
    use crate::rollout::CompiledScope;
    use std::sync::Arc;

    fn device(number: u32, details: DeviceDetails) -> Device {
        Device {
            number: DeviceNumber(number),
            product: ProductNumber(0),
            id: format!("d{number}").into(),
            components: Box::default(),
            created_at: Timestamp(0),
            details: Some(Arc::new(details)),
        }
    }

    fn texts<T: FromIterator<Box<str>>>(texts: &[&str]) -> T {
        texts.iter().map(|text| (*text).into()).collect()
    }

    fn tree(tree: &str, nodes: &[&str]) -> Selector {
        Selector::AssetTrees(vec![AssetTree { tree: tree.into(), nodes: texts(nodes) }])
    }

    fn selected(facets: &Facets, selector: &Selector) -> Vec<u32> {
        facets.select(selector).unwrap().iter().collect()
    }

    #[test]
    fn tags_need_every_key_and_any_of_its_values() {
        let mut facets = Facets::default();
        let tagged = |number, region: &str, ring: &str| {
            let tags = [("region".into(), region.into()), ("ring".into(), ring.into())];
            device(number, DeviceDetails { tags: tags.into(), ..DeviceDetails::default() })
        };
        for device in [tagged(1, "north", "1"), tagged(2, "north", "2"), tagged(3, "south", "1"), tagged(4, "east", "1")] {
            facets.insert(&device);
        }
        let wanted =
            |pairs: &[(&str, &[&str])]| Selector::Tags(pairs.iter().map(|(key, values)| ((*key).into(), texts(values))).collect());
        assert_eq!(selected(&facets, &wanted(&[("region", &["north"])])), [1, 2]);
        assert_eq!(selected(&facets, &wanted(&[("region", &["north", "south"]), ("ring", &["1"])])), [1, 3]);
        assert_eq!(selected(&facets, &wanted(&[("region", &["north"]), ("absent", &["1"])])), [0; 0]);
        let attributes = Selector::Attributes([("region".into(), texts(&["north"]))].into());
        assert_eq!(selected(&facets, &attributes), [0; 0], "an attribute is not a tag");
    }

    #[test]
    fn a_selector_that_needs_no_details_is_left_to_the_caller() {
        let facets = Facets::default();
        for selector in [
            Selector::Total,
            Selector::Devices(texts(&["d1"])),
            Selector::Tags(BTreeMap::new()),
            Selector::Attributes(BTreeMap::new()),
        ] {
            assert_eq!(facets.select(&selector), None, "{selector:?}");
        }
    }

    #[test]
    fn model_manufacturer_and_type_are_found_each_by_its_own() {
        let mut facets = Facets::default();
        let details = DeviceDetails {
            model: Some("m".into()),
            manufacturer: Some("f".into()),
            device_type: Some("t".into()),
            ..DeviceDetails::default()
        };
        facets.insert(&device(7, details));
        let seven = RoaringBitmap::from_iter([7]);
        assert_eq!(*facets.with_model("m"), seven);
        assert_eq!(*facets.with_manufacturer("f"), seven);
        assert_eq!(*facets.with_device_type("t"), seven);
        assert!(facets.with_model("f").is_empty());
        assert!(facets.with_manufacturer("t").is_empty());
        assert!(facets.with_device_type("m").is_empty());
    }

    #[test]
    fn a_group_listed_twice_is_entered_and_left_once() {
        let mut facets = Facets::default();
        let device = device(7, DeviceDetails { groups: texts(&["a", "b", "a"]), ..DeviceDetails::default() });
        facets.insert(&device);
        assert_eq!(selected(&facets, &Selector::Groups(texts(&["a", "b"]))), [7]);
        facets.remove(&device);
        assert!(facets.sets.is_empty(), "{facets:?}");
    }

    #[test]
    fn a_node_shared_by_two_paths_stays_while_one_of_them_does() {
        let mut facets = Facets::default();
        let at = |paths: &[&str]| device(7, DeviceDetails { asset_nodes: texts(paths), ..DeviceDetails::default() });
        let (both, one) = (at(&["site/hall/line-1", "site/hall/line-2"]), at(&["site/hall/line-2"]));
        facets.insert(&both);
        facets.remove(&both);
        facets.insert(&one);
        assert_eq!(selected(&facets, &tree("site", &["hall"])), [7]);
        assert_eq!(selected(&facets, &tree("site", &["line-1"])), [0; 0]);
        assert_eq!(selected(&facets, &tree("site", &[])), [7]);
        assert_eq!(selected(&facets, &tree("hall", &[])), [0; 0]);
        facets.remove(&one);
        assert!(facets.sets.is_empty(), "{facets:?}");
    }

    #[test]
    fn texts_that_run_together_alike_are_told_apart() {
        let mut facets = Facets::default();
        let tagged = |number, key: &str, value: &str| {
            device(number, DeviceDetails { tags: [(key.into(), value.into())].into(), ..DeviceDetails::default() })
        };
        facets.insert(&tagged(1, "ab", "c"));
        facets.insert(&tagged(2, "a", "bc"));
        facets.insert(&tagged(3, "a\0b", "c"));
        let with = |key: &str, value: &str| Selector::Tags([(key.into(), texts(&[value]))].into());
        assert_eq!(selected(&facets, &with("ab", "c")), [1]);
        assert_eq!(selected(&facets, &with("a", "bc")), [2]);
        assert_eq!(selected(&facets, &with("a", "b\0c")), [0; 0]);
    }

    #[test]
    fn a_set_grows_into_a_bitmap_and_shrinks_back() {
        let mut set = DeviceSet::default();
        let numbers = |set: &DeviceSet| match set {
            DeviceSet::Few { count, numbers } => numbers[..usize::from(*count)].iter().copied().collect::<RoaringBitmap>(),
            DeviceSet::Many(bitmap) => RoaringBitmap::clone(bitmap),
        };
        for count in 1..=6_u32 {
            set.insert(count);
            set.insert(1);
            assert_eq!(numbers(&set), (1..=count).collect());
            assert_eq!(matches!(set, DeviceSet::Many(_)), count as usize > FEW_MAX);
        }
        for count in (1..=6_u32).rev() {
            set.remove(count);
            set.remove(99);
            assert_eq!(numbers(&set), (1..count).collect());
            assert_eq!(matches!(set, DeviceSet::Many(_)), count as usize > FEW_MAX + 1);
        }
        assert!(set.is_empty());
    }

    const DEVICES: u64 = 24;
    const STEPS: usize = 300;
    const SEEDS: u64 = 30;

    #[test]
    fn random_edits_are_selected_as_looking_at_every_device_says() {
        if let Ok(seed) = std::env::var("SLUICEGATE_SEED") {
            return run(seed.parse().unwrap());
        }
        (0..SEEDS).for_each(run);
    }

    fn run(seed: u64) {
        let mut random = Random(seed);
        let mut facets = Facets::default();
        let mut fleet: BTreeMap<u32, Device> = BTreeMap::new();
        for step in 0..STEPS {
            // Far apart, so that a set has several parts.
            let number = (random.below(DEVICES) * 20_000) as u32;
            let before = fleet.remove(&number);
            if let Some(before) = &before {
                facets.remove(before);
                if random.below(4) == 0 {
                    facets.remove(before);
                }
            }
            if before.is_none() || random.below(3) != 0 {
                let mut device = device(number, details(&mut random));
                if random.below(8) == 0 {
                    device.details = None;
                }
                facets.insert(&device);
                if random.below(4) == 0 {
                    facets.insert(&device);
                }
                fleet.insert(number, device);
            }
            for _ in 0..4 {
                let selector = selector(&mut random);
                let scope = CompiledScope::new(&Scope { selector: selector.clone(), snapshot: false }, None);
                let expected: RoaringBitmap = fleet.values().filter(|row| scope.contains(row)).map(|row| row.number.0).collect();
                let got = facets.select(&selector).unwrap_or_else(|| panic!("seed {seed}, step {step}: {selector:?}"));
                assert_eq!(*got, expected, "seed {seed}, step {step}: {selector:?} among {fleet:#?}");
            }
            let model = word(&mut random, "m");
            let expected: RoaringBitmap =
                fleet.values().filter(|row| row.details().model.as_ref() == Some(&model)).map(|row| row.number.0).collect();
            assert_eq!(*facets.with_model(&model), expected, "seed {seed}, step {step}: model {model:?} among {fleet:#?}");
            assert!(facets.sets.values().all(|set| !set.is_empty()), "seed {seed}, step {step}: {facets:?}");
        }
        fleet.values().for_each(|device| facets.remove(device));
        assert!(facets.sets.is_empty(), "seed {seed}: {facets:?}");
    }

    /// Few words, so that devices share them.
    fn word(random: &mut Random, first: &str) -> Box<str> {
        format!("{first}{}", random.below(4)).into()
    }

    fn details(random: &mut Random) -> DeviceDetails {
        let pairs = |random: &mut Random| (0..random.below(4)).map(|_| (word(random, "k"), word(random, "v"))).collect();
        let optional = |random: &mut Random, first| (random.below(2) == 0).then(|| word(random, first));
        DeviceDetails {
            attributes: pairs(random),
            tags: pairs(random),
            groups: (0..random.below(5)).map(|_| word(random, "g")).collect(),
            asset_nodes: (0..random.below(4)).map(|_| path(random)).collect(),
            model: optional(random, "m"),
            manufacturer: optional(random, "m"),
            device_type: optional(random, "m"),
            gateway: None,
            secret_encrypted: None,
        }
    }

    /// Trees and nodes have names in common; a node may be below itself; a path may end at its tree.
    fn path(random: &mut Random) -> Box<str> {
        let parts: Vec<Box<str>> = (0..=random.below(4)).map(|_| word(random, "n")).collect();
        parts.join("/").into()
    }

    fn selector(random: &mut Random) -> Selector {
        let pairs = |random: &mut Random| {
            let values = |random: &mut Random| (0..=random.below(3)).map(|_| word(random, "v")).collect();
            (0..=random.below(2)).map(|_| (word(random, "k"), values(random))).collect()
        };
        match random.below(4) {
            0 => Selector::Attributes(pairs(random)),
            1 => Selector::Tags(pairs(random)),
            2 => Selector::Groups((0..=random.below(3)).map(|_| word(random, "g")).collect()),
            _ => {
                let nodes = |random: &mut Random| (0..random.below(3)).map(|_| word(random, "n")).collect();
                let trees = (0..=random.below(2)).map(|_| AssetTree { tree: word(random, "n"), nodes: nodes(random) });
                Selector::AssetTrees(trees.collect())
            }
        }
    }

    /// SplitMix64: small, and the same everywhere.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) % bound
        }
    }
}
