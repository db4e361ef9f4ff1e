//! What becomes of an attempt that went wrong.

use super::place::{Draw, below, draw};
use crate::model::{DeviceNumber, Failure, FailureKind, Retry, TaskNumber, Timestamp};

/// When the next attempt may begin, if there is one left. `attempts`: offers made so far, the failed one included.
pub(crate) fn next_attempt(
    retry: Option<&Retry>,
    (task, device): (TaskNumber, DeviceNumber),
    attempts: u32,
    failure: Failure,
    now: Timestamp,
) -> Option<Timestamp> {
    let retry = retry?;
    let is_for_it = match failure.kind {
        FailureKind::Rejected => false,
        FailureKind::TimedOut => true,
        FailureKind::Failed => retry.codes.is_empty() || failure.code.is_some_and(|code| retry.codes.contains(&code)),
    };
    let is_left = retry.count == u32::MAX || attempts <= retry.count;
    if !is_for_it || !is_left {
        return None;
    }
    let jitter_s = below(draw(Draw::RetryJitter, task, device, attempts), retry.jitter_s.saturating_add(1));
    Some(now.plus_seconds(interval_s(retry, attempts).saturating_add(u64::from(jitter_s))))
}

fn interval_s(retry: &Retry, attempts: u32) -> u64 {
    let mut interval_s = u64::from(retry.interval_s);
    let Some(back_off) = retry.back_off else { return interval_s };
    let max_s = u64::from(back_off.interval_max_s).max(interval_s);
    for _ in 1..attempts {
        let grown_s = interval_s * u64::from(back_off.factor_percent) / 100;
        if grown_s >= max_s {
            return max_s;
        }
        if back_off.factor_percent <= 100 || interval_s == 0 {
            break;
        }
        // At least by one, so that a short interval isn't rounded back to itself for ever.
        interval_s = grown_s.max(interval_s + 1);
    }
    interval_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackOff;

    const RUN: (TaskNumber, DeviceNumber) = (TaskNumber(1), DeviceNumber(2));
    const NOW: Timestamp = Timestamp(1_000_000);

    fn failed(code: Option<i32>) -> Failure {
        Failure { kind: FailureKind::Failed, code }
    }

    fn waits_s(retry: &Retry, attempts: u32, failure: Failure) -> Option<u64> {
        next_attempt(Some(retry), RUN, attempts, failure, NOW).map(|at| NOW.seconds_until(at))
    }

    #[test]
    fn attempts_end_after_the_retries_of_the_policy() {
        let retry = Retry { count: 2, interval_s: 60, ..Retry::default() };
        assert_eq!(next_attempt(None, RUN, 1, failed(None), NOW), None);
        assert_eq!(waits_s(&retry, 1, failed(None)), Some(60));
        assert_eq!(waits_s(&retry, 2, failed(None)), Some(60));
        assert_eq!(waits_s(&retry, 3, failed(None)), None);
        let endless = Retry { count: u32::MAX, ..Retry::default() };
        assert_eq!(waits_s(&endless, u32::MAX, failed(None)), Some(0));
    }

    #[test]
    fn a_back_off_grows_up_to_its_maximum() {
        let back_off = Some(BackOff { factor_percent: 200, interval_max_s: 500 });
        let retry = Retry { count: u32::MAX, interval_s: 100, back_off, ..Retry::default() };
        let waits: Vec<_> = (1..=5).map(|attempts| waits_s(&retry, attempts, failed(None)).unwrap()).collect();
        assert_eq!(waits, [100, 200, 400, 500, 500]);
        let short = Retry { interval_s: 10, back_off: Some(BackOff { factor_percent: 105, interval_max_s: 500 }), ..retry.clone() };
        assert_eq!(waits_s(&short, 3, failed(None)), Some(12));
        let constant = Retry { back_off: Some(BackOff { factor_percent: 100, interval_max_s: 500 }), ..retry };
        assert_eq!(waits_s(&constant, u32::MAX, failed(None)), Some(100));
    }

    #[test]
    fn jitter_differs_between_attempts_and_stays_in_its_bound() {
        let retry = Retry { count: u32::MAX, interval_s: 100, jitter_s: 30, ..Retry::default() };
        let waits: std::collections::BTreeSet<_> =
            (1..=1_000).map(|attempts| waits_s(&retry, attempts, failed(None)).unwrap()).collect();
        assert_eq!((waits.first(), waits.last(), waits.len()), (Some(&100), Some(&130), 31));
    }

    #[test]
    fn only_the_codes_of_the_policy_and_missed_deadlines_are_retried() {
        let retry = Retry { count: 5, codes: vec![-2, 7], ..Retry::default() };
        assert_eq!(waits_s(&retry, 1, failed(Some(-2))), Some(0));
        assert_eq!(waits_s(&retry, 1, failed(Some(-4))), None);
        assert_eq!(waits_s(&retry, 1, failed(None)), None);
        assert_eq!(waits_s(&retry, 1, Failure { kind: FailureKind::TimedOut, code: None }), Some(0));
        let any = Retry { codes: Vec::new(), ..retry };
        assert_eq!(waits_s(&any, 1, failed(None)), Some(0));
        assert_eq!(waits_s(&any, 1, Failure { kind: FailureKind::Rejected, code: None }), None);
    }
}
