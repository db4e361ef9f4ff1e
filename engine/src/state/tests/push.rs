//! What is sent to devices that are connected, line by line.

use super::script::{check_fleet, check_fleet_with};
use crate::state::*;
use expect_test::expect;

#[test]
fn a_permit_that_is_given_back_goes_to_the_next_connected_device_at_once() {
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         d3 runs 1.0
         d4 runs 1.0
         connect d4
         connect d1
         connect d2
         task 1.0 -> 2.0 cap=1
         start t1
         sent
         d1 report succeeded
         sent
         disconnect d4
         d2 report failed
         sent
         connect d3
         sent
         d3 report succeeded
         connect d4
         sent
         show t1",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            d3 runs 1.0: done
            d4 runs 1.0: done
            connect d4: connected
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0 cap=1: t1 stopped
            start t1: started
            sent: d1
            d1 report succeeded: counted
            sent: d2
            disconnect d4: done
            d2 report failed: counted
            sent: nothing
            connect d3: connected
            sent: d3
            d3 report succeeded: counted
            connect d4: connected
            sent: d4
            show t1: permits 1, offered 1, succeeded 2, failed 1; succeeded ever 2, at start 2
        "#]],
    );
}

#[test]
fn a_device_that_connects_is_sent_what_is_due_to_it_and_one_that_has_gone_is_sent_nothing() {
    check_fleet(
        "task 1.0 -> 2.0
         start t1
         d1 runs 1.0
         d2 runs 1.0
         sent
         connect d1
         sent
         connect d1
         sent
         connect d2
         disconnect d2
         sent
         d2 report failed
         retry t1 d2
         sent
         connect d2
         sent",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            d1 runs 1.0: done
            d2 runs 1.0: done
            sent: nothing
            connect d1: connected
            sent: d1
            connect d1: connected
            sent: nothing
            connect d2: connected
            disconnect d2: done
            sent: d2
            d2 report failed: counted
            retry t1 d2: done
            sent: nothing
            connect d2: connected
            sent: d2
        "#]],
    );
}

