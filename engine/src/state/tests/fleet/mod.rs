//! A fleet of 100,000 devices in virtual time, under each policy alone and under all together.
//!
//! An [oracle](oracle) written from the policies' documentation watches every answer and every event; what a test adds is what the
//! fleet has to come to. A failing run prints its seed; `SLUICEGATE_SEED=n` runs with that one. Where a smaller fleet shows the same,
//! it is smaller, so that all of it takes seconds.

mod oracle;
mod ordered;
mod simulation;
mod together;
pub(crate) mod window;

use crate::limits::Limits;
use crate::state::*;
use ordered::Stage;
use simulation::{FAILURE_CODES, Habits, Plan, START, Simulation};

const WHOLE: usize = 100_000;
const PART: usize = 10_000;
/// Longer than any fleet here takes.
const LONG_S: u64 = 10 * 86_400;
const DAY_S: u64 = 86_400;

/// Devices that are held back ask seldom, so that a run takes seconds.
fn patient() -> Limits {
    Limits { cap_retry_after_s: 300, ..Limits::default() }
}

/// A fleet with a started task, every device about to ask.
fn started(count: usize, habits: Habits, plan: Plan) -> (Simulation, usize) {
    let mut simulation = Simulation::new(count, patient(), habits);
    let task = simulation.order(plan);
    simulation.act(task, TaskAction::Start);
    simulation.wake(habits.come_within_s);
    (simulation, task)
}

fn retrying(count: u32) -> Option<Retry> {
    Some(Retry { count, interval_s: 60, ..Retry::default() })
}

#[test]
fn a_cap_is_never_exceeded_and_always_filled_while_enough_devices_ask() {
    let policy = Policy { maximum_concurrency: Some(10_000), ..Policy::default() };
    let (mut simulation, task) = started(WHOLE, Habits::default(), Plan::new(policy));
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    assert_eq!(simulation.oracle.tasks[task].held_most, 10_000);
    assert_eq!(simulation.oracle.tasks[task].succeeded, WHOLE as u64);
}

#[test]
fn the_cap_of_the_server_holds_over_all_tasks_together() {
    let limits = Limits { permits_max: Some(1_000), ..patient() };
    let mut simulation = Simulation::new(PART, limits, Habits::BAD);
    let policy = Policy { maximum_concurrency: Some(700), retry: retrying(1), timeout_s: Some(200), ..Policy::default() };
    let plan = |ring, to| Plan { rings: Some(vec![ring]), to, ..Plan::new(policy.clone()) };
    let tasks = [(0, "2"), (1, "3"), (2, "2"), (3, "4")].map(|(ring, to)| simulation.order(plan(ring, to)));
    for task in tasks {
        simulation.act(task, TaskAction::Start);
    }
    simulation.wake(60);
    simulation.pass_s(59);
    assert!((980..=1_000).contains(&simulation.oracle.held), "{} are held", simulation.oracle.held);
    simulation.run_to_rest(LONG_S);
    tasks.into_iter().for_each(|task| simulation.expect_complete(task));
}

#[test]
fn a_rate_is_never_exceeded_in_any_sixty_seconds_and_reached_while_enough_devices_ask() {
    let per_minute = 8_000;
    let policy = Policy { rate: Some(Rate { per_minute, growth: None }), ..Policy::default() };
    let (mut simulation, task) = started(WHOLE, Habits::default(), Plan::new(policy));
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    let ordered = &simulation.oracle.tasks[task];
    let first_s = ordered.starts[0].0;
    // Those that were sent away together come back spread out, so the last devices come alone.
    for minute in 0..8 {
        let (from_s, to_s) = (first_s + 60 * minute, first_s + 60 * (minute + 1));
        assert!(ordered.begun(from_s, to_s) <= u64::from(per_minute));
        // In the minutes after the first, nobody comes back before the first of those that were sent away.
        if minute == 0 || minute >= 3 {
            assert_eq!(ordered.begun(from_s, to_s), u64::from(per_minute), "minute {minute}");
        }
    }
}

