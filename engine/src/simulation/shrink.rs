//! Leaves out of a failing run what it fails without.

use super::oracle::Broken;
use super::steps::Step;

/// So many steps are taken again at most, in all tries together.
const STEPS_MAX: usize = 400_000;

/// Of `steps`, fewer that fail alike, and what was seen of them; nothing was seen where the whole run doesn't fail again.
pub(super) fn shrink(mut steps: Vec<Step>, fails: impl Fn(&[Step]) -> Option<Broken>) -> (Vec<Step>, Option<String>) {
    let Some(mut broken) = fails(&steps) else { return (steps, None) };
    let (mut taken, mut portion) = (steps.len(), steps.len().div_ceil(2));
    while portion > 0 {
        let (mut from, mut is_less) = (0, false);
        while from < steps.len() && taken < STEPS_MAX {
            let upto = (from + portion).min(steps.len());
            // With the time that they took, or else without it: what fails may do so at a certain moment.
            let tries = [0, time_ms(&steps[from..upto])].map(|ms| without(&steps, from, upto, ms));
            let mut tries = tries.into_iter().filter(|left| left.len() < steps.len());
            let failing = tries.find_map(|left| {
                taken += left.len();
                fails(&left).map(|other| (left, other))
            });
            match failing {
                Some((left, other)) => (steps, broken, is_less) = (left, other, true),
                None => from = upto,
            }
        }
        // Single steps may go once others have gone.
        portion = if portion == 1 && is_less && taken < STEPS_MAX { 1 } else { portion / 2 };
    }
    (steps, Some(broken.seen))
}

/// Commands come a millisecond after one another.
fn time_ms(steps: &[Step]) -> u64 {
    steps.iter().map(|step| if let Step::Pass { ms } = step { *ms } else { 1 }).sum()
}

/// All but those from one place to before another, in whose stead time passes.
fn without(steps: &[Step], from: usize, upto: usize, ms: u64) -> Vec<Step> {
    let gap = (ms > 0).then_some(Step::Pass { ms });
    let mut left: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps[..from].iter().chain(&gap).chain(&steps[upto..]) {
        match (left.last_mut(), step) {
            (Some(Step::Pass { ms: before }), Step::Pass { ms }) if gap.is_some() => *before += ms,
            _ => left.push(step.clone()),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_at_a_certain_moment_is_shrunk_without_moving_it() {
        let steps: Vec<Step> = (0..300).map(|step| if step % 2 == 0 { Step::Pass { ms: 10 } } else { Step::Read }).collect();
        let fails = |steps: &[Step]| {
            let ends_so = matches!(steps.last(), Some(Step::Read)) && time_ms(steps) == time_ms(&[Step::Pass { ms: 1_650 }]);
            ends_so.then(|| Broken { rule: "r", seen: String::new() })
        };
        let (left, _) = shrink(steps, fails);
        assert_eq!(format!("{left:?}"), "[Pass { ms: 1649 }, Read]");
    }

    #[test]
    fn only_the_steps_that_a_failure_takes_are_left() {
        let steps: Vec<Step> = (0..500).map(|ms| Step::Pass { ms }).collect();
        let has = |steps: &[Step], wanted: u64| steps.iter().any(|step| matches!(step, Step::Pass { ms } if *ms == wanted));
        let fails = |steps: &[Step]| {
            let fails = [17, 333, 499].iter().all(|wanted| has(steps, *wanted));
            fails.then(|| Broken { rule: "r", seen: steps.len().to_string() })
        };
        let (left, seen) = shrink(steps, fails);
        assert_eq!(format!("{left:?}"), "[Pass { ms: 17 }, Pass { ms: 333 }, Pass { ms: 499 }]");
        assert_eq!(seen.as_deref(), Some("3"));
    }
}
