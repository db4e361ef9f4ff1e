//! Where chance would decide: numbers that look drawn by lot, but are the same each time, on every node and after every restart.

use crate::model::{DeviceNumber, TaskNumber};

/// What a number is drawn for. Different draws of one device are independent of each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// Its place among the waves.
    Wave = 1,
    /// Its delay after the start.
    StartJitter = 2,
    /// What its waits are spread by.
    Spread = 3,
    /// Its delay before a further attempt.
    RetryJitter = 4,
}

/// A number for this device in this task, even over all 64-bit numbers. `round`: which of several draws of one kind.
pub(crate) fn draw(draw: Draw, task: TaskNumber, device: DeviceNumber, round: u32) -> u64 {
    let salt = mix(u64::from(task.0) << 8 | draw as u64);
    mix(salt ^ (u64::from(round) << 32 | u64::from(device.0)))
}

/// A number below `bound` from a drawn one: 0 where the bound is 0.
pub(crate) fn below(drawn: u64, bound: u32) -> u32 {
    // The high half, scaled: even for any bound, without a division.
    (((drawn >> 32) * u64::from(bound)) >> 32) as u32
}

/// The finalizer of SplitMix64: every bit of the outcome depends on every bit of `value`.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_devices_fall_evenly_and_draws_are_independent() {
        let task = TaskNumber(7);
        let mut tenths = [0_u32; 10];
        let mut both_low = 0;
        for number in 0..100_000 {
            let wave = draw(Draw::Wave, task, DeviceNumber(number), 0);
            let jitter = draw(Draw::StartJitter, task, DeviceNumber(number), 0);
            tenths[below(wave, 10) as usize] += 1;
            both_low += u32::from(below(wave, 10) == 0 && below(jitter, 10) == 0);
        }
        assert!(tenths.iter().all(|count| (9_500..10_500).contains(count)), "{tenths:?}");
        assert!((850..1_150).contains(&both_low), "{both_low}");
    }

    #[test]
    fn a_draw_below_a_bound_stays_below_it() {
        assert_eq!(below(u64::MAX, 0), 0);
        assert_eq!(below(u64::MAX, 1), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(0, 10), 0);
    }
}
