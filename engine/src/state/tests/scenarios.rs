//! What becomes of devices and tasks, line by line.

use super::script::{Fleet, check_fleet, check_fleet_with};
use crate::error::Error;
use crate::state::*;
use expect_test::expect;

#[test]
fn last_permit_is_granted_once_and_freed_by_a_result() {
    check_fleet(
        "task 1.0 -> 2.0 cap=1
         d1 check 1.0
         start t1
         d1 check 1.0
         d2 check 1.0
         d1 check 1.0
         show t1
         d1 report succeeded
         d2 check 1.0
         d1 check 2.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 cap=1: t1 stopped
            d1 check 1.0: no task
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: wait: cap
            d1 check 1.0: offer again: 1.0 -> 2.0
            show t1: permits 1, offered 1; succeeded ever 0, at start 2
            d1 report succeeded: counted
            d2 check 1.0: offer: 1.0 -> 2.0
            d1 check 2.0: up to date
            show t1: permits 1, offered 1, succeeded 1; succeeded ever 1, at start 1
        "#]],
    );
}

#[test]
fn the_cap_of_the_server_binds_over_all_tasks() {
    check_fleet_with(
        Limits { permits_max: Some(1), ..Limits::default() },
        "task 1.0 -> 2.0
         task 3.0 -> 4.0
         start t1
         start t2
         d1 check 1.0
         d2 check 3.0
         d1 report failed
         d2 check 3.0",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            task 3.0 -> 4.0: t2 stopped
            start t1: started
            start t2: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 3.0: wait: cap
            d1 report failed: counted
            d2 check 3.0: offer: 3.0 -> 4.0
        "#]],
    );
}

#[test]
fn a_report_counts_once_however_often_it_is_sent() {
    check_fleet(
        "task 1.0 -> 2.0
         start t1
         d1 check 1.0
         d1 report downloading 10%
         d1 report downloading 10%
         d1 report downloading 5%
         d1 report installing
         d1 report downloaded
         d1 report succeeded
         d1 report succeeded
         d1 report failed
         show t1",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report downloading 10%: counted
            d1 report downloading 10%: nothing changed
            d1 report downloading 5%: nothing changed
            d1 report installing: counted
            d1 report downloaded: nothing changed
            d1 report succeeded: counted
            d1 report succeeded: nothing changed
            d1 report failed: nothing changed
            show t1: permits 0, succeeded 1; succeeded ever 1, at start 0
        "#]],
    );
}

#[test]
fn a_late_report_of_an_earlier_attempt_does_not_end_the_next() {
    let mut fleet = Fleet::new(Limits::default());
    for line in ["task 1.0 -> 2.0 retry=3", "start t1", "d1 check 1.0"] {
        fleet.line(line);
    }
    let first = fleet.offers["d1"];
    assert_eq!(fleet.line("d1 report failed"), "counted");
    fleet.line("pass 60");
    assert_eq!(fleet.line("d1 check 1.0"), "offer: 1.0 -> 2.0");
    let second = fleet.offers.insert("d1".into(), first).unwrap();
    assert_ne!(first, second);
    assert_eq!(fleet.line("d1 report failed"), "nothing changed");
    fleet.offers.insert("d1".into(), second);
    assert_eq!(fleet.line("d1 check 1.0"), "offer again: 1.0 -> 2.0");
}

#[test]
fn an_unknown_or_foreign_upgrade_is_not_found() {
    check_fleet(
        "task 1.0 -> 2.0
         start t1
         d1 check 1.0
         d2 check 1.0
         d2 report succeeded as d1
         d3 report succeeded as d1
         d9 report succeeded
         show t1",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report succeeded as d1: no upgrade "00000000000000000000000000000003" here
            d3 report succeeded as d1: no upgrade "00000000000000000000000000000003" here
            d9 report succeeded: no upgrade "00000009000000000000000000000009" here
            show t1: permits 2, offered 2; succeeded ever 0, at start 2
        "#]],
    );
}

