//! Each policy in a few lines: who begins when, and what a task does by itself.

use super::script::{Fleet, check_fleet};
use crate::limits::Limits;
use crate::model::{TaskNumber, UpgradeState};
use expect_test::expect;

#[test]
fn a_rate_lets_so_many_begin_in_any_sixty_seconds() {
    check_fleet(
        "task 1.0 -> 2.0 rate=2
         start t1
         d1 check 1.0
         pass 30
         d2 check 1.0
         d3 check 1.0
         pass 29
         d3 check 1.0
         pass 1
         d3 check 1.0
         d4 check 1.0
         explain d4
         pass 30
         d4 check 1.0",
        expect![[r#"
            task 1.0 -> 2.0 rate=2: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            pass 30: next in 7170 s
            d2 check 1.0: offer: 1.0 -> 2.0
            d3 check 1.0: wait: rate
            pass 29: next in 7141 s
            d3 check 1.0: wait: rate
            pass 1: next in 7140 s
            d3 check 1.0: offer: 1.0 -> 2.0
            d4 check 1.0: wait: rate
            explain d4: held by rate: 2 have begun in the last minute; number 1 of 1 in the queue
            pass 30: next in 7110 s
            d4 check 1.0: offer: 1.0 -> 2.0
        "#]],
    );
}

#[test]
fn the_next_wave_opens_when_enough_of_the_one_before_have_succeeded() {
    let mut fleet = Fleet::new(Limits::default());
    for device in 0..10 {
        fleet.line(&format!("tag d{device} 1.0 ring=a"));
    }
    fleet.line("task 1.0 -> 2.0 wave=20%:50 wave=30%:100");
    fleet.line("start t1");
    let begun = |fleet: &mut Fleet| -> Vec<String> {
        let asked = (0..10).map(|device| format!("d{device}"));
        asked.filter(|device| fleet.line(&format!("{device} check 1.0")).starts_with("offer:")).collect()
    };
    let first = begun(&mut fleet);
    assert_eq!(first.len(), 2);
    fleet.line(&format!("{} report failed", first[0]));
    assert!(begun(&mut fleet).is_empty(), "a failure opens nothing");
    fleet.line(&format!("{} report succeeded", first[1]));
    let second = begun(&mut fleet);
    assert_eq!(second.len(), 3);
    fleet.line(&format!("{} report succeeded", second[0]));
    fleet.line(&format!("{} report succeeded", second[1]));
    assert!(begun(&mut fleet).is_empty(), "two of three are not all");
    fleet.line("open t1");
    assert_eq!(begun(&mut fleet).len(), 5);
    assert!(fleet.line("open t1").ends_with("has no wave left to open"));
}

#[test]
fn a_threshold_pauses_at_the_very_result_that_reaches_it() {
    check_fleet(
        "task 1.0 -> 2.0 pause_at=50:3
         start t1
         d1 check 1.0
         d2 check 1.0
         d3 check 1.0
         d4 check 1.0
         d1 report failed
         d2 report failed
         d5 check 1.0
         d3 report succeeded
         d6 check 1.0
         d4 report failed
         d7 check 1.0
         d5 report succeeded
         resume t1
         d7 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 pause_at=50:3: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            d3 check 1.0: offer: 1.0 -> 2.0
            d4 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            d2 report failed: counted
            d5 check 1.0: offer: 1.0 -> 2.0
            d3 report succeeded: counted
            d6 check 1.0: wait: paused
            d4 report failed: counted
            d7 check 1.0: wait: paused
            d5 report succeeded: counted
            resume t1: started
            d7 check 1.0: offer: 1.0 -> 2.0
            show t1: permits 1, offered 1, succeeded 2, failed 3; succeeded ever 2, at start 5
        "#]],
    );
}

#[test]
fn a_threshold_that_cancels_takes_back_what_runs() {
    check_fleet(
        "task 1.0 -> 2.0 cancel_at=10:1 retry=3
         start t1
         d1 check 1.0
         d2 check 1.0
         d1 report failed
         show t1
         d2 report succeeded
         d3 check 1.0",
        expect![[r#"
            task 1.0 -> 2.0 cancel_at=10:1 retry=3: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            show t1: permits 0, canceled 2; succeeded ever 0, at start 2
            d2 report succeeded: nothing changed
            d3 check 1.0: no task
        "#]],
    );
}

#[test]
fn a_task_that_waits_for_its_approval_begins_nothing() {
    check_fleet(
        "task 1.0 -> 2.0 approval
         start t1
         d1 check 1.0
         explain d1
         approve t1
         approve t1
         d1 check 1.0",
        expect![[r#"
            task 1.0 -> 2.0 approval: t1 stopped
            start t1: started
            d1 check 1.0: wait: approval
            explain d1: held until an operator approves the task; number 1 of 1 in the queue
            approve t1: started
            approve t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
        "#]],
    );
}

#[test]
fn a_device_begins_after_a_person_said_yes_for_it() {
    check_fleet(
        "task 1.0 -> 2.0 confirmation cap=5 retry=1
         start t1
         d1 check 1.0
         d1 check 1.0
         show t1
         explain d1
         confirm t1 d1
         confirm t1 d1
         d1 check 1.0
         d1 report failed
         pass 60
         d1 check 1.0
         d2 check 1.0
         decline t1 d2
         decline t1 d2
         d2 check 1.0
         confirm t1 d2
         confirm t1 d3
         tag d3 1.0 ring=a
         confirm t1 d3
         d3 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 confirmation cap=5 retry=1: t1 stopped
            start t1: started
            d1 check 1.0: wait: confirmation
            d1 check 1.0: wait: confirmation
            show t1: permits 0, awaiting_confirmation 1; succeeded ever 0, at start 1
            explain d1: held until a person says yes for this device
            confirm t1 d1: done
            confirm t1 d1: done
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            pass 60: nothing due
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: wait: confirmation
            decline t1 d2: done
            decline t1 d2: done
            d2 check 1.0: no task
            confirm t1 d2: the upgrade of d2 has begun or is over
            confirm t1 d3: no device "d3" here
            tag d3 1.0 ring=a: done
            confirm t1 d3: done
            d3 check 1.0: offer: 1.0 -> 2.0
            show t1: permits 2, offered 2, rejected 1; succeeded ever 0, at start 3
        "#]],
    );
}

#[test]
fn force_overrules_when_but_neither_whom_nor_the_cap() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         tag d3 1.0 ring=b
         task 1.0 -> 2.0 tag=a cap=1 opens=1000 jitter=500 approval confirmation
         start t1
         d1 check 1.0
         force t1 d1
         force t1 d2
         force t1 d3
         d1 check 1.0
         d2 check 1.0
         d1 report succeeded
         d2 check 1.0
         force t1 d2
         force t1 d1",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            tag d3 1.0 ring=b: done
            task 1.0 -> 2.0 tag=a cap=1 opens=1000 jitter=500 approval confirmation: t1 stopped
            start t1: started
            d1 check 1.0: wait: schedule
            force t1 d1: done
            force t1 d2: done
            force t1 d3: no upgrade "d3" here
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: wait: cap
            d1 report succeeded: counted
            d2 check 1.0: offer: 1.0 -> 2.0
            force t1 d2: the upgrade of d2 is offered already
            force t1 d1: d1 runs none of the versions that the task leads from
        "#]],
    );
}

#[test]
fn a_deadline_may_run_from_the_first_sign_of_running() {
    check_fleet(
        "task 1.0 -> 2.0 timeout=300 from_running
         start t1
         d1 check 1.0
         pass 100000
         show t1
         d1 report downloading 1%
         pass 299
         show t1
         d1 report downloading 2%
         pass 1
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 timeout=300 from_running: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            pass 100000: nothing due
            show t1: permits 1, offered 1; succeeded ever 0, at start 1
            d1 report downloading 1%: counted
            pass 299: next in 1 s
            show t1: permits 1, downloading 1; succeeded ever 0, at start 1
            d1 report downloading 2%: counted
            pass 1: nothing due
            show t1: permits 0, timed_out 1; succeeded ever 0, at start 1
        "#]],
    );
}

#[test]
fn a_snapshot_is_finished_when_every_member_is() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 snapshot
         start t1
         d1 check 1.0
         d1 report succeeded
         tag d3 1.0 ring=a
         d3 check 1.0
         events
         d2 check 1.0
         d2 report failed
         events
         retry t1 d2
         d2 check 1.0
         d2 report succeeded
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 snapshot: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report succeeded: counted
            tag d3 1.0 ring=a: done
            d3 check 1.0: no task
            events: task_created, task_started
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report failed: counted
            events: task_finished
            retry t1 d2: done
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report succeeded: counted
            events: task_finished
        "#]],
    );
}

#[test]
fn a_snapshot_is_finished_when_those_that_were_left_went_elsewhere() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 snapshot
         start t1
         d1 check 3.0
         events
         remove d2
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 snapshot: t1 stopped
            start t1: started
            d1 check 3.0: no task
            events: task_created, task_started
            remove d2: done
            events: task_finished
        "#]],
    );
}