#[test]
fn every_policy_holds_for_what_is_sent() {
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         d3 runs 1.0
         d4 runs 1.0
         connect d1
         connect d2
         connect d3
         connect d4
         task 1.0 -> 2.0 rate=1
         start t1
         sent
         d1 report succeeded
         sent
         pass 59
         sent
         pass 1
         sent
         pause t1
         pass 60
         sent
         resume t1
         sent
         stop t1
         pass 60
         sent
         start t1
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            d3 runs 1.0: done
            d4 runs 1.0: done
            connect d1: connected
            connect d2: connected
            connect d3: connected
            connect d4: connected
            task 1.0 -> 2.0 rate=1: t1 stopped
            start t1: started
            sent: d1
            d1 report succeeded: counted
            sent: nothing
            pass 59: next in 1 s
            sent: nothing
            pass 1: next in 60 s
            sent: d2
            pause t1: paused
            pass 60: next in 7140 s
            sent: nothing
            resume t1: started
            sent: d3
            stop t1: stopped
            pass 60: next in 7080 s
            sent: nothing
            start t1: started
            sent: d4
        "#]],
    );
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         connect d1
         connect d2
         task 1.0 -> 2.0 opens=100 ends=200
         start t1
         sent
         pass 99
         sent
         pass 1
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0 opens=100 ends=200: t1 stopped
            start t1: started
            sent: nothing
            pass 99: next in 1 s
            sent: nothing
            pass 1: next in 100 s
            sent: d1, d2
        "#]],
    );
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         connect d1
         connect d2
         task 1.0 -> 2.0 approval confirmation
         start t1
         sent
         approve t1
         sent
         show t1
         confirm t1 d2
         sent
         decline t1 d1
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0 approval confirmation: t1 stopped
            start t1: started
            sent: nothing
            approve t1: started
            sent: nothing
            show t1: permits 0, awaiting_confirmation 2; succeeded ever 0, at start 2
            confirm t1 d2: done
            sent: d2
            decline t1 d1: done
            sent: nothing
        "#]],
    );
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         d3 runs 1.0
         connect d1
         connect d2
         connect d3
         task 1.0 -> 2.0 wave=1:100 wave=2:100
         start t1
         sent
         d1 report succeeded
         d2 report succeeded
         d3 report succeeded
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            d3 runs 1.0: done
            connect d1: connected
            connect d2: connected
            connect d3: connected
            task 1.0 -> 2.0 wave=1:100 wave=2:100: t1 stopped
            start t1: started
            sent: d1
            d1 report succeeded: counted
            d2 report succeeded: no upgrade "00000009000000000000000000000009" here
            d3 report succeeded: no upgrade "00000009000000000000000000000009" here
            sent: d2, d3
        "#]],
    );
    check_fleet(
        "d1 runs 1.0
         connect d1
         task 1.0 -> 2.0 retry=1
         start t1
         sent
         d1 report failed
         sent
         pass 59
         sent
         pass 1
         sent
         d1 report timed_out
         sent
         pass 60
         sent
         show t1",
        expect![[r#"
            d1 runs 1.0: done
            connect d1: connected
            task 1.0 -> 2.0 retry=1: t1 stopped
            start t1: started
            sent: d1
            d1 report failed: counted
            sent: nothing
            pass 59: next in 1 s
            sent: nothing
            pass 1: next in 7200 s
            sent: d1
            d1 report timed_out: counted
            sent: nothing
            pass 60: nothing due
            sent: nothing
            show t1: permits 0, timed_out 1; succeeded ever 0, at start 1
        "#]],
    );
}

#[test]
fn a_forced_device_goes_before_those_that_wait_while_the_task_is_paused() {
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         connect d1
         connect d2
         task 1.0 -> 2.0 cap=1
         start t1
         sent
         pause t1
         force t1 d2
         sent
         d1 report succeeded
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0 cap=1: t1 stopped
            start t1: started
            sent: d1
            pause t1: paused
            force t1 d2: done
            sent: nothing
            d1 report succeeded: counted
            sent: d2
        "#]],
    );
}

#[test]
fn a_task_that_ends_leaves_its_waiting_devices_to_an_older_one() {
    check_fleet(
        "d1 runs 1.0
         d2 runs 1.0
         connect d1
         connect d2
         task 1.0 -> 2.0 shared
         task 1.0 -> 3.0 shared cap=1
         start t2
         sent
         start t1
         sent
         stop t2
         sent
         d1 report canceled
         sent
         show t2",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 1.0: done
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0 shared: t1 stopped
            task 1.0 -> 3.0 shared cap=1: t2 stopped
            start t2: started
            sent: d1
            start t1: started
            sent: nothing
            stop t2: stopped
            sent: d2
            d1 report canceled: counted
            sent: d1
            show t2: permits 0, canceled 1; succeeded ever 0, at start 2
        "#]],
    );
}