#[test]
fn a_silent_device_gives_its_permit_back_exactly_at_its_deadline() {
    check_fleet(
        "task 1.0 -> 2.0 cap=1 timeout=100
         start t1
         d1 check 1.0
         pass 99
         d2 check 1.0
         pass 1
         d2 check 1.0
         d1 report succeeded
         d1 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 cap=1 timeout=100: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            pass 99: next in 1 s
            d2 check 1.0: wait: cap
            pass 1: nothing due
            d2 check 1.0: offer: 1.0 -> 2.0
            d1 report succeeded: nothing changed
            d1 check 1.0: no task
            show t1: permits 1, offered 1, timed_out 1; succeeded ever 0, at start 2
        "#]],
    );
}

#[test]
fn a_failed_device_tries_again_after_the_interval_while_attempts_are_left() {
    check_fleet(
        "task 1.0 -> 2.0 retry=1
         start t1
         d1 check 1.0
         d1 report failed
         d1 check 1.0
         pass 59
         d1 check 1.0
         pass 1
         d1 check 1.0
         d1 report failed
         d1 check 1.0
         retry t1 d1
         d1 check 1.0
         d1 report rejected
         d1 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 retry=1: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            d1 check 1.0: wait: back_off 60 s
            pass 59: nothing due
            d1 check 1.0: wait: back_off 1 s
            pass 1: nothing due
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            d1 check 1.0: no task
            retry t1 d1: done
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report rejected: counted
            d1 check 1.0: no task
            show t1: permits 0, rejected 1; succeeded ever 0, at start 1
        "#]],
    );
}

#[test]
fn stopping_offers_nothing_new_and_lets_what_runs_go_on() {
    check_fleet(
        "task 1.0 -> 2.0
         start t1
         d1 check 1.0
         stop t1
         d1 check 1.0
         d1 check 1.0 while_started
         d2 check 1.0
         d1 report succeeded
         start t1
         pause t1
         d2 check 1.0
         resume t1
         d2 check 1.0
         stop t1
         pause t1
         resume t1",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            stop t1: stopped
            d1 check 1.0: offer again: 1.0 -> 2.0
            d1 check 1.0 while_started: no task
            d2 check 1.0: no task
            d1 report succeeded: counted
            start t1: started
            pause t1: paused
            d2 check 1.0: wait: paused
            resume t1: started
            d2 check 1.0: offer: 1.0 -> 2.0
            stop t1: stopped
            pause t1: the task is stopped; only a started one can be paused
            resume t1: the task is stopped; start it instead of resuming it
        "#]],
    );
}

#[test]
fn a_version_starts_one_task_and_the_newest_wins_where_they_may_share() {
    check_fleet(
        "task 1.0 -> 2.0
         task 1.0 -> 3.0
         task 1.0 -> 3.0 shared
         task 2.0,2.1 -> 2.0
         task 2.0,2.0 -> 3.0
         start t1
         d1 check 1.0
         start t2
         d2 check 1.0
         delete t2
         d2 check 1.0
         d2 report succeeded",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            task 1.0 -> 3.0: task 000f42400000000000000000 starts from version "1.0" already; delete it first
            task 1.0 -> 3.0 shared: t2 stopped
            task 2.0,2.1 -> 2.0: target version "2.0" is among the from-versions; a task has to lead somewhere else
            task 2.0,2.0 -> 3.0: from-version "2.0" is named twice
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            start t2: started
            d2 check 1.0: offer: 1.0 -> 3.0
            delete t2: done
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report succeeded: counted
        "#]],
    );
}

#[test]
fn a_snapshot_keeps_its_devices_and_takes_no_others() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=b
         task 1.0 -> 2.0 snapshot tag=a
         start t1
         tag d3 1.0 ring=a
         d1 check 1.0
         d2 check 1.0
         d3 check 1.0
         delete t1
         task 1.0 -> 2.0 tag=a
         start t2
         d3 check 1.0
         d2 check 1.0",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=b: done
            task 1.0 -> 2.0 snapshot tag=a: t1 stopped
            start t1: started
            tag d3 1.0 ring=a: done
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: no task
            d3 check 1.0: no task
            delete t1: done
            task 1.0 -> 2.0 tag=a: t2 stopped
            start t2: started
            d3 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: no task
        "#]],
    );
}