#[test]
fn a_device_that_turns_up_with_the_target_while_it_waits_has_succeeded() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 snapshot timeout=100 retry=3
         start t1
         d1 check 1.0
         d2 check 1.0
         pass 100
         d1 check 2.0
         show t1
         tag d2 2.0 ring=a
         show t1
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 snapshot timeout=100 retry=3: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            pass 100: nothing due
            d1 check 2.0: up to date
            show t1: permits 0, waiting 1, succeeded 1; succeeded ever 1, at start 1
            tag d2 2.0 ring=a: done
            show t1: permits 0, succeeded 2; succeeded ever 2, at start 0
            events: task_created, task_started, task_finished
        "#]],
    );
}

#[test]
fn where_the_version_decides_the_next_check_ends_the_upgrade() {
    check_fleet(
        "task 1.0 -> 2.0 cap=2 from_running version_decides
         start t1
         d1 check 1.0
         d2 check 1.0
         d3 check 1.0
         d1 check 2.0
         d2 report installing
         d2 check 7.7
         show t1
         d1 report succeeded
         d3 check 1.0
         d3 check 1.0
         show t1",
        expect![[r#"
            task 1.0 -> 2.0 cap=2 from_running version_decides: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            d3 check 1.0: wait: cap
            d1 check 2.0: up to date
            d2 report installing: counted
            d2 check 7.7: no task
            show t1: permits 0, succeeded 1, failed 1; succeeded ever 1, at start 1
            d1 report succeeded: nothing changed
            d3 check 1.0: offer: 1.0 -> 2.0
            d3 check 1.0: offer again: 1.0 -> 2.0
            show t1: permits 1, offered 1, succeeded 1, failed 1; succeeded ever 1, at start 1
        "#]],
    );
}

#[test]
fn a_snapshot_lists_its_devices_whatever_they_run_by_now() {
    let mut fleet = Fleet::new(Limits::default());
    for line in ["tag d1 1.0 ring=a", "tag d2 1.0 ring=a", "task 1.0 -> 2.0 snapshot", "start t1", "d1 check 3.0"] {
        fleet.line(line);
    }
    let waiting = |fleet: &Fleet| fleet.state.runs(TaskNumber(0), &[UpgradeState::Waiting]).len();
    assert_eq!(waiting(&fleet), 2);
    assert_eq!(fleet.line("force t1 d1"), "d1 runs none of the versions that the task leads from");
    assert_eq!(fleet.line("strictly cancel t1 d1"), "done");
    assert_eq!(waiting(&fleet), 1);
    fleet.line("remove d2");
    assert_eq!(waiting(&fleet), 0);
}

#[test]
fn a_canceled_task_that_is_started_again_finishes_again() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 snapshot
         start t1
         d1 check 1.0
         cancel t1
         events
         start t1
         d2 check 1.0
         d2 report succeeded
         events
         cancel t1
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 snapshot: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            cancel t1: stopped
            events: task_created, task_started, task_stopped, task_finished
            start t1: started
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report succeeded: counted
            events: task_started, task_finished
            cancel t1: stopped
            events: task_stopped
        "#]],
    );
}