#[test]
fn a_task_that_is_deleted_leaves_its_waiting_devices_to_an_older_one() {
    check_fleet(
        "d1 runs 1.0
         connect d1
         task 1.0 -> 2.0 shared
         task 1.0 -> 3.0 shared approval
         start t2
         start t1
         sent
         delete t2
         sent",
        expect![[r#"
            d1 runs 1.0: done
            connect d1: connected
            task 1.0 -> 2.0 shared: t1 stopped
            task 1.0 -> 3.0 shared approval: t2 stopped
            start t2: started
            start t1: started
            sent: nothing
            delete t2: done
            sent: d1
        "#]],
    );
}

#[test]
fn the_permits_of_the_server_are_given_on_to_other_tasks() {
    check_fleet_with(
        Limits { permits_max: Some(1), ..Limits::default() },
        "d1 runs 1.0
         d2 runs 5.0
         connect d1
         connect d2
         task 1.0 -> 2.0
         task 5.0 -> 6.0
         start t1
         start t2
         sent
         d1 report succeeded
         sent",
        expect![[r#"
            d1 runs 1.0: done
            d2 runs 5.0: done
            connect d1: connected
            connect d2: connected
            task 1.0 -> 2.0: t1 stopped
            task 5.0 -> 6.0: t2 stopped
            start t1: started
            start t2: started
            sent: d1
            d1 report succeeded: counted
            sent: d2
        "#]],
    );
}

#[test]
fn a_gateway_and_what_is_attached_begin_together_or_one_after_the_other() {
    check_fleet(
        "dock runs 1.0
         drone runs 1.0
         connect dock drone
         task 1.0 -> 2.0 cap=2
         start t1
         sent
         dock report succeeded
         drone report succeeded
         sent
         dock runs 1.5
         drone runs 1.5
         task 1.5 -> 3.0 cap=1
         start t2
         sent
         dock report succeeded
         sent",
        expect![[r#"
            dock runs 1.0: done
            drone runs 1.0: done
            connect dock drone: connected
            task 1.0 -> 2.0 cap=2: t1 stopped
            start t1: started
            sent: dock, drone
            dock report succeeded: counted
            drone report succeeded: counted
            sent: nothing
            dock runs 1.5: done
            drone runs 1.5: done
            task 1.5 -> 3.0 cap=1: t2 stopped
            start t2: started
            sent: dock
            dock report succeeded: counted
            sent: drone
        "#]],
    );
}

#[test]
fn a_gateway_whose_busy_device_leaves_it_is_sent_its_own() {
    check_fleet(
        "d runs 1.0
         connect g d
         task 1.0 -> 2.0
         start t1
         sent
         g runs 1.0
         sent
         connect d
         sent",
        expect![[r#"
            d runs 1.0: done
            connect g d: connected
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            sent: d
            g runs 1.0: done
            sent: nothing
            connect d: connected
            sent: g
        "#]],
    );
}

#[test]
fn no_more_begin_together_than_one_message_tells() {
    check_fleet(
        "g runs 1.0
         d1 runs 1.0
         d2 runs 1.0
         connect g d1 d2
         task 1.0 -> 2.0
         start t1
         sent
         g report succeeded
         sent
         d1 report succeeded
         sent",
        expect![[r#"
            g runs 1.0: done
            d1 runs 1.0: done
            d2 runs 1.0: done
            connect g d1 d2: connected
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            sent: g, d1
            g report succeeded: counted
            sent: nothing
            d1 report succeeded: counted
            sent: d2
        "#]],
    );
}

#[test]
fn what_is_not_attached_is_not_sent_to_and_who_is_connected_elsewhere_is_not_taken_away() {
    check_fleet(
        "task 1.0 -> 2.0
         start t1
         drone runs 1.0
         connect dock
         sent
         connect dock drone
         sent
         connect other drone
         connect other dock
         connect dock
         connect other drone
         drone report failed
         retry t1 drone
         sent
         connect drone
         sent",
        expect![[r#"
            task 1.0 -> 2.0: t1 stopped
            start t1: started
            drone runs 1.0: done
            connect dock: connected
            sent: nothing
            connect dock drone: connected
            sent: drone
            connect other drone: refused: device drone is connected elsewhere
            connect other dock: refused: device dock is connected elsewhere
            connect dock: connected
            connect other drone: connected
            drone report failed: counted
            retry t1 drone: done
            sent: drone
            connect drone: connected
            sent: nothing
        "#]],
    );
}

#[test]
fn the_end_of_an_old_connection_does_not_end_a_newer_one() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    for line in ["d1 runs 1.0", "connect d1", "connect d1", "task 1.0 -> 2.0"] {
        fleet.line(line);
    }
    fleet.apply(Command::Disconnect { gateway: super::script::Fleet::device("d1"), epoch: 1 }).unwrap();
    assert_eq!(fleet.state.connected_devices(), 1);
    fleet.line("start t1");
    assert_eq!(fleet.line("sent"), "d1");
    fleet.line("disconnect d1");
    assert_eq!(fleet.state.connected_devices(), 0);
}

#[test]
fn of_two_connections_the_later_counts_in_whatever_order_they_are_told() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    let connect = |epoch| {
        let gateway = super::script::Fleet::device("d1");
        Command::Connect(Box::new(Connect {
            gateway,
            attached: Vec::new(),
            epoch,
            component: Component::MAIN,
            together_max: 2,
            register: true,
        }))
    };
    let members = |outcome: Result<Outcome, crate::error::Error>| match outcome {
        Ok(Outcome::Connected(connected)) => connected.members.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(members(fleet.apply(connect(2))), 1);
    assert_eq!(members(fleet.apply(connect(1))), 0);
    fleet.apply(Command::Disconnect { gateway: super::script::Fleet::device("d1"), epoch: 1 }).unwrap();
    assert_eq!(fleet.state.connected_devices(), 1);
}

#[test]
fn a_large_start_goes_on_with_the_clock_and_exceeds_no_cap() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    for number in 0..5_000 {
        fleet.line(&format!("d{number} runs 1.0"));
        fleet.line(&format!("connect d{number}"));
    }
    fleet.line("task 1.0 -> 2.0 cap=4000");
    fleet.line("start t1");
    for _ in 0..10 {
        fleet.line("pass 0");
    }
    assert_eq!(fleet.line("show t1"), "permits 4000, offered 4000; succeeded ever 0, at start 5000");
    assert_eq!(fleet.line("sent").split(", ").count(), 4_000);
    // One for one from here on, in the order of the devices.
    for number in 0..10 {
        fleet.line(&format!("d{number} report succeeded"));
        assert_eq!(fleet.line("sent"), format!("d{}", 4_000 + number));
    }
}

#[test]
fn what_a_failed_commit_took_back_is_sent_again() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    for line in ["d1 runs 1.0", "d2 runs 1.0", "connect d1", "connect d2", "task 1.0 -> 2.0 cap=1", "start t1"] {
        fleet.line(line);
    }
    assert_eq!(fleet.line("sent"), "d1");
    fleet.group_is_open = true;
    fleet.line("d1 report succeeded");
    fleet.state.undo_all();
    fleet.group_is_open = false;
    assert_eq!(fleet.line("show t1"), "permits 1, offered 1; succeeded ever 0, at start 2");
    fleet.line("d1 report succeeded");
    assert_eq!(fleet.line("sent"), "d2");
}

#[test]
fn a_device_whose_deletion_was_taken_back_is_connected_as_before() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    for line in ["g runs 1.0", "m runs 1.0", "n runs 1.0", "d runs 1.0", "connect g m n", "connect d", "task 1.0 -> 2.0 cap=9"] {
        fleet.line(line);
    }
    for removals in [&["g", "d"][..], &["m"], &["g", "m"], &["n", "m", "g"], &["d"]] {
        fleet.group_is_open = true;
        for device in removals {
            fleet.line(&format!("remove {device}"));
        }
        // What comes later in the group finds nobody there.
        assert!(fleet.state.connected_devices() < 4, "{removals:?}");
        fleet.state.undo_all();
        fleet.group_is_open = false;
        assert_eq!(fleet.state.connected_devices(), 4, "{removals:?}");
    }
    // Two at a time behind the gateway.
    fleet.line("start t1");
    assert_eq!(fleet.line("sent"), "g, m, d");
    fleet.line("remove n");
    fleet.line("remove d");
    assert_eq!(fleet.state.connected_devices(), 2);
}

#[test]
fn who_went_to_another_gateway_while_its_own_was_being_deleted_stays_there() {
    let mut fleet = super::script::Fleet::new(Limits::default());
    for line in ["g runs 1.0", "m runs 1.0", "h runs 1.0", "connect g m", "task 1.0 -> 2.0 cap=9"] {
        fleet.line(line);
    }
    fleet.group_is_open = true;
    fleet.line("remove g");
    assert_eq!(fleet.line("connect h m"), "connected");
    fleet.state.undo_all();
    fleet.group_is_open = false;
    assert_eq!(fleet.state.connected_devices(), 3);
    fleet.line("disconnect g");
    assert_eq!(fleet.state.connected_devices(), 2);
    fleet.line("disconnect h");
    assert_eq!(fleet.state.connected_devices(), 0);
}
