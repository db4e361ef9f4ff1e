//! Every policy at once, operators that interfere, and restarts.

use super::ordered::Stage;
use super::simulation::{Habits, Plan, START, Simulation};
use super::{LONG_S, PART, WHOLE, patient, retrying};
use crate::limits::Limits;
use crate::state::*;

/// Tasks of which each has several policies, and all have each: from "1" the rings go three ways, and one of them goes on to "4".
fn everything(count: usize) -> Vec<Plan> {
    let wave = |share, success_percent| Wave { size: WaveSize::Percent(share), success_percent };
    let growth = Growth { factor_percent: 150, after: 5_000, counting: Counting::Notified, per_minute_max: 9_000 };
    let back_off = Some(BackOff { factor_percent: 200, interval_max_s: 300 });
    let retry = Retry { count: 2, interval_s: 60, back_off, jitter_s: 30, codes: vec![-1, -2] };
    let minimum = count as u32 / 40;
    let threshold = |kind, percent, action| Threshold { kind, percent, minimum, action };
    vec![
        Plan {
            rings: Some(vec![0, 1]),
            snapshot: true,
            ..Plan::new(Policy {
                maximum_concurrency: Some(6_000),
                timeout_s: Some(300),
                retry: Some(retry.clone()),
                schedule: Schedule { start: Some(START.plus_seconds(900)), ..Schedule::default() },
                rate: Some(Rate { per_minute: 3_000, growth: Some(growth) }),
                waves: vec![wave(5, 80), wave(25, 70)],
                start_jitter_s: 300,
                thresholds: vec![threshold(Some(FailureKind::Rejected), 3, ThresholdAction::Pause)],
                approval: true,
                ..Policy::default()
            })
        },
        Plan {
            rings: Some(vec![2]),
            ..Plan::new(Policy {
                maximum_concurrency: Some(3_000),
                timeout_s: Some(200),
                timeout_from: TimeoutFrom::Running,
                retry: Some(retry.clone()),
                confirmation: true,
                ..Policy::default()
            })
        },
        Plan {
            rings: Some(vec![3]),
            to: "3",
            ..Plan::new(Policy {
                maximum_concurrency: Some(2_000),
                timeout_s: Some(200),
                schedule: Schedule {
                    daily: Some(Daily { from_s: 8 * 3_600, to_s: 7 * 3_600 }),
                    utc_offset_minutes: -570,
                    end: Some(START.plus_seconds(86_400)),
                    ..Schedule::default()
                },
                thresholds: vec![threshold(None, 15, ThresholdAction::Cancel)],
                ..Policy::default()
            })
        },
        Plan {
            from: vec!["3", "2"],
            to: "4",
            rings: Some(vec![0, 3]),
            policy: Policy {
                rate: Some(Rate { per_minute: 2_500, growth: None }),
                start_jitter_s: 60,
                timeout_s: Some(250),
                retry: retrying(1),
                ..Policy::default()
            },
            snapshot: false,
        },
    ]
}

fn run_everything(count: usize, restarts: bool) {
    let limits = Limits { permits_max: Some(8_000), ..patient() };
    let mut simulation = Simulation::new(count, limits, Habits::BAD);
    if restarts {
        simulation.keep();
    }
    let tasks: Vec<usize> = everything(count).into_iter().map(|plan| simulation.order(plan)).collect();
    for task in &tasks {
        simulation.act(*task, TaskAction::Start);
    }
    simulation.wake(60);
    for round in 0..40 {
        simulation.pass_s(100);
        if restarts {
            simulation.restart();
        }
        interfere(&mut simulation, &tasks, round);
        for task in &tasks {
            // Whatever paused it, an operator looks at it and lets it go on; one that was canceled stays so.
            if simulation.oracle.tasks[*task].status == TaskStatus::Paused && round % 3 == 2 {
                simulation.act(*task, TaskAction::Resume);
            }
        }
    }
    for device in simulation.some(1, count, |stage| *stage == Stage::Asked) {
        simulation.act_on(1, device, UpgradeAction::Confirm);
    }
    // A threshold that was once passed would stop it again and again; what it leaves is canceled.
    simulation.pass_s(5_000);
    if simulation.oracle.tasks[0].status == TaskStatus::Paused {
        simulation.act(0, TaskAction::Cancel);
    }
    simulation.wake(60);
    simulation.run_to_rest(LONG_S);
    for task in tasks {
        let ordered = &simulation.oracle.tasks[task];
        println!("task {task}: {:?}, {} succeeded, {} failures", ordered.status, ordered.succeeded, ordered.failures());
        assert_eq!(ordered.held, 0);
        assert!(ordered.succeeded > count as u64 / 100);
        simulation.compare_counts(task);
    }
    // The one that nothing stops has skipped nobody.
    simulation.expect_complete(1);
}

/// What operators do in the middle.
fn interfere(simulation: &mut Simulation, tasks: &[usize], round: u32) {
    match round {
        5 => simulation.act(tasks[0], TaskAction::Approve),
        14 => simulation.act(tasks[0], TaskAction::Pause),
        9 => simulation.act(tasks[1], TaskAction::Stop),
        10 => {
            simulation.act(tasks[1], TaskAction::Start);
            simulation.wake(60);
        }
        3 | 20 => {
            simulation.join(100, 2);
            simulation.wake(60);
        }
        _ => {}
    }
    let is_held = |stage: &Stage| matches!(stage, Stage::Held { .. });
    for task in tasks {
        for device in simulation.some(*task, 3, is_held) {
            simulation.act_on(*task, device, UpgradeAction::Cancel);
        }
        for device in simulation.some(*task, 2, is_held) {
            simulation.remove(device);
        }
    }
    for device in simulation.some(tasks[0], 5, |stage| *stage == Stage::ToCome) {
        simulation.act_on(tasks[0], device, UpgradeAction::Force);
    }
    for device in simulation.some(tasks[1], 2_000, |stage| *stage == Stage::Asked) {
        simulation.act_on(tasks[1], device, UpgradeAction::Confirm);
    }
    for device in simulation.some(tasks[1], 20, |stage| *stage == Stage::Asked) {
        simulation.act_on(tasks[1], device, UpgradeAction::Decline);
    }
    for device in simulation.some(tasks[3], 5, |stage| matches!(stage, Stage::Over(UpgradeState::Failed | UpgradeState::TimedOut)))
    {
        simulation.act_on(tasks[3], device, UpgradeAction::Retry);
    }
}

#[test]
fn all_policies_together_keep_every_promise_of_each() {
    run_everything(WHOLE, false);
}

#[test]
fn all_policies_together_decide_the_same_after_restarts_in_the_middle() {
    run_everything(PART, true);
}
