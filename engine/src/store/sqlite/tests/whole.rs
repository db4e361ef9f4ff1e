//! What is committed is what is read back, however the store was left.

use super::*;
use crate::model::{DeviceNumber, TaskNumber, UpgradeState};
use crate::store::{Key, Row};
use proptest::prelude::*;

/// What a random test does with a store.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, u32, u8)>),
    /// Until the tables have everything.
    Settle,
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..samples::KINDS, 0..5_u32, any::<u8>());
    prop_oneof![
        6 => proptest::collection::vec(change, 0..12).prop_map(Step::Commit),
        2 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_changes_reads_back_as_the_oracle_has_it(steps in proptest::collection::vec(step(), 1..24)) {
        let mut folder = tempfile::tempdir().unwrap();
        let mut store = Some(open(folder.path()));
        let mut memory = MemoryStore::new(0);
        let mut number = 0;
        for step in steps.into_iter().chain([Step::Crash, Step::Settle]) {
            match step {
                Step::Commit(changes) => {
                    number += 1;
                    let changes: Vec<Change> = changes.iter().map(|(kind, n, variation)| samples::change(*kind, *n, *variation)).collect();
                    memory.commit(&group(number, changes.clone())).unwrap();
                    store.as_mut().unwrap().commit(number, changes);
                    continue;
                }
                Step::Settle => {
                    let query = UpgradeQuery { limit: usize::MAX, ..UpgradeQuery::default() };
                    let archive = &store.as_ref().unwrap().archive;
                    prop_assert_eq!(archive.upgrades(&query, number).unwrap(), memory.upgrades(&query, number).unwrap());
                    prop_assert_eq!(archive.events(2, 3, number).unwrap(), memory.events(2, 3, number).unwrap());
                    continue;
                }
                Step::Reopen => drop(store.take()),
                Step::Crash => {
                    let copy = crash(folder.path());
                    drop(store.take());
                    folder = copy;
                }
            }
            let reopened = store.insert(open(folder.path()));
            let mut expected = Vec::new();
            let (_, _, stands) = memory.open(&mut |row| expected.push(row)).unwrap();
            prop_assert_eq!(&reopened.loaded, &expected);
            prop_assert_eq!(reopened.opened.last_group, number);
            prop_assert_eq!(reopened.opened.last_event_sequence, stands.last_event_sequence);
            prop_assert_eq!(reopened.opened.next, stands.next);
            prop_assert_eq!(reopened.opened.first_event_sequence, stands.first_event_sequence);
        }
    }
}

#[test]
fn rows_of_every_kind_read_back_from_the_tables_and_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    assert_eq!((store.loaded.len(), store.opened.last_group, store.opened.last_event_sequence), (0, 0, 0));
    store.commit(1, samples::every_kind());
    let expected = oracle(&[samples::every_kind()]);
    let crashed = crash(folder.path());
    assert_eq!(open(crashed.path()).loaded, expected, "from the log");
    store.settle(1);
    let crashed = crash(folder.path());
    assert_eq!(open(crashed.path()).loaded, expected, "from the tables");
    let named = store.opened.store;
    drop(store);
    let reopened = open(folder.path());
    assert_eq!(reopened.loaded, expected);
    assert_eq!((reopened.opened.store, reopened.opened.last_group, reopened.opened.last_event_sequence), (named, 1, 2));
}

#[test]
fn a_range_deletion_takes_what_came_before_it_and_leaves_what_came_after() {
    let put = |task, device| Change::Put(samples::upgrade(task, device, 2));
    let before = vec![put(1, 1), put(1, 2), put(2, 1), put(2, 2), put(u32::MAX, 3)];
    let ranges = vec![
        put(1, 3),
        Change::Delete(Key::UpgradesOfTask(TaskNumber(1))),
        put(1, 2),
        Change::Delete(Key::UpgradesOfDevice(DeviceNumber(2))),
        put(2, 2),
        Change::Delete(Key::UpgradesOfTask(TaskNumber(u32::MAX))),
        put(u32::MAX, u32::MAX),
        Change::Put(samples::event(1, 0)),
        Change::Put(samples::event(2, 0)),
        Change::Delete(Key::EventsBefore(2)),
        Change::Put(samples::event(3, 0)),
    ];
    let expected: Vec<Loaded> = [
        samples::upgrade(2, 1, 2),
        samples::upgrade(2, 2, 2),
        samples::upgrade(u32::MAX, u32::MAX, 2),
        samples::event(2, 0),
        samples::event(3, 0),
    ]
    .map(Loaded::Row)
    .into();
    for settled_between in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        store.commit(1, before.clone());
        if settled_between {
            store.settle(1);
        }
        store.commit(2, ranges.clone());
        drop(store);
        assert_eq!(open(folder.path()).loaded, expected, "settled between: {settled_between}");
    }
}

