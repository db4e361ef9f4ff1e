//! Numbers that look random and follow from a seed alone, so that a run can be repeated.

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and three multiplications a number, and any seed will do.
/// Good enough to spread a fleet and to fill an image; not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// An independent sequence for the `index`-th member of a fleet.
    pub(crate) fn for_member(seed: u64, index: usize) -> Self {
        let mut parent = Self::new(seed ^ (index as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
        Self::new(parent.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0.0 .. 1.0`.
    pub(crate) fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `length` bytes that no compression shrinks.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // First outputs of the reference implementation for the seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!([random.next(), random.next(), random.next()], [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn one_seed_makes_one_image_of_exactly_the_length_asked_for() {
        assert_eq!(Random::new(7).bytes(1021).len(), 1021);
        assert_eq!(Random::new(7).bytes(1021), Random::new(7).bytes(1021));
        assert_ne!(Random::new(7).bytes(1021), Random::new(8).bytes(1021));
    }

    #[test]
    fn fractions_stay_below_one_and_spread_evenly() {
        let mut random = Random::new(1);
        let fractions: Vec<f64> = (0..10_000).map(|_| random.fraction()).collect();
        assert!(fractions.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        let mean = fractions.iter().sum::<f64>() / fractions.len() as f64;
        assert!((0.48..0.52).contains(&mean), "mean {mean}");
    }

    #[test]
    fn members_of_one_fleet_have_different_sequences() {
        assert_ne!(Random::for_member(1, 0).next(), Random::for_member(1, 1).next());
    }
}