#[test]
fn a_schedule_that_is_not_open_yet_holds_everybody() {
    check_fleet(
        "task 1.0 -> 2.0 opens=3600
         start t1
         d1 check 1.0
         pass 3600
         d1 check 1.0",
        expect![[r#"
            task 1.0 -> 2.0 opens=3600: t1 stopped
            start t1: started
            d1 check 1.0: wait: schedule
            pass 3600: nothing due
            d1 check 1.0: offer: 1.0 -> 2.0
        "#]],
    );
}

#[test]
fn a_result_told_by_versions_counts_once_also_without_an_offer() {
    check_fleet(
        "task 1.0 -> 2.0 repeat retry=4294967295
         d1 went 1.0 -> 2.0 ok
         d1 went 1.0 -> 2.0 ok
         d2 went 7.0 -> 7.0 ok
         start t1
         d3 check 1.0
         d3 went 1.0 -> 2.0 failed
         d3 went 1.0 -> 2.0 failed
         show t1
         d3 went 1.0 -> 2.0 ok
         d3 check 1.0
         d3 went 1.0 -> 2.0 ok
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 repeat retry=4294967295: t1 stopped
            d1 went 1.0 -> 2.0 ok: counted
            d1 went 1.0 -> 2.0 ok: nothing changed
            d2 went 7.0 -> 7.0 ok: recorded without a task
            start t1: started
            d3 check 1.0: offer: 1.0 -> 2.0
            d3 went 1.0 -> 2.0 failed: counted
            d3 went 1.0 -> 2.0 failed: nothing changed
            show t1: permits 0, waiting 1, succeeded 1; succeeded ever 1, at start 1
            d3 went 1.0 -> 2.0 ok: counted
            d3 check 1.0: offer: 1.0 -> 2.0
            d3 went 1.0 -> 2.0 ok: counted
            show t1: permits 0, succeeded 2; succeeded ever 2, at start 0
        "#]],
    );
}

#[test]
fn canceling_frees_the_permit_and_keeps_the_device_out_until_it_is_retried() {
    check_fleet(
        "task 1.0 -> 2.0 cap=1
         start t1
         d1 check 1.0
         cancel t1 d1
         d2 check 1.0
         d1 report succeeded
         d1 check 1.0
         cancel t1 d1
         retry t1 d2
         d2 report succeeded
         cancel t1 d2
         retry t1 d2
         retry t1 d1
         d1 check 1.0
         cancel t1 d9",
        expect![[r#"
            task 1.0 -> 2.0 cap=1: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            cancel t1 d1: done
            d2 check 1.0: offer: 1.0 -> 2.0
            d1 report succeeded: nothing changed
            d1 check 1.0: no task
            cancel t1 d1: done
            retry t1 d2: the upgrade of d2 is offered; only one that failed can be retried
            d2 report succeeded: counted
            cancel t1 d2: the upgrade of d2 is succeeded; it can't be canceled
            retry t1 d2: the upgrade of d2 is succeeded; only one that failed can be retried
            retry t1 d1: done
            d1 check 1.0: offer: 1.0 -> 2.0
            cancel t1 d9: no device "d9" here
        "#]],
    );
}

#[test]
fn a_preview_records_nothing_and_takes_no_permit() {
    check_fleet(
        "task 1.0 -> 2.0 cap=1
         start t1
         d1 check 1.0 preview
         d1 check 1.0 preview known
         tag d1 0.9 ring=a
         d1 check 1.0 preview
         show t1
         d1 check 0.9
         d2 check 1.0 known",
        expect![[r#"
            task 1.0 -> 2.0 cap=1: t1 stopped
            start t1: started
            d1 check 1.0 preview: preview: 1.0 -> 2.0
            d1 check 1.0 preview known: no device "d1" here
            tag d1 0.9 ring=a: done
            d1 check 1.0 preview: preview: 1.0 -> 2.0
            show t1: permits 0; succeeded ever 0, at start 0
            d1 check 0.9: no task
            d2 check 1.0 known: no device "d2" here
        "#]],
    );
}

#[test]
fn a_device_that_is_removed_gives_its_permit_back() {
    check_fleet(
        "task 1.0 -> 2.0 cap=1
         start t1
         d1 check 1.0
         remove d1
         d2 check 1.0
         d1 report succeeded
         d1 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 cap=1: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            remove d1: done
            d2 check 1.0: offer: 1.0 -> 2.0
            d1 report succeeded: no upgrade "00000000000000000000000000000003" here
            d1 check 1.0: wait: cap
            show t1: permits 1, offered 1; succeeded ever 0, at start 2
        "#]],
    );
}

#[test]
fn every_change_of_an_upgrade_is_told_once_in_order() {
    let mut fleet = Fleet::new(Limits::default());
    for line in
        ["task 1.0 -> 2.0", "start t1", "start t1", "d1 check 1.0", "d1 report downloading 50%", "d1 report succeeded", "stop t1"]
    {
        fleet.line(line);
    }
    let told: Vec<String> = fleet
        .events
        .iter()
        .map(|event| format!("{} {} {}", event.sequence, event.kind.name(), event.state.map_or("-", UpgradeState::name)))
        .collect();
    assert_eq!(
        told,
        [
            "1 task_created -",
            "2 task_started -",
            "3 offered offered",
            "4 progress downloading",
            "5 result succeeded",
            "6 task_stopped -"
        ]
    );
}

#[test]
fn what_is_undone_leaves_no_trace() {
    let mut fleet = Fleet::new(Limits::default());
    for line in [
        "tag d1 1.0 ring=a",
        "tag d2 1.0 ring=b",
        "task 1.0 -> 2.0 cap=1 retry=1 timeout=50 rate=5 wave=50%:50 ends=900 cancel_at=50:1",
        "start t1",
        "d1 check 1.0",
    ] {
        fleet.line(line);
    }
    let before = format!("{:?}", Comparable(&fleet.state));
    let commands = [
        Command::DeleteTask { organization: "o".into(), id: fleet.tasks[0], rules: ActionRules::default() },
        Command::DeleteDevice(Fleet::device("d1")),
        fleet.act_on_upgrades("cancel", "t1", &["d1"], ActionRules::default()),
        fleet.act_on_upgrades("force", "t1", &["d2"], ActionRules::default()),
        fleet.act_on_task("cancel", "t1", ActionRules::default()),
        fleet.act_on_task("open", "t1", ActionRules::default()),
        Command::Check {
            device: Fleet::device("fresh"),
            component: Component::MAIN,
            version: "9".into(),
            rules: CheckRules { register: true, ..CheckRules::default() },
        },
        Command::Tick,
    ];
    let later = fleet.now.plus_seconds(51);
    for command in commands {
        fleet.state.apply(command.clone(), later).unwrap();
        fleet.state.undo_all();
        assert_eq!(format!("{:?}", Comparable(&fleet.state)), before, "after undoing {command:?}");
    }
}

/// What a state says of itself, without the order in which its maps happen to lie and without time.
struct Comparable<'a>(&'a State);

impl std::fmt::Debug for Comparable<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0;
        let mut versions: Vec<_> = state.versions.iter().filter(|(_, versions)| !versions.is_empty()).collect();
        versions.sort_by_key(|(key, _)| **key);
        let mut live: Vec<_> = state.live.iter().collect();
        live.sort_by_key(|(device, _)| **device);
        let mut starts: Vec<_> = state.starts.iter().collect();
        starts.sort();
        let tasks: Vec<_> = state
            .tasks
            .values()
            .map(|entry| {
                let sets = (&entry.unfinished, &entry.finished, &entry.succeeded, &entry.succeeded_by_wave);
                (entry.view.row(), &entry.counts, sets, entry.failing, &entry.pace, entry.permits_held)
            })
            .collect();
        let devices: Vec<_> = state.devices.iter().flatten().collect();
        let live: Vec<_> =
            live.into_iter().map(|(_, upgrades)| upgrades.iter().map(|live| &live.row).collect::<Vec<_>>()).collect();
        write!(
            formatter,
            "{:?} {versions:?} {live:?} {starts:?} {tasks:?} {devices:?} {:?} {:?} {:?} {:?} {} {} {}",
            state.products,
            state.deadlines,
            state.ends,
            state.canceling,
            state.upgrading,
            state.permits_held,
            state.event_sequence,
            state.devices_count
        )
    }
}

#[test]
fn a_clock_that_goes_back_does_not_bring_a_deadline_back() {
    let mut fleet = Fleet::new(Limits::default());
    for line in ["task 1.0 -> 2.0 timeout=100", "start t1", "pass 1000"] {
        fleet.line(line);
    }
    fleet.now = Timestamp::from_seconds(5);
    assert_eq!(fleet.line("d1 check 1.0"), "offer: 1.0 -> 2.0");
    let deadline = fleet.state.deadlines.first().unwrap().0;
    assert_eq!(deadline, Timestamp::from_seconds(1_000_000 + 1_000 + 100));
}

#[test]
fn a_tick_moves_a_bounded_number_and_asks_to_be_called_again() {
    let mut fleet = Fleet::new(Limits::default());
    fleet.line("task 1.0 -> 2.0 timeout=10");
    fleet.line("start t1");
    for number in 0..1_500 {
        fleet.line(&format!("d{number} check 1.0"));
    }
    assert_eq!(fleet.line("pass 10"), "next in 0 s");
    assert_eq!(fleet.line("pass 0"), "nothing due");
    assert_eq!(fleet.state.permits_held, 0);
}

#[test]
fn a_device_deleted_and_created_again_in_one_group_is_one_device() {
    let mut fleet = Fleet::new(Limits::default());
    for line in ["task 1.0 -> 2.0 cap=5", "start t1", "d1 check 1.0"] {
        fleet.line(line);
    }
    let rules = CheckRules { register: true, ..CheckRules::default() };
    let check = || Command::Check { device: Fleet::device("d1"), component: Component::MAIN, version: "1.0".into(), rules };
    let offered = |outcome| match outcome {
        Ok(Outcome::Decision(Decision::Offer(offer))) => offer.id,
        other => panic!("{other:?}"),
    };
    // One group: nothing is published in between.
    fleet.state.apply(Command::DeleteDevice(Fleet::device("d1")), fleet.now).unwrap();
    let first = offered(fleet.state.apply(check(), fleet.now));
    let second = offered(fleet.state.apply(check(), fleet.now));
    assert_eq!(first, second);
    assert_eq!(fleet.state.permits_held, 1);
    assert_eq!(offered(fleet.apply(check())), first, "also once it is published");
    assert_eq!(fleet.state.devices_count, 1);
}

#[test]
fn a_start_or_stop_in_the_same_group_counts_for_a_held_offer() {
    let mut fleet = Fleet::new(Limits::default());
    fleet.line("task 1.0 -> 2.0");
    let rules = CheckRules { register: true, only_while_started: true, ..CheckRules::default() };
    let check = || Command::Check { device: Fleet::device("d1"), component: Component::MAIN, version: "1.0".into(), rules };
    let act = |action| Command::ActOnTask {
        organization: "o".into(),
        id: TaskId { created_s: 1_000_000, store: 0, number: TaskNumber(0) },
        action,
        rules: ActionRules::default(),
    };
    let is_offer = |outcome: Result<Outcome, Error>| matches!(outcome, Ok(Outcome::Decision(Decision::Offer(_))));
    fleet.state.apply(act(TaskAction::Start), fleet.now).unwrap();
    assert!(is_offer(fleet.state.apply(check(), fleet.now)));
    assert!(is_offer(fleet.state.apply(check(), fleet.now)));
    fleet.state.apply(act(TaskAction::Stop), fleet.now).unwrap();
    assert!(!is_offer(fleet.state.apply(check(), fleet.now)));
}

#[test]
fn a_late_or_repeated_result_told_by_versions_changes_nothing() {
    check_fleet(
        "task 1.0 -> 2.0 retry=1
         start t1
         d1 check 1.0
         d1 went 1.0 -> 2.0 failed
         pass 60
         d1 check 1.0
         d1 went 1.0 -> 2.0 failed
         d1 went 1.0 -> 2.0 failed
         d1 check 1.0
         d2 check 1.0
         cancel t1 d2
         d2 went 1.0 -> 2.0 failed
         d2 check 1.0
         d3 check 1.0
         d3 went 1.0 -> 2.0 ok
         d3 check 3.0
         d3 went 1.0 -> 2.0 ok
         task 3.0 -> 4.0
         show t2
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 retry=1: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 went 1.0 -> 2.0 failed: counted
            pass 60: nothing due
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 went 1.0 -> 2.0 failed: counted
            d1 went 1.0 -> 2.0 failed: nothing changed
            d1 check 1.0: no task
            d2 check 1.0: offer: 1.0 -> 2.0
            cancel t1 d2: done
            d2 went 1.0 -> 2.0 failed: nothing changed
            d2 check 1.0: no task
            d3 check 1.0: offer: 1.0 -> 2.0
            d3 went 1.0 -> 2.0 ok: counted
            d3 check 3.0: no task
            d3 went 1.0 -> 2.0 ok: nothing changed
            task 3.0 -> 4.0: t2 stopped
            show t2: permits 0; succeeded ever 0, at start 1
            show t1: permits 0, succeeded 1, failed 1, canceled 1; succeeded ever 1, at start 2
        "#]],
    );
}

#[test]
fn numbers_of_what_was_undone_are_given_back() {
    let mut fleet = Fleet::new(Limits { devices_max: 2, ..Limits::default() });
    let rules = CheckRules { register: true, ..CheckRules::default() };
    for id in ["a", "b", "c"] {
        let command = Command::Check { device: Fleet::device(id), component: Component::MAIN, version: "1".into(), rules };
        fleet.state.apply(command, fleet.now).unwrap();
        fleet.state.undo_all();
    }
    assert_eq!(fleet.line("d1 check 1.0"), "no task");
    assert_eq!(fleet.line("d2 check 1.0"), "no task");
    assert_eq!(fleet.line("d3 check 1.0"), "devices are limited to 2; raise the limit or delete some");
    assert_eq!(fleet.line("remove d1"), "done");
    assert_eq!(fleet.line("d3 check 1.0"), "no task");
    assert_eq!(fleet.state.device_row(DeviceNumber(2)).unwrap().id, "d3".into(), "a deleted device's number is nobody else's");
}

#[test]
fn a_subscription_moves_forward_only_and_belongs_to_its_organization() {
    let mut fleet = Fleet::new(Limits::default());
    for line in ["task 1.0 -> 2.0", "start t1", "d1 check 1.0"] {
        fleet.line(line);
    }
    let row = |organization: &str| {
        Command::PutSubscription(Box::new(Subscription {
            filters: Vec::new(),
            id: "s".into(),
            organization: organization.into(),
            url: "http://there/".into(),
            format: "native".into(),
            app: None,
            secret_encrypted: None,
            position: 0,
            created_at: Timestamp(0),
        }))
    };
    let advance = |position| Command::AdvanceSubscription { id: "s".into(), position };
    let position = |fleet: &Fleet| fleet.state.subscription("o", "s").map(|row| row.position);
    fleet.apply(row("o")).unwrap();
    fleet.apply(advance(2)).unwrap();
    fleet.apply(advance(1)).unwrap();
    assert_eq!(position(&fleet), Some(2));
    fleet.apply(advance(u64::MAX)).unwrap();
    assert_eq!(position(&fleet), Some(3), "no further than what has happened");
    assert!(fleet.apply(row("other")).is_err(), "another's subscription isn't replaced");
    assert!(fleet.apply(Command::DeleteSubscription { organization: "other".into(), id: "s".into() }).is_err());
    fleet.apply(Command::DeleteSubscription { organization: "o".into(), id: "s".into() }).unwrap();
    assert_eq!(position(&fleet), None);
    assert!(fleet.apply(advance(9)).is_ok(), "an answer that comes after the end is nothing to complain about");
}