#[test]
fn a_sequence_number_is_not_used_again_after_its_event_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, vec![Change::Put(samples::event(41, 0)), Change::Delete(Key::EventsBefore(100))]);
    drop(store);
    let reopened = open(folder.path());
    assert!(reopened.loaded.is_empty());
    assert_eq!(reopened.opened.last_event_sequence, 41);
}

#[test]
fn only_the_newest_events_are_handed_over_and_older_ones_are_read_from_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let last = crate::store::LOADED_EVENTS_MAX as u64 + 10;
    store.commit(1, (1..=last).map(|sequence| Change::Put(samples::event(sequence, 0))).collect());
    drop(store);
    let reopened = open(folder.path());
    let sequences: Vec<u64> = reopened
        .loaded
        .iter()
        .map(|loaded| match loaded {
            Loaded::Row(Row::Event(event)) => event.sequence,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sequences, (11..=last).collect::<Vec<_>>());
    let old: Vec<u64> = reopened.archive.events(3, 2, 1).unwrap().iter().map(|event| event.sequence).collect();
    assert_eq!(old, [3, 4]);
}

#[test]
fn upgrades_are_selected_by_task_device_state_and_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let mut memory = MemoryStore::new(0);
    let changes: Vec<Change> = (0..200_u32).map(|n| Change::Put(samples::upgrade(n % 5, n / 5, n as u8))).collect();
    memory.commit(&group(1, changes.clone())).unwrap();
    store.commit(1, changes);
    for task in [None, Some(TaskNumber(3)), Some(TaskNumber(9))] {
        for device in [None, Some(DeviceNumber(7))] {
            for after in [None, Some(DeviceNumber(5)), Some(DeviceNumber(7))] {
                for states in [vec![], vec![UpgradeState::Succeeded, UpgradeState::Waiting]] {
                    for limit in [0, 7, usize::MAX] {
                        let query = UpgradeQuery { task, device, after, states: states.clone(), limit };
                        assert_eq!(store.archive.upgrades(&query, 1).unwrap(), memory.upgrades(&query, 1).unwrap(), "{query:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_reader_sees_the_group_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    for number in 1..=50 {
        store.commit(number, vec![Change::Put(samples::event(number, 0))]);
        assert_eq!(store.archive.events(number, 9, number).unwrap().len(), 1);
    }
}

#[test]
fn a_reader_is_told_when_its_group_will_never_come() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let archive = Arc::clone(&store.archive);
    let reader = std::thread::spawn(move || archive.events(0, 1, 1));
    drop(store);
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy);
    assert!(error.message.contains("the store is closed"), "{error}");
}

#[test]
fn groups_leave_the_log_once_the_tables_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    for number in 1..=20 {
        store.commit(number, vec![Change::Put(samples::product(1, number as u8))]);
    }
    store.settle(20);
    for number in 21..=25 {
        store.commit(number, vec![Change::Put(samples::product(1, number as u8))]);
    }
    assert!(count(folder.path(), log::FILE, "log") <= 5, "the first twenty are gone");
    drop(store);
    let reopened = open(folder.path());
    assert_eq!(count(folder.path(), log::FILE, "log"), 0);
    assert_eq!(reopened.loaded, [Loaded::Row(samples::product(1, 25))]);
}

#[test]
fn a_folder_is_opened_once_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = refusal(folder.path());
    assert_eq!(error.kind, StoreErrorKind::InUse);
    assert!(error.message.contains(&folder.path().display().to_string()), "{error}");
    drop(store);
    open(folder.path());
}

#[test]
fn a_new_folder_and_its_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("made/anew");
    let store = open(&folder);
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    drop(store);
}

#[test]
fn two_stores_have_different_names() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(open(one.path()).opened.store, open(other.path()).opened.store);
}

#[test]
fn a_backup_of_a_store_in_use_is_a_whole_store() {
    let folder = tempfile::tempdir().unwrap();
    let restored = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.commit(1, samples::every_kind());
    let to = restored.path().join(tables::FILE);
    store.archive.backup(&to).unwrap();
    store.commit(2, vec![Change::Put(samples::product(9, 9))]);
    let again = store.archive.backup(&to).unwrap_err();
    assert!(again.message.contains("making the backup file"), "a backup is never written over: {again}");
    let names: Vec<_> = std::fs::read_dir(restored.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [tables::FILE], "one file and nothing beside it");
    let mut reopened = open(restored.path());
    assert_eq!(reopened.loaded, oracle(&[samples::every_kind()]));
    assert_eq!(
        (reopened.opened.store, reopened.opened.last_group, reopened.opened.last_event_sequence),
        (store.opened.store, 1, 2)
    );
    reopened.commit(2, vec![]);
}