#[test]
fn what_an_operator_forces_after_the_end_runs_before_the_task_is_finished_again() {
    check_fleet(
        "tag d1 1.0 ring=a
         task 1.0 -> 2.0 ends=100
         start t1
         pass 100
         events
         retry t1 d1
         force t1 d1
         pass 1
         events
         d1 check 1.0
         d1 report failed
         events
         retry t1 d1
         d1 check 1.0
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            task 1.0 -> 2.0 ends=100: t1 stopped
            start t1: started
            pass 100: nothing due
            events: task_created, task_started, task_finished
            retry t1 d1: no upgrade "d1" here
            force t1 d1: done
            pass 1: nothing due
            events: 
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            events: task_finished
            retry t1 d1: done
            d1 check 1.0: no task
            events: 
        "#]],
    );
}

#[test]
fn a_task_whose_schedule_has_ended_is_finished_once_nothing_runs() {
    check_fleet(
        "task 1.0 -> 2.0 ends=100
         start t1
         d1 check 1.0
         pass 100
         events
         d2 check 1.0
         d1 report succeeded
         events",
        expect![[r#"
            task 1.0 -> 2.0 ends=100: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            pass 100: next in 7100 s
            events: task_created, task_started
            d2 check 1.0: no task
            d1 report succeeded: counted
            events: task_finished
        "#]],
    );
}

#[test]
fn strict_actions_are_refused_where_there_is_nothing_to_do() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 tag=a
         strictly stop t1
         strictly retry t1 d1
         strictly start t1
         strictly start t1
         strictly delete t1
         strictly retry t1 d1
         strictly cancel t1 d1 d9
         strictly cancel t1 d1
         strictly cancel t1 d1
         d2 check 1.0
         d2 report downloading
         strictly cancel t1 d2
         d2 report failed
         strictly retry t1 d2
         strictly retry t1 d2
         strictly stop t1
         strictly cancel t1 d2
         strictly delete t1",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 tag=a: t1 stopped
            strictly stop t1: task 000f42400000000000000000 is stopped already
            strictly retry t1 d1: task 000f42400000000000000000 is stopped; start it first
            strictly start t1: started
            strictly start t1: task 000f42400000000000000000 is started already
            strictly delete t1: task 000f42400000000000000000 is started; stop it first
            strictly retry t1 d1: the upgrade of d1 is waiting; only one that failed can be retried
            strictly cancel t1 d1 d9: no device "d9" here
            strictly cancel t1 d1: done
            strictly cancel t1 d1: the upgrade of d1 is canceled; it can't be canceled
            d2 check 1.0: offer: 1.0 -> 2.0
            d2 report downloading: counted
            strictly cancel t1 d2: the upgrade of d2 is downloading; it can't be canceled
            d2 report failed: counted
            strictly retry t1 d2: done
            strictly retry t1 d2: the upgrade of d2 is waiting; only one that failed can be retried
            strictly stop t1: stopped
            strictly cancel t1 d2: task 000f42400000000000000000 is stopped; start it first
            strictly delete t1: done
        "#]],
    );
}