#[test]
fn a_rate_grows_with_those_notified_or_succeeded_as_its_steps_say() {
    for counting in [Counting::Notified, Counting::Succeeded] {
        let growth = Growth { factor_percent: 150, after: 1_000, counting, per_minute_max: 2_500 };
        let policy = Policy {
            rate: Some(Rate { per_minute: 500, growth: Some(growth) }),
            retry: retrying(1),
            timeout_s: Some(150),
            ..Policy::default()
        };
        let (mut simulation, task) = started(PART, Habits::BAD, Plan::new(policy));
        simulation.run_to_rest(LONG_S);
        simulation.expect_complete(task);
        assert_eq!(simulation.oracle.rate(&simulation.oracle.tasks[task]), Some(2_500), "{counting:?}");
    }
}

#[test]
fn waves_hold_their_shares_and_open_in_order_at_the_success_that_is_enough() {
    let wave = |size, success_percent| Wave { size, success_percent };
    let waves = vec![wave(WaveSize::Percent(1), 80), wave(WaveSize::Percent(10), 70), wave(WaveSize::Count(20_000), 60)];
    let policy = Policy { waves, retry: retrying(1), timeout_s: Some(200), ..Policy::default() };
    let (mut simulation, task) = started(WHOLE, Habits::BAD, Plan::new(policy));
    assert_eq!(simulation.oracle.tasks[task].wave_sizes, [1_000, 10_000, 20_000, 69_000]);
    simulation.pass_s(100);
    // Those that come later fall into the waves by the same shares.
    simulation.join(10_000, 0);
    let mut joined = [0_u32; 4];
    simulation.oracle.tasks[task].runs[WHOLE..].iter().for_each(|run| joined[run.wave] += 1);
    for (wave, share) in [100, 1_000, 2_000, 6_900].into_iter().enumerate() {
        assert!(joined[wave].abs_diff(share) <= 100, "of 10,000 that joined, {joined:?} fell into the waves");
    }
    simulation.wake(60);
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    assert_eq!(simulation.oracle.tasks[task].wave_open, 3);
}

#[test]
fn a_wave_opened_by_hand_lets_its_devices_begin_before_the_one_before_has_succeeded() {
    let wave = |share| Wave { size: WaveSize::Percent(share), success_percent: 100 };
    let policy = Policy { waves: vec![wave(10), wave(30)], ..Policy::default() };
    let habits = Habits { rejecting: 20, ..Habits::default() };
    let (mut simulation, task) = started(PART, habits, Plan { snapshot: true, ..Plan::new(policy) });
    simulation.pass_s(3_000);
    assert_eq!(simulation.oracle.tasks[task].wave_open, 0, "a fifth of the first wave has rejected it");
    simulation.act(task, TaskAction::OpenWave);
    simulation.pass_s(3_000);
    assert_eq!(simulation.oracle.tasks[task].wave_open, 1);
    simulation.act(task, TaskAction::OpenWave);
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    assert!(simulation.oracle.tasks[task].finished_at.is_some());
}

#[test]
fn a_threshold_pauses_at_the_very_result_that_reaches_it_and_again_after_a_resumption() {
    for kind in [None, Some(FailureKind::Failed), Some(FailureKind::Rejected), Some(FailureKind::TimedOut)] {
        let threshold = Threshold { kind, percent: 5, minimum: 300, action: ThresholdAction::Pause };
        let policy = Policy { thresholds: vec![threshold], retry: retrying(1), timeout_s: Some(90), ..Policy::default() };
        let policy = Policy { maximum_concurrency: Some(500), ..policy };
        let habits = Habits { failing: 8, rejecting: 8, silent: 8, ..Habits::default() };
        let (mut simulation, task) = started(2_000, habits, Plan::new(policy));
        for _ in 0..3 {
            simulation.pass_s(1_000);
            if simulation.oracle.tasks[task].status == TaskStatus::Paused {
                assert_eq!(simulation.oracle.tasks[task].held, 0, "what ran when it paused has gone on to its end");
                simulation.act(task, TaskAction::Resume);
            }
        }
        assert!(!simulation.oracle.tasks[task].stopped_after.is_empty(), "{kind:?}");
        simulation.act(task, TaskAction::Cancel);
        simulation.run_to_rest(LONG_S);
        simulation.compare_counts(task);
    }
}

