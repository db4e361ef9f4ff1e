//! What the state keeps beside its rows, at the turns where it is easily left behind: the next tick, a canceled task that isn't done
//! yet, a device with several upgrades, a device of which something else is told.

use super::script::{Fleet, check_fleet};
use crate::limits::Limits;
use crate::state::pacing::CANCEL_PORTION;
use crate::state::*;
use expect_test::expect;

#[test]
fn the_clock_is_told_when_a_schedule_ends() {
    check_fleet(
        "task 1.0 -> 2.0 ends=1000
         pass 0
         start t1
         pass 0
         pass 400
         pass 600
         events",
        expect![[r#"
            task 1.0 -> 2.0 ends=1000: t1 stopped
            pass 0: nothing due
            start t1: started
            pass 0: next in 1000 s
            pass 400: next in 600 s
            pass 600: nothing due
            events: task_created, task_started, task_finished
        "#]],
    );
}

#[test]
fn the_earlier_of_a_deadline_and_an_end_is_told() {
    check_fleet(
        "task 1.0 -> 2.0 ends=1000 timeout=300
         start t1
         d1 check 1.0
         pass 0
         pass 300",
        expect![[r#"
            task 1.0 -> 2.0 ends=1000 timeout=300: t1 stopped
            start t1: started
            d1 check 1.0: offer: 1.0 -> 2.0
            pass 0: next in 300 s
            pass 300: next in 700 s
        "#]],
    );
}

/// A task that was canceled while one device more was upgrading than one command cancels.
fn canceled_but_for_one() -> (Fleet, String) {
    let mut fleet = Fleet::new(Limits::default());
    fleet.line("task 1.0 -> 2.0 retry=3");
    fleet.line("start t1");
    let devices: Vec<String> = (0..=CANCEL_PORTION).map(|device| format!("d{device}")).collect();
    for device in &devices {
        assert_eq!(fleet.check(device, "1.0", &[]), "offer: 1.0 -> 2.0");
    }
    fleet.line("cancel t1");
    let left = fleet.state.unfinished(TaskNumber(0));
    assert_eq!(left.len(), 1, "the clock goes on with the rest");
    let left = left.min().and_then(|number| fleet.state.device_row(DeviceNumber(number))).map(|row| row.id.to_string());
    (fleet, left.unwrap())
}

#[test]
fn a_device_that_fails_in_a_canceled_task_does_not_try_again() {
    let (mut fleet, left) = canceled_but_for_one();
    assert_eq!(fleet.line(&format!("{left} report failed")), "counted");
    let task = TaskNumber(0);
    let failed = fleet.state.runs(task, &[UpgradeState::Failed]);
    assert_eq!((failed.len(), fleet.state.unfinished(task).len()), (1, 0));
    assert_eq!(fleet.line("pass 0"), "nothing due");
}

#[test]
fn a_canceled_task_that_is_deleted_leaves_the_clock_nothing_to_cancel() {
    let (mut fleet, _) = canceled_but_for_one();
    assert_eq!(fleet.state.canceling.len(), 1);
    assert_eq!(fleet.line("delete t1"), "done");
    assert!(fleet.state.canceling.is_empty());
    assert_eq!(fleet.line("pass 0"), "nothing due");
}

/// Lets a component of `d1` begin, and says by which upgrade.
fn begin(fleet: &mut Fleet, component: Component) -> UpgradeId {
    let rules = CheckRules { preview: false, only_while_started: false, register: true };
    let check = Command::Check { device: Fleet::device("d1"), component, version: "1.0".into(), rules };
    match fleet.apply(check) {
        Ok(Outcome::Decision(Decision::Offer(offer))) => offer.id.unwrap(),
        other => panic!("expected an offer, got {other:?}"),
    }
}

#[test]
fn a_device_is_upgrading_until_the_last_of_its_components_is_done() {
    let second = Component { component_type: 2, identify: 0 };
    let mut fleet = Fleet::new(Limits::default());
    for component in [Component::MAIN, second] {
        let artifact = Artifact { url: Some("http://elsewhere/f".into()), size: 1, md5: "m".into(), ..Artifact::default() };
        let new = NewTask {
            component,
            start: true,
            ..NewTask::new("o", "p", vec!["1.0".into()], TaskTarget::Artifact { version: "2.0".into(), artifact })
        };
        fleet.apply(Command::CreateTask { new: Box::new(new), register_product: true }).unwrap();
    }
    let upgrades = [begin(&mut fleet, Component::MAIN), begin(&mut fleet, second)];
    let upgrading = |fleet: &Fleet| fleet.state.device_sets("o").upgrading().len();
    assert_eq!(upgrading(&fleet), 1);
    for (upgrade, expected) in upgrades.into_iter().zip([1, 0]) {
        let device = Fleet::device("d1");
        let state = ReportedState::Succeeded;
        fleet.apply(Command::Report(Report { device, upgrade, state, percent: None, detail: None, code: None })).unwrap();
        assert_eq!(upgrading(&fleet), expected);
    }
}

#[test]
fn a_device_of_which_something_else_is_told_moves_between_scopes_lists_and_searches() {
    let mut fleet = Fleet::new(Limits::default());
    fleet.line("tag d1 1.0 ring=a");
    fleet.line("task 1.0 -> 2.0 shared tag=a");
    fleet.line("task 1.0 -> 2.0 shared tag=b");
    let look = |fleet: &Fleet| {
        let devices = fleet.state.device_sets("o");
        ["a", "b"].map(|ring| {
            let task = TaskNumber(u32::from(ring == "b"));
            let selector = Selector::Tags([("ring".into(), vec![ring.into()])].into());
            let to_come = fleet.state.to_come(fleet.state.task_entry(task).unwrap());
            let listed = fleet.state.runs(task, &[UpgradeState::Waiting]);
            [devices.selected("p", &selector).len(), to_come.len(), listed.len()]
        })
    };
    assert_eq!(look(&fleet), [[1; 3], [0; 3]]);
    fleet.line("tag d1 1.0 ring=b");
    assert_eq!(look(&fleet), [[0; 3], [1; 3]]);
    fleet.line("remove d1");
    assert_eq!(look(&fleet), [[0; 3], [0; 3]]);
}

#[test]
fn a_device_is_found_by_the_make_that_was_told_of_it_last() {
    let mut fleet = Fleet::new(Limits::default());
    let mut told = |model: &str| {
        let details = DeviceDetails { model: Some(model.into()), ..DeviceDetails::default() };
        let components = vec![(Component::MAIN, "1.0".to_owned())];
        let new = NewDevice { product_id: "p".into(), device_id: "d1".into(), components, details };
        fleet.apply(Command::PutDevices { organization: "o".into(), devices: vec![new], register_products: true }).unwrap();
        let devices = fleet.state.device_sets("o");
        ["first", "second"].map(|model| devices.with_model(model).len())
    };
    assert_eq!(told("first"), [1, 0]);
    assert_eq!(told("second"), [0, 1]);
}