#[test]
fn a_canceled_task_takes_everything_back_in_portions() {
    let mut fleet = Fleet::new(Limits::default());
    fleet.line("task 1.0 -> 2.0");
    fleet.line("start t1");
    for device in 0..2_500 {
        fleet.line(&format!("d{device} check 1.0"));
    }
    assert_eq!(fleet.line("cancel t1"), "stopped");
    assert_eq!(fleet.line("show t1"), "permits 1500, offered 1500, canceled 1000; succeeded ever 0, at start 2500");
    assert_eq!(fleet.line("pass 0"), "next in 0 s");
    assert_eq!(fleet.line("pass 0"), "nothing due");
    assert_eq!(fleet.line("show t1"), "permits 0, canceled 2500; succeeded ever 0, at start 2500");
    assert_eq!(fleet.line("d7 check 1.0"), "no task");
    assert_eq!(fleet.line("start t1"), "started");
    assert_eq!(fleet.line("d7 check 1.0"), "no task");
    assert_eq!(fleet.line("fresh check 1.0"), "offer: 1.0 -> 2.0");
}

#[test]
fn an_explanation_says_who_goes_before() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         tag d3 1.0 ring=a
         task 1.0 -> 2.0 cap=1 wave=2:100
         explain d3
         start t1
         d1 check 1.0
         d2 check 1.0
         d3 check 1.0
         explain d1
         explain d2
         explain d3
         explain d4",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            tag d3 1.0 ring=a: done
            task 1.0 -> 2.0 cap=1 wave=2:100: t1 stopped
            explain d3: the task is stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: wait: wave
            d3 check 1.0: wait: cap
            explain d1: offered in attempt 1, 0 %
            explain d2: held by wave: in wave 2, wave 1 is open; number 1 of 2 in the queue
            explain d3: held by cap: 1 of 1; number 2 of 2 in the queue
            explain d4: not there
        "#]],
    );
}

#[test]
fn a_forced_device_that_goes_elsewhere_after_the_end_keeps_no_task_open() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 ends=100 cap=1
         start t1
         force t1 d1
         pass 100
         events
         d1 check 3.0
         events",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 ends=100 cap=1: t1 stopped
            start t1: started
            force t1 d1: done
            pass 100: nothing due
            events: task_created, task_started
            d1 check 3.0: no task
            events: task_finished
        "#]],
    );
}

#[test]
fn what_a_device_outside_of_a_task_reports_decides_nothing_of_it() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=b
         task 1.0 -> 2.0 tag=a pause_at=10:1
         start t1
         d2 went 1.0 -> 2.0 failed
         show t1
         cancel t1 d2
         d1 check 1.0",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=b: done
            task 1.0 -> 2.0 tag=a pause_at=10:1: t1 stopped
            start t1: started
            d2 went 1.0 -> 2.0 failed: recorded without a task
            show t1: permits 0; succeeded ever 0, at start 2
            cancel t1 d2: no upgrade "d2" here
            d1 check 1.0: offer: 1.0 -> 2.0
        "#]],
    );
}