#[test]
fn a_threshold_that_is_met_exactly_is_reached() {
    let threshold = Threshold { kind: None, percent: 10, minimum: 1, action: ThresholdAction::Pause };
    let policy = Policy { thresholds: vec![threshold], maximum_concurrency: Some(1), ..Policy::default() };
    let (mut simulation, task) = started(500, Habits::default(), Plan::new(policy));
    while simulation.oracle.tasks[task].begun(0, u64::MAX) < 9 {
        simulation.pass_s(1);
    }
    simulation.habits.failing = 100;
    simulation.pass_s(2_000);
    assert_eq!(simulation.oracle.tasks[task].stopped_after, [10]);
}

#[test]
fn a_threshold_whose_minimum_is_reached_by_a_success_stops_the_task_at_it() {
    let threshold = Threshold { kind: None, percent: 20, minimum: 100, action: ThresholdAction::Pause };
    let policy = Policy { thresholds: vec![threshold], maximum_concurrency: Some(10), ..Policy::default() };
    let (mut simulation, task) = started(500, Habits { failing: 100, ..Habits::default() }, Plan::new(policy));
    while simulation.oracle.tasks[task].failures() < 40 {
        simulation.pass_s(1);
    }
    simulation.habits.failing = 0;
    simulation.pass_s(20_000);
    assert_eq!(simulation.oracle.tasks[task].stopped_after, [100]);
}

#[test]
fn a_canceling_threshold_takes_everything_unfinished_back_and_gives_every_permit_back() {
    let threshold = Threshold { kind: Some(FailureKind::TimedOut), percent: 3, minimum: 400, action: ThresholdAction::Cancel };
    let policy = Policy {
        thresholds: vec![threshold],
        timeout_s: Some(100),
        retry: retrying(3),
        maximum_concurrency: Some(3_000),
        ..Policy::default()
    };
    let (mut simulation, task) = started(PART, Habits { silent: 10, failing: 5, ..Habits::default() }, Plan::new(policy));
    simulation.run_to_rest(LONG_S);
    let ordered = &simulation.oracle.tasks[task];
    assert_eq!((ordered.status, ordered.held, ordered.stopped_after.len()), (TaskStatus::Stopped, 0, 1));
    let is_left = |stage: &Stage| matches!(stage, Stage::Held { .. } | Stage::Asked);
    assert!(!ordered.runs.iter().any(|run| is_left(&run.stage) || run.stage == Stage::ToCome && run.offers > 0));
    assert!(simulation.oracle.over(task, UpgradeState::Canceled) > 100);
    assert!(ordered.finished_at.is_some());
    simulation.compare_counts(task);
}

#[test]
fn a_schedule_lets_nobody_begin_before_its_start_and_from_its_end_on() {
    let schedule = Schedule { start: Some(START.plus_seconds(3_600)), end: Some(START.plus_seconds(3_900)), ..Schedule::default() };
    let policy = Policy { schedule, maximum_concurrency: Some(300), ..Policy::default() };
    let (mut simulation, task) = started(PART, Habits::default(), Plan::new(policy));
    simulation.run_to_rest(LONG_S);
    simulation.compare_counts(task);
    let ordered = &simulation.oracle.tasks[task];
    let (first_s, last_s) = (ordered.starts[0].0, ordered.starts[ordered.starts.len() - 1].0);
    assert!((3_600..3_900).contains(&(first_s - START.as_seconds())));
    assert!((3_800..3_900).contains(&(last_s - START.as_seconds())));
    assert!(ordered.succeeded > 300, "those that ran when it ended went on");
    assert_eq!(ordered.held, 0);
    assert!(ordered.finished_at.is_some());
}

