//! Which devices go before which.
//!
//! A device's place in a task is a hash of both, so it is fixed before anything has begun and needs no row. Waves are ranges of
//! places. They are measured out once, at creation, over the devices that are there: so they are exact for those, and a device
//! that comes later falls into one of them by its place.

use super::place::{Draw, draw};
use crate::model::{DeviceNumber, MeasuredWave, TaskNumber, Wave, WaveSize};
use roaring::RoaringBitmap;

/// The place of a device among the waves of a task.
pub(crate) fn place(task: TaskNumber, device: DeviceNumber) -> u64 {
    draw(Draw::Wave, task, device, 0)
}

/// The wave that a place lies in, from 0.
pub(crate) fn wave_of(waves: &[MeasuredWave], place: u64) -> usize {
    waves.partition_point(|wave| wave.to_place < place).min(waves.len().saturating_sub(1))
}

/// Cuts the devices into the waves of a policy, and a last one of those that are left over.
pub(crate) fn measure(waves: &[Wave], task: TaskNumber, devices: &RoaringBitmap) -> Vec<MeasuredWave> {
    if waves.is_empty() {
        return Vec::new();
    }
    let mut places: Vec<u64> = devices.iter().map(|device| place(task, DeviceNumber(device))).collect();
    let total = places.len() as u64;
    let (mut measured, mut taken, mut count, mut percent) = (Vec::with_capacity(waves.len() + 1), 0_u64, 0_u64, 0_u64);
    for wave in waves {
        match wave.size {
            WaveSize::Percent(share) => percent += u64::from(share),
            WaveSize::Count(devices) => count += u64::from(devices),
        }
        // Rounded up, so that a small share of a small fleet is somebody.
        let upto = (count + (total * percent.min(100)).div_ceil(100)).clamp(taken, total);
        let size = upto - taken;
        measured.push(MeasuredWave {
            to_place: highest_of(&mut places, upto),
            devices: u32::try_from(size).unwrap_or(u32::MAX),
            successes: u32::try_from((size * u64::from(wave.success_percent)).div_ceil(100)).unwrap_or(u32::MAX),
        });
        taken = upto;
    }
    let left = total - taken;
    if left > 0 {
        measured.push(MeasuredWave { to_place: u64::MAX, devices: u32::try_from(left).unwrap_or(u32::MAX), successes: 0 });
    }
    // Whoever comes later has to fall into some wave.
    if let Some(last) = measured.last_mut() {
        last.to_place = u64::MAX;
    }
    measured
}

/// The highest among the lowest `count` places; 0 where that is nobody.
fn highest_of(places: &mut [u64], count: u64) -> u64 {
    match usize::try_from(count) {
        Ok(0) | Err(_) => 0,
        Ok(count) if count <= places.len() => *places.select_nth_unstable(count - 1).1,
        Ok(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(waves: &[MeasuredWave], task: TaskNumber, devices: &RoaringBitmap) -> Vec<u32> {
        let mut sizes = vec![0; waves.len()];
        for device in devices {
            sizes[wave_of(waves, place(task, DeviceNumber(device)))] += 1;
        }
        sizes
    }

    #[test]
    fn waves_hold_exactly_their_share_of_the_devices_that_were_there() {
        let percent = |share| Wave { size: WaveSize::Percent(share), success_percent: 90 };
        for (task, count) in [(0, 1), (1, 5), (2, 99), (3, 100_000)] {
            let devices: RoaringBitmap = (0..count).map(|number| number * 3).collect();
            let waves = measure(&[percent(10), percent(40)], TaskNumber(task), &devices);
            let named: Vec<u32> = waves.iter().map(|wave| wave.devices).collect();
            assert_eq!(sizes(&waves, TaskNumber(task), &devices), named, "{count} devices");
            assert_eq!(named[0], count.div_ceil(10), "{count} devices");
            assert_eq!(named.iter().sum::<u32>(), count);
        }
    }

    #[test]
    fn counted_waves_are_filled_in_order_and_the_rest_comes_last() {
        let count = |count| Wave { size: WaveSize::Count(count), success_percent: 50 };
        let devices: RoaringBitmap = (0..100).collect();
        let waves = measure(&[count(5), count(25)], TaskNumber(4), &devices);
        assert_eq!(sizes(&waves, TaskNumber(4), &devices), [5, 25, 70]);
        assert_eq!(waves.iter().map(|wave| wave.successes).collect::<Vec<_>>(), [3, 13, 0]);
        let waves = measure(&[count(5), count(200)], TaskNumber(4), &devices);
        assert_eq!(sizes(&waves, TaskNumber(4), &devices), [5, 95]);
    }

    #[test]
    fn whoever_comes_later_falls_into_a_wave_by_the_same_shares() {
        let devices: RoaringBitmap = (0..10_000).collect();
        let waves = measure(&[Wave { size: WaveSize::Percent(20), success_percent: 100 }], TaskNumber(9), &devices);
        let later: RoaringBitmap = (10_000..110_000).collect();
        let sizes = sizes(&waves, TaskNumber(9), &later);
        assert!((19_000..21_000).contains(&sizes[0]), "{sizes:?}");
        assert_eq!(wave_of(&waves, u64::MAX), 1);
    }
}