#[test]
fn a_snapshot_is_finished_also_when_the_last_that_waited_went_elsewhere() {
    check_fleet(
        "tag d1 1.0 ring=a
         task 1.0 -> 2.0 snapshot retry=5
         start t1
         d1 check 1.0
         d1 report failed
         events
         d1 check 3.0
         events
         explain d1",
        expect![[r#"
            tag d1 1.0 ring=a: done
            task 1.0 -> 2.0 snapshot retry=5: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            events: task_created, task_started
            d1 check 3.0: no task
            events: task_finished
            explain d1: 
        "#]],
    );
}

#[test]
fn a_success_after_a_resume_does_not_pause_again() {
    check_fleet(
        "task 1.0 -> 2.0 pause_at=10:3 retry=9
         start t1
         d1 check 1.0
         d2 check 1.0
         d3 check 1.0
         d1 report failed
         d2 report failed
         d3 report failed
         d4 check 1.0
         resume t1
         pass 60
         d1 check 1.0
         d1 report succeeded
         d4 check 1.0",
        expect![[r#"
            task 1.0 -> 2.0 pause_at=10:3 retry=9: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            d2 check 1.0: offer: 1.0 -> 2.0
            d3 check 1.0: offer: 1.0 -> 2.0
            d1 report failed: counted
            d2 report failed: counted
            d3 report failed: counted
            d4 check 1.0: wait: paused
            resume t1: started
            pass 60: nothing due
            d1 check 1.0: offer: 1.0 -> 2.0
            d1 report succeeded: counted
            d4 check 1.0: offer: 1.0 -> 2.0
        "#]],
    );
}

#[test]
fn a_no_for_two_devices_holds_though_the_first_cancels_the_task() {
    check_fleet(
        "tag d1 1.0 ring=a
         tag d2 1.0 ring=a
         task 1.0 -> 2.0 confirmation cancel_at=1:1
         start t1
         d1 check 1.0
         d2 check 1.0
         decline t1 d1 d2
         show t1
         retry t1 d1
         force t1 d2
         approve t1",
        expect![[r#"
            tag d1 1.0 ring=a: done
            tag d2 1.0 ring=a: done
            task 1.0 -> 2.0 confirmation cancel_at=1:1: t1 stopped
            start t1: started
            d1 check 1.0: wait: confirmation
            d2 check 1.0: wait: confirmation
            decline t1 d1 d2: done
            show t1: permits 0, rejected 1, canceled 1; succeeded ever 0, at start 2
            retry t1 d1: task 000f42400000000000000000 was canceled; start it first
            force t1 d2: task 000f42400000000000000000 was canceled; start it first
            approve t1: the task is stopped; it asks for no approval
        "#]],
    );
}

#[test]
fn a_start_jitter_longer_than_the_window_is_refused() {
    check_fleet(
        "task 1.0 -> 2.0 ends=100 opens=50 jitter=51
         task 1.0 -> 2.0 ends=100 opens=50 jitter=50",
        expect![[r#"
            task 1.0 -> 2.0 ends=100 opens=50 jitter=51: start_jitter_s is 51, the schedule's window 50 s; give less
            task 1.0 -> 2.0 ends=100 opens=50 jitter=50: t1 stopped
        "#]],
    );
}

#[test]
fn an_explanation_says_what_a_check_would() {
    check_fleet(
        "tag d1 1.0 ring=a
         task 1.0 -> 2.0 shared
         start t1
         d1 check 1.0
         task 1.0 -> 3.0 shared
         start t2
         explain d1
         d1 report succeeded
         d1 check 1.0
         tag d2 1.0 ring=a
         task 1.0 -> 4.0 shared repeat
         start t3
         d2 went 1.0 -> 4.0 ok
         tag d2 1.0 ring=a
         explain d2
         d2 check 1.0",
        expect![[r#"
            tag d1 1.0 ring=a: done
            task 1.0 -> 2.0 shared: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            task 1.0 -> 3.0 shared: t2 stopped
            start t2: started
            explain d1: runs its upgrade of task 000f42400000000000000000 first | offered in attempt 1, 0 %
            d1 report succeeded: counted
            d1 check 1.0: offer: 1.0 -> 3.0
            tag d2 1.0 ring=a: done
            task 1.0 -> 4.0 shared repeat: t3 stopped
            start t3: started
            d2 went 1.0 -> 4.0 ok: counted
            tag d2 1.0 ring=a: done
            explain d2: may begin as soon as it asks | may begin as soon as it asks | may begin as soon as it asks
            d2 check 1.0: offer: 1.0 -> 4.0
        "#]],
    );
}