#[test]
fn a_daily_window_counts_in_its_own_offset_and_opens_every_day() {
    // At UTC+05:30, over midnight there.
    let daily = Some(Daily { from_s: 23 * 3_600, to_s: 1_800 });
    let schedule = Schedule { daily, utc_offset_minutes: 330, ..Schedule::default() };
    let policy = Policy { schedule, maximum_concurrency: Some(40), retry: retrying(2), timeout_s: Some(200), ..Policy::default() };
    let (mut simulation, task) = started(PART, Habits::BAD, Plan { snapshot: true, ..Plan::new(policy) });
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    let mut days = std::collections::BTreeSet::new();
    for (second, _) in &simulation.oracle.tasks[task].starts {
        let local_s = second + 330 * 60;
        let of_day_s = local_s % DAY_S;
        assert!(of_day_s >= 23 * 3_600 || of_day_s <= 1_800);
        days.insert((local_s + DAY_S / 2) / DAY_S);
    }
    assert!(days.len() > 1);
}

#[test]
fn a_start_jitter_spreads_a_fleet_evenly_and_holds_each_device_for_its_own_delay() {
    let starts = [None, Some(START.plus_seconds(1_800))];
    for start in starts {
        let schedule = Schedule { start, ..Schedule::default() };
        let policy = Policy { schedule, start_jitter_s: 600, ..Policy::default() };
        let (mut simulation, task) = started(PART, Habits { come_within_s: 1, ..Habits::default() }, Plan::new(policy));
        simulation.run_to_rest(LONG_S);
        simulation.expect_complete(task);
        let mut sixths = [0_usize; 6];
        let told = simulation.oracle.tasks[task].runs.iter().filter_map(|run| run.delay_s);
        told.for_each(|delay_s| sixths[(delay_s / 100) as usize] += 1);
        let told = sixths.iter().sum::<usize>();
        assert!(told > PART * 9 / 10, "{told} were told their delay");
        assert!(sixths.iter().all(|count| count.abs_diff(told / 6) < 200), "{sixths:?}");
        // And so they begin.
        let began_s = start.unwrap_or(START).as_seconds();
        for minute in 0..10 {
            let begun = simulation.oracle.tasks[task].begun(began_s + minute * 60, began_s + (minute + 1) * 60);
            assert!(begun.abs_diff(PART as u64 / 10) < 200, "{begun} begin in minute {minute}");
        }
    }
}

#[test]
fn a_failure_is_retried_after_its_back_off_and_only_as_often_and_for_the_codes_that_the_policy_says() {
    let back_off = Some(BackOff { factor_percent: 250, interval_max_s: 500 });
    let retry = Retry { count: 4, interval_s: 50, back_off, jitter_s: 45, codes: FAILURE_CODES[1..].to_vec() };
    let policy = Policy { retry: Some(retry), timeout_s: Some(120), ..Policy::default() };
    let habits = Habits { failing: 40, silent: 10, rejecting: 2, noisy: 20, ..Habits::default() };
    let (mut simulation, task) = started(PART, habits, Plan { snapshot: true, ..Plan::new(policy) });
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    let runs = &simulation.oracle.tasks[task].runs;
    assert!(runs.iter().all(|run| run.offers <= 5));
    assert!(runs.iter().any(|run| run.offers == 5));
    assert!(simulation.oracle.tasks[task].finished_at.is_some());
}

#[test]
fn a_silent_device_gives_its_permit_back_exactly_at_its_deadline_from_the_offer_or_from_its_first_sign() {
    for timeout_from in [TimeoutFrom::Offer, TimeoutFrom::Running] {
        let policy = Policy {
            timeout_s: Some(180),
            timeout_from,
            maximum_concurrency: Some(2_000),
            retry: retrying(1),
            ..Policy::default()
        };
        let habits = Habits { silent: 25, late: 10, chatty: 60, noisy: 10, ..Habits::default() };
        let (mut simulation, task) = started(PART, habits, Plan { snapshot: true, ..Plan::new(policy) });
        simulation.run_to_rest(LONG_S);
        simulation.expect_complete(task);
        assert!(simulation.oracle.over(task, UpgradeState::TimedOut) > 50, "{timeout_from:?}");
    }
}

#[test]
fn nobody_begins_before_an_operator_has_approved_the_task() {
    let policy = Policy { approval: true, maximum_concurrency: Some(2_000), ..Policy::default() };
    let (mut simulation, task) = started(PART, Habits::default(), Plan { snapshot: true, ..Plan::new(policy) });
    simulation.pass_s(2_000);
    assert!(simulation.oracle.tasks[task].starts.is_empty());
    simulation.act(task, TaskAction::Approve);
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
}

#[test]
fn a_device_begins_only_after_a_persons_yes_never_after_a_no_and_waits_without_an_answer() {
    let policy = Policy { confirmation: true, retry: retrying(1), timeout_s: Some(150), ..Policy::default() };
    let mut simulation = Simulation::new(PART, patient(), Habits::BAD);
    let task = simulation.order(Plan::new(policy));
    simulation.act(task, TaskAction::Start);
    // Also before the device has asked.
    for device in simulation.some(task, 500, |stage| *stage == Stage::ToCome) {
        simulation.act_on(task, device, UpgradeAction::Confirm);
    }
    for device in simulation.some(task, 500, |stage| *stage == Stage::ToCome) {
        simulation.act_on(task, device, UpgradeAction::Decline);
    }
    simulation.wake(60);
    simulation.pass_s(100);
    for device in simulation.some(task, 6_000, |stage| *stage == Stage::Asked) {
        simulation.act_on(task, device, UpgradeAction::Confirm);
    }
    for device in simulation.some(task, 1_500, |stage| *stage == Stage::Asked) {
        simulation.act_on(task, device, UpgradeAction::Decline);
    }
    simulation.pass_s(5_000);
    let left = simulation.some(task, PART, |stage| *stage == Stage::Asked).len();
    assert!(left > 1_000, "{left} wait for an answer");
    assert_eq!(simulation.oracle.unfinished(task), left);
    simulation.act(task, TaskAction::Cancel);
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
}

#[test]
fn a_person_who_was_asked_in_vain_keeps_a_device_from_no_older_task_once_the_schedule_is_over() {
    let mut simulation = Simulation::new(PART / 10, patient(), Habits::default());
    let older = simulation.order(Plan::new(Policy::default()));
    let schedule = Schedule { end: Some(START.plus_seconds(1_000)), ..Schedule::default() };
    let newer = simulation.order(Plan { to: "3", ..Plan::new(Policy { confirmation: true, schedule, ..Policy::default() }) });
    simulation.act(older, TaskAction::Start);
    simulation.act(newer, TaskAction::Start);
    simulation.wake(60);
    simulation.run_to_rest(LONG_S);
    assert_eq!(simulation.oracle.tasks[older].succeeded, PART as u64 / 10);
}

#[test]
fn a_forced_device_is_held_by_nothing_but_a_cap() {
    let policy = Policy {
        maximum_concurrency: Some(40),
        schedule: Schedule { start: Some(START.plus_seconds(20 * DAY_S)), ..Schedule::default() },
        rate: Some(Rate { per_minute: 1, growth: None }),
        waves: vec![Wave { size: WaveSize::Count(1), success_percent: 100 }],
        confirmation: true,
        start_jitter_s: 10_000,
        ..Policy::default()
    };
    let (mut simulation, task) = started(1_000, Habits::default(), Plan::new(policy));
    simulation.pass_s(100);
    assert!(simulation.oracle.tasks[task].starts.is_empty());
    simulation.act(task, TaskAction::Pause);
    for device in simulation.some(task, 300, |stage| *stage == Stage::ToCome) {
        simulation.act_on(task, device, UpgradeAction::Force);
    }
    // Outside of their schedule devices were told to come back the next day.
    simulation.pass_s(2 * DAY_S);
    assert_eq!(simulation.oracle.tasks[task].succeeded, 300);
    assert!(simulation.oracle.tasks[task].held_most <= 40);
    simulation.compare_counts(task);
}

#[test]
fn operators_pause_resume_stop_start_and_cancel_in_the_middle() {
    let policy = Policy { maximum_concurrency: Some(800), retry: retrying(2), timeout_s: Some(150), ..Policy::default() };
    let (mut simulation, task) = started(PART, Habits::BAD, Plan { snapshot: true, ..Plan::new(policy) });
    for action in [TaskAction::Pause, TaskAction::Resume, TaskAction::Stop, TaskAction::Start, TaskAction::Pause, TaskAction::Stop]
    {
        simulation.pass_s(120);
        simulation.act(task, action);
        let held = simulation.some(task, 5, |stage| matches!(stage, Stage::Held { .. }));
        let over = simulation.some(task, 5, |stage| matches!(stage, Stage::Over(UpgradeState::Failed | UpgradeState::TimedOut)));
        let to_come = simulation.some(task, 5, |stage| *stage == Stage::ToCome);
        held.into_iter().chain(to_come).for_each(|device| simulation.act_on(task, device, UpgradeAction::Cancel));
        over.into_iter().for_each(|device| simulation.act_on(task, device, UpgradeAction::Retry));
    }
    simulation.pass_s(1_000);
    assert_eq!(simulation.oracle.tasks[task].held, 0, "what ran when it was stopped has gone on to its end");
    simulation.act(task, TaskAction::Start);
    simulation.wake(60);
    simulation.pass_s(200);
    simulation.act(task, TaskAction::Cancel);
    simulation.pass_s(1);
    assert_eq!(simulation.oracle.tasks[task].held, 0, "what ran when it was canceled was taken back");
    // Who starts it again wants what is left.
    simulation.pass_s(1_000);
    simulation.act(task, TaskAction::Start);
    simulation.wake(60);
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
}

#[test]
fn devices_that_come_later_join_an_incremental_task_and_no_snapshot() {
    for snapshot in [false, true] {
        let policy = Policy { maximum_concurrency: Some(1_000), ..Policy::default() };
        let plan = Plan { snapshot, rings: Some(vec![1, 2]), ..Plan::new(policy) };
        let (mut simulation, task) = started(PART, Habits::default(), plan);
        simulation.pass_s(100);
        simulation.join(500, 1);
        simulation.join(500, 3);
        simulation.wake(60);
        simulation.run_to_rest(LONG_S);
        simulation.expect_complete(task);
        let joined = if snapshot { 0 } else { 500 };
        assert_eq!(simulation.oracle.tasks[task].succeeded, PART as u64 / 2 + joined);
        assert_eq!(
            simulation.oracle.tasks[task].finished_at.is_some(),
            snapshot,
            "an incremental task never knows that it is done"
        );
    }
}

#[test]
fn a_device_deleted_in_the_middle_gives_its_permit_back_and_the_others_go_on() {
    let policy = Policy { maximum_concurrency: Some(500), retry: retrying(1), timeout_s: Some(150), ..Policy::default() };
    let (mut simulation, task) = started(PART, Habits::BAD, Plan { snapshot: true, ..Plan::new(policy) });
    for _ in 0..20 {
        simulation.pass_s(60);
        for device in simulation.some(task, 30, |stage| matches!(stage, Stage::Held { .. })) {
            simulation.remove(device);
        }
        for device in simulation.some(task, 10, |stage| matches!(stage, Stage::ToCome | Stage::Over(_))) {
            simulation.remove(device);
        }
    }
    simulation.run_to_rest(LONG_S);
    simulation.expect_complete(task);
    assert!(simulation.oracle.tasks[task].finished_at.is_some());
}

#[test]
fn a_snapshot_whose_last_devices_are_deleted_is_finished() {
    let policy = Policy { maximum_concurrency: Some(50), ..Policy::default() };
    let (mut simulation, task) =
        started(100, Habits { silent: 100, ..Habits::default() }, Plan { snapshot: true, ..Plan::new(policy) });
    simulation.pass_s(60);
    for device in 0..100 {
        simulation.remove(device);
    }
    simulation.run_to_rest(LONG_S);
    assert!(simulation.oracle.tasks[task].finished_at.is_some());
}
